"""Labels, classes and independent readers that the tests of DICOM objects share."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lib.dicom.references import Maker
from lib.dicom.series import SeriesGrid
from lib.dicom.structures import StructureMap

MAKER = Maker("v0003-3fa1c2")
STRUCTURES = StructureMap.of({"spleen": 1, "sore spot": 5})
"""Values with a gap, and one class that no table has a code for."""


def landmark_label(grid: SeriesGrid, values: tuple[int, ...] = (1, 5), seed: int = 0) -> NDArray[np.uint8]:
    """Scattered voxels without any symmetry, so that no flip or shift looks the same."""
    generator = np.random.default_rng(seed)
    label = np.zeros(grid.shape, dtype=np.uint8)
    for value in values:
        label[generator.random(grid.shape) < 0.04] = value
    return label


def world_of(grid: SeriesGrid, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Sorted LPS mm of the voxels of a mask, by the grid's affine."""
    found = np.argwhere(mask) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return in_order(found * [-1, -1, 1])


def in_order(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points sorted by their coordinates, rounded to a micrometer first."""
    rounded = np.round(points, 3) + 0.0
    return rounded[np.lexsort(rounded.T)]


def frames_by_header(dataset: Dataset) -> Iterator[tuple[int, NDArray[np.generic], NDArray[np.float64]]]:
    """Frame number, pixels and LPS mm `(rows, columns, 3)`, from the header as PS3.3 C.7.6.2.1.1 says.

    Written apart from the code under test, with nothing but pydicom.
    """
    shared = dataset.SharedFunctionalGroupsSequence[0]
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    for index, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        orientation = groups if "PlaneOrientationSequence" in groups else shared
        measures = groups if "PixelMeasuresSequence" in groups else shared
        cosines = np.array(orientation.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
        row_mm, column_mm = map(float, measures.PixelMeasuresSequence[0].PixelSpacing)
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        rows, columns = np.mgrid[: dataset.Rows, : dataset.Columns][..., None]
        yield (
            index + 1,
            pixels[index],
            position + cosines[:3] * column_mm * columns + cosines[3:] * row_mm * rows,
        )


def parsed(content: bytes) -> Dataset:
    """The dataset of a file's bytes."""
    return pydicom.dcmread(io.BytesIO(content))
