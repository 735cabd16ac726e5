"""segmentation_writing: a label array as DICOM SEG, BINARY or LABELMAP, referring to its source instances."""

from __future__ import annotations

from typing import Any

import highdicom
import numpy as np
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.sr import CodedConcept
from numpy.typing import NDArray

from .references import (
    MANUAL,
    Maker,
    ObjectPlace,
    algorithm,
    described,
    file_bytes,
    frames_in_source_order,
)
from .series import SeriesGrid
from .structures import Code, Structure, StructureMap

BINARY, LABELMAP = "BINARY", "LABELMAP"
FORMS = (BINARY, LABELMAP)
"""BINARY is what every viewer reads; LABELMAP keeps the values as the numbers of its segments."""


def write_segmentation(
    labels: NDArray[Any],
    grid: SeriesGrid,
    structures: StructureMap,
    maker: Maker,
    form: str = BINARY,
    place: ObjectPlace | None = None,
) -> bytes:
    """A DICOM SEG file of a label on its series' grid; all classes are described, the absent ones without
    frames.

    A label without any voxel becomes a SEG of empty frames: "looked, and found nothing" can be stored.

    Args:
        labels: `(X, Y, Z)` whole numbers on `grid`; 0 is background.
        grid: Of the source series.
        structures: The project's classes; every value of `labels` is one of theirs.
        maker: Who made the label.
        form: One of `FORMS`.
        place: UIDs and number of the new series.

    Raises:
        ValueError: For another shape, form, or a value without a class.
        UnusableSeries: If the series cannot be referred to.
    """
    _require_writable(labels, grid, structures, form)
    # BINARY numbers its segments 1..n without gaps (PS3.3 C.8.20.2); LABELMAP numbers are the pixel values.
    numbers = {
        structure.value: structure.value if form == LABELMAP else index + 1
        for index, structure in enumerate(structures.structures)
    }
    table = np.zeros(max(numbers) + 1, dtype=np.uint16)
    table[list(numbers)] = list(numbers.values())
    pixels = frames_in_source_order(table[labels], grid)
    if pixels.max(initial=0) < 256:
        pixels = pixels.astype(np.uint8)
    empty = not pixels.any()
    dataset = Segmentation(
        pixel_array=pixels,
        segmentation_type=SegmentationTypeValues(form),
        segment_descriptions=[_described(s, numbers[s.value], maker) for s in structures.structures],
        content_label="NO_FINDING" if empty else "SEGMENTATION",
        content_description="No finding" if empty else maker.shown,
        series_description="No finding" if empty else f"Segmentation {maker.shown}",
        omit_empty_frames=not empty,
        **described(grid, maker, place or ObjectPlace()),
    )
    return file_bytes(dataset, grid)


def _require_writable(labels: NDArray[Any], grid: SeriesGrid, structures: StructureMap, form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"The form {form!r} is not written; allowed: {', '.join(FORMS)}.")
    if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise ValueError(f"The label is of type {labels.dtype}; whole numbers from 0 are needed.")
    if labels.shape != grid.shape:
        raise ValueError(f"The label has the shape {labels.shape}, its series {grid.shape}.")
    unknown = [
        int(value) for value in np.unique(labels) if value and structures.with_value(int(value)) is None
    ]
    if unknown:
        raise ValueError(f"The label holds the values {unknown}, which no class of the project has.")


def _described(structure: Structure, number: int, maker: Maker) -> SegmentDescription:
    terms = structure.terms
    description = SegmentDescription(
        segment_number=number,
        segment_label=structure.name,
        segmented_property_category=_concept(terms.category),
        segmented_property_type=_concept(terms.type),
        algorithm_type=SegmentAlgorithmTypeValues(maker.how),
        algorithm_identification=None if maker.how == MANUAL else algorithm(maker),
        display_color=highdicom.color.CIELabColor.from_rgb(*terms.color_rgb),
    )
    if terms.modifier is not None:
        item = description.SegmentedPropertyTypeCodeSequence[0]
        item.SegmentedPropertyTypeModifierCodeSequence = [_concept(terms.modifier)]
    # For people reading the header; ours and others' readers go by label and code.
    description.SegmentDescription = f"Label value {structure.value}"
    return description


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)
