"""parametric_map: an uncertainty map as DICOM Parametric Map, float32, and back."""

from __future__ import annotations

import copy

import numpy as np
from highdicom import VOILUTFunctionValues, VOILUTTransformation
from highdicom.pm import DerivedPixelContrastValues, ParametricMap, RealWorldValueMapping
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ParametricMapStorage

from .geometry import indices_of
from .instances import Source, plane_of, read_dataset
from .placing import GRID_TOLERANCE
from .references import Maker, ObjectPlace, described, file_bytes, frames_in_source_order
from .refusals import UnusableMap, UnusableSeries
from .series import SeriesGrid
from .structures import Code

QUANTITY = Code("UNCERTAINTY", "99UGMCL", "Normalized predictive entropy")
"""What a voxel's value means. DICOM has no term for it; schemes starting with 99 are private (PS3.16 8.2)."""
WINDOW = (0.0, 1.0)
"""Displayed range: the whole one of the measure, so that two cases' maps compare by eye."""
WHOLE_BODY = Code("38266002", "SCT", "Entire body")
_BROKEN = (AttributeError, KeyError, IndexError, ValueError, TypeError, EOFError)


def write_map(
    values: NDArray[np.float32],
    grid: SeriesGrid,
    maker: Maker,
    quantity: Code = QUANTITY,
    place: ObjectPlace | None = None,
) -> bytes:
    """A Parametric Map file of an uncertainty map on its series' grid.

    Args:
        values: `(X, Y, Z)` in [0, 1] on `grid`.
        grid: Of the source series.
        maker: The model that made it.
        quantity: What the values are.
        place: UIDs and number of the new series.

    Raises:
        ValueError: For another shape, or values outside [0, 1].
        UnusableSeries: If the series cannot be referred to.
    """
    if values.shape != grid.shape:
        raise ValueError(f"The map has the shape {values.shape}, its series {grid.shape}.")
    if not (values.min() >= 0.0 and values.max() <= 1.0):  # NaN too
        raise ValueError(f"The map runs from {values.min():g} to {values.max():g}; allowed is [0, 1].")
    dataset = ParametricMap(
        pixel_array=frames_in_source_order(values.astype(np.float32), grid),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(quantity)],
        voi_lut_transformations=[_window()],
        derived_pixel_contrast=DerivedPixelContrastValues.QUANTITY,
        content_label="UNCERTAINTY",
        content_description=maker.shown,
        series_description=f"Uncertainty {maker.shown}",
        **described(grid, maker, place or ObjectPlace()),
    )
    dataset.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_anatomy(grid)]
    _sort_frames(dataset)
    return file_bytes(dataset, grid)


def _mapping(quantity: Code) -> RealWorldValueMapping:
    return RealWorldValueMapping(
        lut_label="UNCERTAINTY",
        lut_explanation=f"{quantity.meaning}, 0 sure, 1 unsure"[:64],
        unit=codes.UCUM.NoUnits,
        value_range=WINDOW,
        slope=1.0,
        intercept=0.0,
        quantity_definition=CodedConcept(*quantity),
    )


def _window() -> VOILUTTransformation:
    # LINEAR needs a width of 1 or more and shows 0..1 as two tones; LINEAR_EXACT is meant for this (PS3.3
    # C.11.2.1.3.2).
    return VOILUTTransformation(
        window_center=sum(WINDOW) / 2,
        window_width=WINDOW[1] - WINDOW[0],
        voi_lut_function=VOILUTFunctionValues.LINEAR_EXACT,
    )


def _anatomy(grid: SeriesGrid) -> Dataset:
    """The frames' anatomy (PS3.3 C.7.6.16.2.8): the source's region, or none in particular.

    dciodvfy asks for a laterality, and dcmqi, which loads such maps into 3D Slicer, ends without this group.
    """
    anatomy = Dataset()
    anatomy.FrameLaterality = "U"  # unpaired: the map is of the whole image, not of one organ's side
    known = grid.headers[0].get("AnatomicRegionSequence")
    anatomy.AnatomicRegionSequence = copy.deepcopy(known) if known else [CodedConcept(*WHOLE_BODY)]
    return anatomy


def _sort_frames(dataset: Dataset) -> None:
    """Put the frames in the order of their places along row times column; highdicom has them reversed.

    dcmqi 1.5.7 stacks the frames of a map in their order, whatever their positions say: a reversed file is
    shown mirrored in 3D Slicer.
    """
    planes = [plane_of(dataset, number + 1) for number in range(int(dataset.NumberOfFrames))]
    order = np.argsort([plane.position @ plane.normal for plane in planes])
    groups = [dataset.PerFrameFunctionalGroupsSequence[index] for index in order]
    for number, group in enumerate(groups, start=1):
        group.FrameContentSequence[0].DimensionIndexValues = number
    dataset.PerFrameFunctionalGroupsSequence = groups
    frames = np.frombuffer(dataset.FloatPixelData, dtype="<f4").reshape(len(order), -1)
    dataset.FloatPixelData = frames[order].tobytes()


def read_map(source: Source, grid: SeriesGrid) -> NDArray[np.float32]:
    """The real-world values `(X, Y, Z)` of a Parametric Map on the grid of its series.

    Raises:
        UnusableMap: If it is none, of another frame of reference, or does not fill the grid.
    """
    try:
        dataset = read_dataset(source)
    except UnusableSeries as error:
        raise UnusableMap(f"The Parametric Map cannot be used: {str(error).partition(': ')[2]}") from error
    if str(dataset.get("SOPClassUID", "")) != ParametricMapStorage:
        raise UnusableMap("The object is no DICOM Parametric Map.")
    if str(dataset.get("FrameOfReferenceUID", "")) != grid.frame_of_reference_uid:
        raise UnusableMap(f"The Parametric Map is not in the frame of reference of the series {grid.uid}.")
    try:
        frames = np.asarray(dataset.pixel_array, dtype=np.float32)
        frames = frames if frames.ndim == 3 else frames[None]
        values = np.full(grid.shape, np.nan, dtype=np.float32)
        for number, frame in enumerate(frames, start=1):
            origin, along_row, along_column = indices_of(grid.affine, plane_of(dataset, number)).T
            index = round(float(origin[2]))
            steps = np.abs([along_row - [1, 0, 0], along_column - [0, 1, 0]]).max() * max(frame.shape)
            misfit = max(float(np.abs(origin - [0, 0, index]).max()), float(steps))
            if misfit > GRID_TOLERANCE or not 0 <= index < grid.shape[2]:
                raise UnusableMap(f"Frame {number} of the Parametric Map lies on another grid.")
            values[:, :, index] = frame.T
    except UnusableMap:
        raise
    except _BROKEN as error:
        raise UnusableMap(f"The Parametric Map is damaged ({type(error).__name__}).") from error
    if np.isnan(values).any():
        raise UnusableMap(f"The Parametric Map does not cover every slice of the series {grid.uid}.")
    return values
