"""Our module's panel, clicked through: every case of its reader, from Next to Submit.

Runs in the environment of slicer-core, with the arguments URL READER FOLDER MODULE_FOLDER.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.viewers.landmarks import drawn, positions
from tests.viewers.slicer_side.facts import (
    draw,
    ijk_array,
    ijk_to_ras,
    segment_array,
    segment_names,
    write_facts,
)
from tests.viewers.slicer_side.host import Host, add_slice_views, nodes, real_qt, start_host

PATIENCE_S = 300


class Reader:
    """Someone at the panel."""

    def __init__(self, host: Host, application: Any, widget: Any) -> None:
        self.host, self.application, self.widget = host, application, widget
        self.panel = widget.panel

    def wait(self, until: Any) -> None:
        """Let Qt's event loop run, timers included, until something is the case."""
        deadline = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < deadline, f"nothing came of it; the panel says: {self.says()}"
            self.application.processEvents()
            time.sleep(0.005)

    def press(self, button: Any) -> None:
        """Click, and wait for what comes of it."""
        button.click()
        self.wait(lambda: not self.widget.work.busy)

    def says(self) -> str:
        return str(self.panel.message.text)

    def views(self) -> list[float]:
        """The offsets of the slice views in mm."""
        return [round(view.GetSliceOffset(), 3) for view in nodes("vtkMRMLSliceNode")]


def one_case(reader: Reader, folder: Path) -> dict[str, Any]:
    """Open, segment, look around, correct, submit."""
    panel, session = reader.panel, reader.widget.session
    case, scene = session.case, session.scene
    image = ijk_array(scene.image)
    reader.press(panel.segment)
    label = segment_array(scene.segmentation, "foreground", scene.image)
    walked = [reader.views()]
    while session.place != session.places[-1]:
        panel.next_slice.click()
        walked.append(reader.views())
    panel.previous_slice.click()
    back = reader.views()
    inside = drawn(positions(ijk_to_ras(scene.image), image.shape))
    draw(scene.segmentation, "foreground", scene.image, inside)
    edited = scene.has_edits()
    panel.comment.text = f"checked {case}"
    layers = nodes("vtkMRMLSliceCompositeNode")[0]
    shown = scene.uncertainty.GetDisplayNode()
    facts = {
        "case": case,
        "segments": segment_names(scene.segmentation),
        "model_version": session.model_version,
        "places": [tuple(place) for place in session.places],
        "walked": walked,
        "back": back,
        "edited": edited,
        "background": layers.GetBackgroundVolumeID() == scene.image.GetID(),
        "foreground": layers.GetForegroundVolumeID() == scene.uncertainty.GetID(),
        "opacity": layers.GetForegroundOpacity(),
        "threshold": shown.GetLowerThreshold(),
        "colors": shown.GetColorNode().GetName(),
        "window": [shown.GetWindowLevelMin(), shown.GetWindowLevelMax()],
    }
    write_facts(
        folder,
        case,
        image=image,
        image_to_ras=ijk_to_ras(scene.image),
        label=label,
        uncertainty=ijk_array(scene.uncertainty),
        uncertainty_to_ras=ijk_to_ras(scene.uncertainty),
        drawn=inside,
    )
    reader.press(panel.submit)
    return {**facts, "submitted": reader.says(), "edited_after": scene.has_edits()}


def hesitate(reader: Reader) -> dict[str, Any]:
    """What is not done without a question, and a lease that gets lost; the case is open and empty."""
    widget, panel, host = reader.widget, reader.panel, reader.host
    session, scene = widget.session, widget.session.scene
    host.answer = False
    reader.press(panel.submit)  # empty
    segments, image = scene.segmentation.GetSegmentation(), scene.image
    for name in ("foreground", "another"):
        segments.AddEmptySegment(name, name)
        draw(scene.segmentation, name, image, np.ones(ijk_array(image).shape, bool))
    reader.press(panel.next_button)
    reader.press(panel.segment)
    host.answer = True
    reader.press(panel.submit)
    overlap = host.errors.pop() if host.errors else ""
    segments.RemoveSegment("another")
    session.client.release(session.case)
    session._renewed_at, widget.looked_at = -1e9, 0.0  # it is time to renew, and to look
    reader.wait(lambda: "another reader may get it" in reader.says())
    questions, host.questions[:] = list(host.questions), []
    return {"asked": questions, "overlap": overlap, "lost": reader.says(), "still": session.case}


def loop(reader: Reader, url: str, name: str, folder: Path) -> dict[str, Any]:
    """The whole journey."""
    panel = reader.panel
    panel.url.text, panel.reader.text = url, name
    panel.connect_button.click()
    reader.wait(lambda: panel.learning.text)
    status = panel.learning.text
    panel.opacity_slider.value = 70
    cases: list[dict[str, Any]] = []
    reader.press(panel.next_button)
    hesitation = hesitate(reader)
    while reader.widget.session.answer["lease"]:  # none: this case is another reader's
        cases.append(one_case(reader, folder))
        reader.press(panel.next_button)
    reader.widget.session.client.start_round()
    reader.widget.looked_at = 0.0  # as after a submission, which starts rounds by itself elsewhere
    reader.wait(lambda: "Round r0002 " in panel.learning.text)
    running = panel.learning.text
    reader.wait(lambda: panel.round_progress.isHidden())
    return {
        "status": status,
        "running": running,
        "finished": panel.learning.text,
        "announced": reader.says(),
        **hesitation,
        "cases": cases,
        "errors": reader.host.errors,
        "questions": reader.host.questions,
    }


def main() -> None:
    url, name, folder, module_folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    sys.path.insert(0, module_folder)
    host = start_host()
    application = real_qt(folder, "UGMCLAssist", "UGMCLAssistLib.panel", __name__)
    add_slice_views(host)
    import UGMCLAssist

    widget = UGMCLAssist.UGMCLAssistWidget()
    widget.setup()
    widget.enter()
    reader = Reader(host, application, widget)
    try:
        facts = loop(reader, url, name, folder)
        widget.window.resize(420, 900)
        widget.window.grab().save(str(folder / "panel.png"))
    finally:
        widget.exit()
        widget.cleanup()
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
