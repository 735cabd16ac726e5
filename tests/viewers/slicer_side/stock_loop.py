"""The stock MONAI Label module's own code: every case of its reader, from Next Sample to Submit Label.

Runs in the environment of slicer-core, with the arguments URL READER FOLDER MODULE_FOLDER.
"""

from __future__ import annotations

import json
import sys
import time
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import SimpleITK as sitk  # noqa: N813 - its usual name
import slicer

from tests.viewers.landmarks import drawn, positions
from tests.viewers.slicer_side.facts import (
    ijk_array,
    ijk_to_ras,
    segment_array,
    segment_names,
    write_facts,
)
from tests.viewers.slicer_side.host import (
    Host,
    add_slice_views,
    file_functions,
    mock_qt,
    module_base_classes,
    start_host,
)

BANDS = ["low", "medium", "high"]
PATIENCE_S = 300


def stock_widget(url: str, folder: Path) -> Any:
    """The module's widget with a mocked user interface; its methods and its logic are the stock ones."""
    import MONAILabel

    widget = MONAILabel.MONAILabelWidget(None)
    widget.ui = MagicMock(name="ui")
    widget.parent = MagicMock(name="parent")
    widget.ui.strategyBox = types.SimpleNamespace(currentText="most_uncertain")
    widget.ui.trainerBox = types.SimpleNamespace(currentText="ugmcl")
    widget.ui.segmentationModelSelector = types.SimpleNamespace(currentText="ugmcl", currentIndex=0)
    widget.ui.serverComboBox.currentText = url
    for box in (widget.ui.optionsSection, widget.ui.optionsName):  # no option was touched
        box.currentIndex = -1
        box.itemText.return_value = ""
    widget.tmpdir = str(folder)
    widget.logic = MONAILabel.MONAILabelLogic(tmpdir=str(folder / "downloads"), server_url=url)
    (folder / "downloads").mkdir()
    scene = slicer.mrmlScene
    widget.addObserver(scene, scene.StartCloseEvent, widget.onSceneStartClose)  # as its `setup` does
    widget.fetchInfo()
    return widget


def one_case(widget: Any, folder: Path) -> dict[str, Any]:
    """Segment, look at the bands, correct, submit, and fetch what was kept."""
    case, volume = widget.current_sample["id"], widget._volumeNode
    image, to_ras = ijk_array(volume), ijk_to_ras(volume)
    widget.ui.segmentationModelSelector.currentText = "ugmcl_uncertainty"
    widget.onClickSegmentation()
    node = widget._segmentNode
    bands = {name: segment_array(node, name, volume) for name in BANDS}
    names = segment_names(node)
    for name in BANDS:
        node.GetSegmentation().RemoveSegment(node.GetSegmentation().GetSegmentIdBySegmentName(name))
    widget.ui.segmentationModelSelector.currentText = "ugmcl"
    widget.onClickSegmentation()
    label = segment_array(node, "foreground", volume)
    inside = drawn(positions(to_ras, image.shape))
    widget.updateSegmentationMask(_mask_file(folder / f"{case}.nrrd", inside, widget), ["foreground"])
    widget.onSaveLabel()
    kept = sitk.ReadImage(widget.logic.download_label(case, "final"))
    write_facts(
        folder,
        case,
        image=image,
        image_to_ras=to_ras,
        label=label,
        drawn=inside,
        kept=sitk.GetArrayFromImage(kept).transpose(2, 1, 0),
        **bands,
    )
    return {"case": case, "segments": names, "corner": kept.GetOrigin()}


def _mask_file(path: Path, inside: Any, widget: Any) -> str:
    """A mask on the scan's grid, for the stock import of labels."""
    scan = sitk.ReadImage(widget.current_sample["path"])
    mask = sitk.GetImageFromArray(inside.astype("uint8").transpose(2, 1, 0))
    mask.CopyInformation(scan)
    sitk.WriteImage(mask, str(path))
    return str(path)


def watch_training(widget: Any) -> list[float]:
    """Start Training, and the progress bar's values until the module says that it is over."""
    widget.onTraining()
    widget.timer = MagicMock(name="timer")
    deadline = time.monotonic() + PATIENCE_S
    while widget.timer is not None:
        assert time.monotonic() < deadline, "the round did not end"
        time.sleep(0.5)
        widget.monitorTraining()
    return [call.args[0] for call in widget.ui.trainingProgressBar.setValue.call_args_list]


def loop(widget: Any, host: Host, folder: Path) -> dict[str, Any]:
    cases: list[dict[str, Any]] = []
    widget.onNextSampleButton()
    while widget.current_sample["id"].startswith("stock_"):
        cases.append(one_case(widget, folder))
        widget.onNextSampleButton()  # closes the scene first
    return {
        "models": sorted(widget.models),
        "cases": cases,
        "training": watch_training(widget),
        "errors": host.errors,
        "told": host.told,
    }


def main() -> None:
    url, name, folder, module_folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    sys.path.insert(0, module_folder)
    host = start_host()
    mock_qt({"MONAILabel/clientId": name, "MONAILabel/autoRunSegmentationOnNextSample": False})
    module_base_classes()
    file_functions(host)
    add_slice_views(host)
    facts = loop(stock_widget(url, folder), host, folder)
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
