"""placing: where the pixels of a segmentation's frame lie in the voxels of its source series."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from .geometry import indices_of
from .instances import functional_group, plane_of
from .refusals import UnusableSegmentation
from .series import SeriesGrid

GRID_TOLERANCE = 0.05
"""How far a frame's voxels may lie from those of the grid, in voxels: writers round positions."""


def voxels_of(
    dataset: Dataset, number: int, grid: SeriesGrid, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> tuple[NDArray[np.intp], ...]:
    """Voxels `(x, y, z)` of pixels of a frame, by its position and orientation.

    Args:
        dataset: A DICOM SEG.
        number: Of the frame, from 1.
        grid: Of the series the voxels are of.
        rows, columns: Of the pixels.

    Raises:
        UnusableSegmentation: If the frame lies on another grid, outside of it, or nowhere.
    """
    if functional_group(dataset, number, "PlanePositionSequence") is None:
        return _voxels_by_reference(dataset, number, grid, rows, columns)
    origin, along_row, along_column = indices_of(grid.affine, plane_of(dataset, number)).T
    found = origin[:, None] + along_row[:, None] * columns + along_column[:, None] * rows
    whole = np.round(found)
    off = np.abs(found - whole).max()
    sides = np.abs(np.stack([along_row, along_column]))
    if off > GRID_TOLERANCE or np.abs(np.linalg.norm(sides, axis=1) - 1).max() > GRID_TOLERANCE:
        raise UnusableSegmentation(
            f"Frame {number} of the DICOM SEG lies on another grid than the series {grid.uid}: its voxels "
            f"are up to {off:.2f} voxels beside the series' own. Draw it on the series itself."
        )
    if (whole < 0).any() or (whole >= np.array(grid.shape)[:, None]).any():
        raise UnusableSegmentation(
            f"Frame {number} of the DICOM SEG reaches outside the series {grid.uid}; "
            "it was drawn on another one."
        )
    return tuple(whole.astype(np.intp))


def _voxels_by_reference(
    dataset: Dataset, number: int, grid: SeriesGrid, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> tuple[NDArray[np.intp], ...]:
    """For a frame without a position: the slice it says it was derived from, pixel for pixel."""
    derivation = functional_group(dataset, number, "DerivationImageSequence")
    sources = derivation.get("SourceImageSequence") if derivation is not None else None
    index = None
    if sources and len(sources) == 1:
        frame = sources[0].get("ReferencedFrameNumber")
        index = grid.slice_of(str(sources[0].ReferencedSOPInstanceUID), None if frame is None else int(frame))
    if index is None or (int(dataset.Columns), int(dataset.Rows)) != grid.shape[:2]:
        raise UnusableSegmentation(
            f"Frame {number} of the DICOM SEG has no position and names no slice of the series {grid.uid}."
        )
    return columns, rows, np.full_like(rows, index)
