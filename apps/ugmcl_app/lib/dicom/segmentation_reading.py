"""segmentation_reading: a DICOM SEG, ours or another writer's, as a label array on its source series' grid.

Frames are placed by their own position and orientation, never by their order or by the order of the
instances; segments become values by label or code (`structures`), never by number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from .instances import Source, functional_group, read_dataset
from .placing import voxels_of
from .refusals import UnusableSegmentation, UnusableSeries
from .series import SeriesGrid
from .structures import ANATOMICAL_STRUCTURE, TISSUE, Code, Structure, StructureMap, Terms

LABELMAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
"""Label Map Segmentation Storage (PS3.4 B.5, since 2024), which pydicom 3.0 has no name for."""
_BROKEN = (AttributeError, KeyError, IndexError, ValueError, TypeError, EOFError)


class Segment(NamedTuple):
    """One segment as its writer described it.

    Attributes:
        number: What its frames or pixels refer to.
        label: SegmentLabel.
        terms: Its codes.
        algorithm_type: `AUTOMATIC`, `SEMIAUTOMATIC` or `MANUAL`; empty where not given.
        algorithm_name: Empty where not given.
        structure: The class it means.
    """

    number: int
    label: str
    terms: Terms
    algorithm_type: str
    algorithm_name: str
    structure: Structure


@dataclass(frozen=True)
class ReadSegmentation:
    """A segmentation on the grid of its series.

    Attributes:
        labels: `(X, Y, Z)`, the smallest unsigned type for the project's values; 0 is background.
        segments: What its writer described, those without voxels included.
        instance_uid, series_uid: Of the object.
    """

    labels: NDArray[Any]
    segments: tuple[Segment, ...]
    instance_uid: str
    series_uid: str

    @property
    def is_empty(self) -> bool:
        """Whether no voxel is set: "no finding", where a person wrote it."""
        return not self.labels.any()

    @property
    def by_model(self) -> bool:
        """Whether an algorithm made all of it alone: no expert's label, whoever's algorithm it was."""
        return all(segment.algorithm_type == "AUTOMATIC" for segment in self.segments)


def read_segmentation(source: Source, grid: SeriesGrid, structures: StructureMap) -> ReadSegmentation:
    """Read a BINARY or LABELMAP segmentation of a series.

    Args:
        source: The SEG: a file, its bytes, or what pydicom read.
        grid: Of the series it shall lie on.
        structures: The project's classes.

    Raises:
        UnusableSegmentation: If it is none, belongs to another series or frame of reference, lies on
            another grid, names a segment that is no class, or its segments overlap.
    """
    try:
        dataset = read_dataset(source)
    except UnusableSeries as error:
        raise UnusableSegmentation(
            f"The DICOM SEG cannot be used: {str(error).partition(': ')[2]}"
        ) from error
    _require_same_source(dataset, grid)
    try:
        segments = tuple(_segments(dataset, structures))
        labels = _draw(dataset, grid, segments, structures.dtype)
    except UnusableSegmentation:
        raise
    except (RuntimeError, NotImplementedError, *_BROKEN) as error:
        raise UnusableSegmentation(
            f"The DICOM SEG is damaged or misses what a segmentation needs ({type(error).__name__}: "
            f"{str(error)[:120]})."
        ) from error
    return ReadSegmentation(labels, segments, str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID))


def _require_same_source(dataset: Dataset, grid: SeriesGrid) -> None:
    kind = str(dataset.get("SOPClassUID", ""))
    form = str(dataset.get("SegmentationType", ""))
    if kind not in (SegmentationStorage, LABELMAP_STORAGE):
        raise UnusableSegmentation("The object is no DICOM SEG; send a BINARY or LABELMAP segmentation.")
    if form not in ("BINARY", "LABELMAP", "FRACTIONAL"):
        raise UnusableSegmentation(f"The DICOM SEG is of the type {form!r}; allowed: BINARY and LABELMAP.")
    frame_of_reference = str(dataset.get("FrameOfReferenceUID", ""))
    if frame_of_reference and frame_of_reference != grid.frame_of_reference_uid:
        raise UnusableSegmentation(
            f"The DICOM SEG lies in the frame of reference {frame_of_reference}, the series {grid.uid} in "
            f"{grid.frame_of_reference_uid or 'none'}: it was drawn on another acquisition."
        )
    referenced = referenced_series(dataset)
    if referenced and grid.uid not in referenced:
        raise UnusableSegmentation(
            f"The DICOM SEG refers to the series {', '.join(referenced[:3])}, not to {grid.uid}."
        )
    if not referenced and not frame_of_reference:
        raise UnusableSegmentation(
            "The DICOM SEG names neither the series it was drawn on nor a frame of reference."
        )


def referenced_series(dataset: Dataset) -> list[str]:
    """SeriesInstanceUIDs that an object says it was made of."""
    return [
        str(item.SeriesInstanceUID)
        for item in dataset.get("ReferencedSeriesSequence") or []
        if "SeriesInstanceUID" in item
    ]


def _segments(dataset: Dataset, structures: StructureMap) -> Iterator[Segment]:
    described = [item for item in dataset.SegmentSequence if int(item.SegmentNumber) != 0]  # 0: background
    for item in described:
        label, terms = str(item.get("SegmentLabel", "")), _terms(item)
        if structures.any_single_name and len(described) == 1:
            structure = structures.structures[0]
        else:
            structure = structures.find(label, terms)
        yield Segment(
            int(item.SegmentNumber),
            label,
            terms,
            str(item.get("SegmentAlgorithmType", "")),
            str(item.get("SegmentAlgorithmName", "")),
            structure,
        )


def _terms(item: Dataset) -> Terms:
    def code(holder: Dataset, keyword: str) -> Code | None:
        found = holder.get(keyword)
        if not found:
            return None
        value = found[0].get("CodeValue") or found[0].get("LongCodeValue") or ""
        return Code(
            str(value), str(found[0].get("CodingSchemeDesignator", "")), str(found[0].get("CodeMeaning", ""))
        )

    kind = code(item, "SegmentedPropertyTypeCodeSequence")
    category = code(item, "SegmentedPropertyCategoryCodeSequence")
    modifier = None
    if kind is not None:
        modifier = code(
            item.SegmentedPropertyTypeCodeSequence[0], "SegmentedPropertyTypeModifierCodeSequence"
        )
    return Terms(kind or TISSUE, category or ANATOMICAL_STRUCTURE, modifier)


def _draw(dataset: Dataset, grid: SeriesGrid, segments: tuple[Segment, ...], dtype: str) -> NDArray[Any]:
    values = {segment.number: segment.structure.value for segment in segments}
    labels = np.zeros(grid.shape, dtype=dtype)
    pixels = np.asarray(dataset.pixel_array)
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    if dataset.SegmentationType == "FRACTIONAL":
        _require_all_or_nothing(pixels, int(dataset.get("MaximumFractionalValue", 1)))
    count = len(dataset.PerFrameFunctionalGroupsSequence)
    if count != len(pixels):
        raise UnusableSegmentation(f"The DICOM SEG holds {len(pixels)} frames and describes {count}.")
    for number, frame in enumerate(pixels, start=1):
        rows, columns = np.nonzero(frame)
        if not rows.size:
            continue
        if dataset.SegmentationType == "LABELMAP":
            table = np.zeros(int(frame.max()) + 1, dtype=dtype)
            for stored in np.unique(frame[rows, columns]):
                table[stored] = _value(values, int(stored))
            drawn = table[frame[rows, columns]]
        else:
            group = functional_group(dataset, number, "SegmentIdentificationSequence")
            assert group is not None, "a frame without a segment"
            drawn = np.full(rows.size, _value(values, int(group.ReferencedSegmentNumber)), dtype=dtype)
        _put(labels, voxels_of(dataset, number, grid, rows, columns), drawn, segments)
    return labels


def _require_all_or_nothing(pixels: NDArray[Any], full: int) -> None:
    """dcmjs calls a mask FRACTIONAL when it compresses it, and stores 1 where 255 is the most it says.

    A mask has one value besides 0; parts of voxels have many.
    """
    drawn = np.unique(pixels[pixels != 0])
    if drawn.size > 1 or not np.isin(drawn, (1, full)).all():
        raise UnusableSegmentation(
            "The DICOM SEG is FRACTIONAL and holds parts of voxels; send a BINARY or LABELMAP segmentation."
        )


def _value(values: dict[int, int], number: int) -> int:
    if number not in values:
        raise UnusableSegmentation(
            f"The DICOM SEG has voxels of segment {number}, which it does not describe."
        )
    return values[number]


def _put(
    labels: NDArray[Any],
    voxels: tuple[NDArray[np.intp], ...],
    drawn: NDArray[Any],
    segments: tuple[Segment, ...],
) -> None:
    present = labels[voxels]
    clash = (present != 0) & (present != drawn)
    if clash.any():
        first = int(np.flatnonzero(clash)[0])
        names = {segment.structure.value: segment.label for segment in segments}
        raise UnusableSegmentation(
            f"The segments {names[int(present[first])]!r} and {names[int(drawn[first])]!r} of the DICOM SEG "
            f"overlap ({int(clash.sum())} voxels or more); classes of this project do not. Take the overlap "
            "out of one of them."
        )
    labels[voxels] = drawn
