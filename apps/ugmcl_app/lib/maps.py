"""maps: the one uncertainty map kept of each case, with the model version that made it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .pool import Signature
from .volumes import read_voxels, write_map
from .workspace import Workspace, file_name_of, read_json, write_json_atomic


class StoredMap(NamedTuple):
    """A kept map.

    Attributes:
        path: `.nii.gz`, float32 in [0, 1] on the image's grid.
        model_version: The model that made it.
        mc_samples: Its Monte Carlo passes.
        summary: `UncertaintySummary.to_dict()` of it.
    """

    path: Path
    model_version: str
    mc_samples: int
    summary: dict[str, Any]


class MapStore:
    """One map a case under `<workspace>/maps/`, replaced by the next. Thread-safe."""

    def __init__(self, workspace: Workspace) -> None:
        self._folder = workspace.maps
        self._lock = threading.Lock()

    def find(self, image_id: str, image: Path) -> StoredMap | None:
        """The map of a case, if it was made of the image file as it is now."""
        stored = read_json(self._file(image_id, ".json"), None)
        path = self._file(image_id, ".nii.gz")
        if not isinstance(stored, dict) or not path.exists():
            return None
        if stored.get("image") != list(Signature.of(image) or ()):
            return None
        return StoredMap(path, stored["model_version"], stored["mc_samples"], stored["summary"])

    def keep(
        self,
        image_id: str,
        image: Path,
        values: NDArray[np.float32],
        affine: NDArray[np.float64],
        model_version: str,
        summary: dict[str, Any],
        seed: int = 0,
    ) -> StoredMap:
        """Make a map the one of its case.

        Args:
            image_id: The case.
            image: Its file.
            values: `(X, Y, Z)` float32 in [0, 1].
            affine: Of the image, voxel index to RAS mm.
            model_version: The model that made it.
            summary: `UncertaintySummary.to_dict()` of it.
            seed: Of its dropout masks.
        """
        path = self._file(image_id, ".nii.gz")
        with self._lock:
            # The description goes first and comes last: a map is never described by another one's numbers.
            self._file(image_id, ".json").unlink(missing_ok=True)
            self._file(image_id, ".nrrd").unlink(missing_ok=True)
            write_map(path, values, affine)
            described = {
                "id": image_id,
                "model_version": model_version,
                "mc_samples": summary["mc_samples"],
                "seed": seed,
                "summary": summary,
                "image": list(Signature.of(image) or ()),
            }
            write_json_atomic(self._file(image_id, ".json"), described)
        return StoredMap(path, model_version, summary["mc_samples"], summary)

    def as_nrrd(self, image_id: str) -> Path:
        """The kept map as `.nrrd`, converted once."""
        path = self._file(image_id, ".nrrd")
        with self._lock:
            if not path.exists():
                write_map(path, *read_voxels(self._file(image_id, ".nii.gz")))
        return path

    def _file(self, image_id: str, suffix: str) -> Path:
        return self._folder / (file_name_of(image_id) + suffix)
