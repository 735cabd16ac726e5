"""drafts: what a model last said of each case, for looking at: its segmentation, its uncertainty, its worst
slice.

Every inference leaves one, and scoring one of each of the least sure cases, so that a page can show them, and
a viewer have them, without asking the model again.
"""

from __future__ import annotations

import io
import json
import logging
import threading
import uuid
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ugmcl.inference import Prediction
from ugmcl.intensities import display_window, windowed
from ugmcl.volume import Volume

from .pool import scan_version
from .workspace import Workspace, file_name_of, write_file_atomic

logger = logging.getLogger(__name__)

_LAYERS = ("segmentation", "uncertainty")
_PICTURE = ("image", *_LAYERS)


class WorstSlice(NamedTuple):
    """The least sure slice of a case.

    Attributes:
        axis: Axis of the file's voxel order that the slice is across.
        place: Its index along that axis.
        image: The scan there, uint8 in the display window; the two axes left, in the file's order.
        segmentation: Class values there, uint8.
        uncertainty: There, uint8, 255 for 1.
    """

    axis: int
    place: int
    image: NDArray[np.uint8]
    segmentation: NDArray[np.uint8]
    uncertainty: NDArray[np.uint8]


class Draft:
    """A kept draft; arrays are read from its file when they are asked for.

    Attributes:
        model_version: The model that made it.
        key: Changes when the draft does.
        affine, shape: Of the scan.
    """

    def __init__(self, file: Path, about: dict[str, Any]) -> None:
        self.model_version = str(about["model_version"])
        self.key = str(about["key"])
        self.affine: NDArray[np.float64] = np.asarray(about["affine"], np.float64)
        x, y, z = about["shape"]
        self.shape: tuple[int, int, int] = (int(x), int(y), int(z))
        self._about, self._file = about, file

    def segmentation(self) -> NDArray[np.uint8]:
        """Class values `(X, Y, Z)` on the scan's grid; OSError, ValueError or KeyError for a damaged file."""
        try:
            (found,) = _arrays(self._file, ("segmentation",))
        except zipfile.BadZipFile as error:
            raise ValueError(f"The draft {self._file.name} is damaged.") from error
        return found

    def volumes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Class values, and uncertainty with 255 for 1, both `(X, Y, Z)` uint8 on the scan's grid."""
        segmentation, uncertainty = _arrays(self._file, _LAYERS)
        return segmentation, uncertainty

    def worst_slice(self) -> WorstSlice:
        """The least sure slice."""
        image, segmentation, uncertainty = _arrays(self._file, tuple(f"slice_{name}" for name in _PICTURE))
        return WorstSlice(self._about["axis"], self._about["place"], image, segmentation, uncertainty)


class DraftStore:
    """One draft a case under `<workspace>/drafts/`, replaced by the next. Thread-safe."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()

    def find(self, image_id: str, image: Path) -> Draft | None:
        """The draft of a case, if it was made of the image file as it is now, or as it was when it was last
        on this disk, and can be read."""
        file = self._file(image_id)
        try:
            with zipfile.ZipFile(file) as packed:
                about = json.loads(packed.read("about.json"))
            draft = Draft(file, about)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None
        return draft if scan_version(image) in ("", about.get("scan")) else None

    def keep(self, image_id: str, image: Path, volume: Volume, prediction: Prediction, version: str) -> None:
        """Make a prediction the draft of its case; if it cannot be written, the case keeps the one it has."""
        try:
            with self._lock:
                write_draft(self._file(image_id), image, volume, prediction, version)
        except OSError:  # e.g. a full disk: no reason to fail the inference behind it
            logger.warning("The draft of a case could not be written.")

    def take(self, image_id: str, file: Path) -> None:
        """Make a file that `write_draft` wrote, on the same file system, the draft of its case."""
        self._workspace.drafts.mkdir(parents=True, exist_ok=True)
        with self._lock:
            file.replace(self._file(image_id))

    def _file(self, image_id: str) -> Path:
        return draft_file(self._workspace, image_id)


def draft_file(workspace: Workspace, image_id: str) -> Path:
    """Where the draft of a case is, if there is one."""
    return workspace.drafts / (file_name_of(image_id) + ".zip")


def write_draft(file: Path, image: Path, volume: Volume, prediction: Prediction, version: str) -> None:
    """Write a draft atomically.

    Args:
        file: Where to.
        image: The scan's file, which the draft is good for as long as it stays as it is.
        volume: The scan.
        prediction: Of the scan, with its uncertainty.
        version: The model that made it.
    """
    assert prediction.uncertainty is not None
    assert prediction.summary is not None
    layers = {
        "segmentation": prediction.labels,
        "uncertainty": np.rint(prediction.uncertainty * 255).astype(np.uint8),
    }
    worst = next(iter(prediction.summary.top_slices), {"axis": 2, "index": volume.array.shape[2] // 2})
    axis, place = int(worst["axis"]), int(worst["index"])
    shown = windowed(np.take(volume.array, place, axis), display_window(volume.array))
    pieces = {"image": shown, **{name: np.take(layer, place, axis) for name, layer in layers.items()}}
    content = {**layers, **{f"slice_{name}": piece for name, piece in pieces.items()}}
    about = {
        "model_version": version,
        "key": uuid.uuid4().hex,
        "scan": scan_version(image),
        "affine": volume.affine.tolist(),
        "shape": list(volume.array.shape),
        "axis": axis,
        "place": place,
    }

    def write(temporary: Path) -> None:
        # Level 1: both are mostly one value, and a worker should not spend its time on packing.
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            packed.writestr("about.json", json.dumps(about))
            for name, array in content.items():
                with packed.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)

    write_file_atomic(file, write)


def _arrays(file: Path, names: tuple[str, ...]) -> list[NDArray[np.uint8]]:
    with zipfile.ZipFile(file) as packed:
        return [
            np.lib.format.read_array(io.BytesIO(packed.read(f"{name}.npy")), allow_pickle=False)
            for name in names
        ]
