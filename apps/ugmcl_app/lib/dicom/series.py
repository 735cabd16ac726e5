"""series: the instances of one MR or CT series as a volume, and which instance each slice came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ugmcl.volume import Volume

from .geometry import stack
from .instances import Frame, Source, files_of, frames_of, read_instances, stored_values
from .refusals import UnusableSeries


class SliceSource(NamedTuple):
    """Where a slice of a volume came from.

    Attributes:
        instance_uid: SOPInstanceUID.
        frame: Its number in a multi-frame instance, from 1; None in a single-frame one.
    """

    instance_uid: str
    frame: int | None


@dataclass(frozen=True)
class SeriesGrid:
    """The grid of a series without its voxels: enough to write and read objects that refer to it.

    Attributes:
        uid, study_uid: SeriesInstanceUID and StudyInstanceUID.
        frame_of_reference_uid: Empty where the series has none; it can then be read, not referred to.
        modality: `MR` or `CT`.
        shape: `(X, Y, Z)` = columns, rows, slices.
        affine: `(4, 4)` float64, voxel index to RAS mm.
        slices: The source of slice k of the third axis.
        headers: The instances without their pixels: one a slice and in its order, or one multi-frame.
    """

    uid: str
    study_uid: str
    frame_of_reference_uid: str
    modality: str
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    slices: tuple[SliceSource, ...]
    headers: tuple[Dataset, ...]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distances of voxel centers along the three axes."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(lengths[0]), float(lengths[1]), float(lengths[2]))

    def slice_of(self, instance_uid: str, frame: int | None = None) -> int | None:
        """The slice an instance (and frame of it) became; None for one of another series."""
        for index, source in enumerate(self.slices):
            if source.instance_uid == instance_uid and source.frame in (None, frame):
                return index
        return None


@dataclass(frozen=True)
class Series:
    """A series as a volume.

    Attributes:
        grid: Its grid and sources.
        volume: Voxels `(X, Y, Z)` float32 in the modality's values (after rescale slope and intercept).
    """

    grid: SeriesGrid
    volume: Volume


def read_series(source: Path | str | Iterable[Source]) -> Series:
    """A folder with the files of one series, or its instances in any order, as a volume.

    Every series becomes right-handed: the third axis runs along row times column. Slices are placed by
    ImagePositionPatient alone; SliceThickness, SliceLocation and InstanceNumber are not asked.

    Raises:
        UnusableSeries: If they make no volume; the sentence names the series and the reason.
    """
    datasets = read_instances(_sources(source))
    grid, frames = _grid(datasets)
    array = np.empty(grid.shape, dtype=np.float32)
    stored: dict[int, NDArray[Any]] = {}
    for index, frame in enumerate(frames):
        if frame.instance not in stored:
            if frame.number is None:
                stored.clear()
            stored[frame.instance] = stored_values(grid.uid, datasets[frame.instance])
        plane = stored[frame.instance][0 if frame.number is None else frame.number - 1]
        if plane.shape != (grid.shape[1], grid.shape[0]):
            raise UnusableSeries(grid.uid, f"an image has {plane.shape} pixels, not what its header says.")
        array[:, :, index] = (plane.astype(np.float64) * frame.slope + frame.intercept).T
    return Series(grid, Volume(array, grid.affine))


def read_grid(source: Path | str | Iterable[Source]) -> SeriesGrid:
    """The grid of a series from its headers alone; raises as `read_series`, but for what only pixels show."""
    return _grid(read_instances(_sources(source), pixels=False))[0]


def _sources(source: Path | str | Iterable[Source]) -> Iterable[Source]:
    if isinstance(source, Path | str):
        folder = Path(source)
        return files_of(folder) if folder.is_dir() else [folder]
    return source


def _grid(datasets: Sequence[Dataset]) -> tuple[SeriesGrid, list[Frame]]:
    first = datasets[0]
    uid = str(first.get("SeriesInstanceUID", ""))
    frames = frames_of(uid, datasets)
    placed = stack(uid, [frame.plane for frame in frames])
    frames = [frames[index] for index in placed.order]
    if min(int(first.Rows), int(first.Columns)) < 2:
        raise UnusableSeries(uid, f"its images have {first.Columns}x{first.Rows} pixels; 2x2 are the least.")
    if len({frame.instance for frame in frames}) > 1 and any(frame.number for frame in frames):
        raise UnusableSeries(uid, "it has several multi-frame instances; one, or single frames, is needed.")
    order = list(dict.fromkeys(frame.instance for frame in frames))
    slices = tuple(SliceSource(str(datasets[f.instance].SOPInstanceUID), f.number) for f in frames)
    grid = SeriesGrid(
        uid=uid,
        study_uid=str(first.get("StudyInstanceUID", "")),
        frame_of_reference_uid=str(first.get("FrameOfReferenceUID", "")),
        modality=str(first.Modality),
        shape=(int(first.Columns), int(first.Rows), len(frames)),
        affine=placed.affine,
        slices=slices,
        headers=tuple(_header(datasets[index]) for index in order),
    )
    return grid, frames


def _header(dataset: Dataset) -> Dataset:
    """A shallow copy without the pixels, so that a grid stays small."""
    header = Dataset({tag: element for tag, element in dataset.items() if tag.group != 0x7FE0})
    if hasattr(dataset, "file_meta"):
        header.file_meta = dataset.file_meta
    return header
