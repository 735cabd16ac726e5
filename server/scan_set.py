"""A set of labeled scans on disk, split into a pool and test cases, as the measurements read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from ugmcl.config import Config
from ugmcl.experiment import read_record
from ugmcl.presets import preset_for_scans, with_settings
from ugmcl.sampling import LoadCase, TrainingCase
from ugmcl.volume import Volume


class Dataset(NamedTuple):
    """Case ids in the order of split.json, and their files."""

    folder: Path
    pool: list[str]
    test: list[str]

    def cases(self, ids: Sequence[str]) -> list[TrainingCase]:
        """References to labeled cases."""
        images, labels = self.folder / "images", self.folder / "labels"
        return [TrainingCase(i, str(images / f"{i}.nii.gz"), str(labels / f"{i}.nii.gz")) for i in ids]

    def unlabeled(self, ids: Sequence[str]) -> list[TrainingCase]:
        """References to the same cases without their labels."""
        return [TrainingCase(case.id, case.image) for case in self.cases(ids)]


class Loader:
    """Reads cases, each file once; "binary" merges all labels."""

    def __init__(self, merge: bool) -> None:
        self._merge = merge
        self._read: dict[str, tuple[NDArray[Any], NDArray[np.float64]]] = {}

    def __call__(self, case: TrainingCase) -> tuple[Volume, NDArray[np.uint8] | None]:
        """The scan and, for a labeled case, its label.

        Raises:
            ValueError: If a file cannot be read.
        """
        array, affine = self._file(case.image)
        volume = Volume(array.astype(np.float32), affine)
        if case.label is None:
            return volume, None
        label = self._file(case.label)[0]
        return volume, ((label > 0) if self._merge else label).astype(np.uint8)

    def _file(self, path: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
        if path not in self._read:
            try:
                image: Any = nibabel.load(path)
                self._read[path] = np.asarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
            except (OSError, EOFError, ImageFileError) as error:
                raise ValueError(f"{Path(path).name} cannot be read ({type(error).__name__}).") from error
        return self._read[path]


def read_dataset(folder: Path) -> Dataset:
    """The set in `folder`: images/, labels/ and split.json with `pool` and `test`.

    Raises:
        ValueError: If split.json is not there.
    """
    split = read_record(folder / "split.json")
    if split is None or not {"pool", "test"} <= set(split):
        raise ValueError(f"{folder} has no split.json with 'pool' and 'test'; name the folder with --data.")
    return Dataset(folder, list(split["pool"]), list(split["test"]))


def base_config(
    labels: tuple[str, ...], pool: list[TrainingCase], load: LoadCase, settings: list[str]
) -> Config:
    """The default preset for the pool's scans, changed by `section.name=value` settings."""
    config = preset_for_scans("default", labels, (load(case)[0] for case in pool), "cpu")
    return with_settings(config, settings)
