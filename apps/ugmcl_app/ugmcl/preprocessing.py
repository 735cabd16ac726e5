"""preprocessing: from a scan's own grid to the working grid and back, for training and inference alike.

The scan's axes are permuted and flipped to the closest right-anterior-superior order, intensities are clipped
and standardized over the scan, and the grid is resampled to the working spacing. Working and file grid share
their outer edges, so the way back is exact for any affine, oblique ones included: only indices are touched,
never the affine.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .config import PreprocessConfig
from .volume import Volume


class WorkingGrid(NamedTuple):
    """How a file's grid maps to the working grid.

    Attributes:
        axes: File axis that becomes working axis 0, 1, 2.
        flips: Whether each working axis runs against its file axis.
        oriented_shape: Shape after permutation, before resampling.
        shape: Working shape `(H, W, D)`.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    oriented_shape: tuple[int, int, int]
    shape: tuple[int, int, int]


def orientation(affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """The axis order and flips that bring a grid closest to right-anterior-superior.

    Args:
        affine: `(4, 4)` voxel to RAS mm.

    Returns:
        For each of R, A, S: the file axis closest to it, and whether that axis runs the other way.
    """
    columns = affine[:3, :3] / np.maximum(np.linalg.norm(affine[:3, :3], axis=0), 1e-12)
    best = max(
        itertools.permutations(range(3)),
        key=lambda order: sum(abs(columns[i, axis]) for i, axis in enumerate(order)),
    )
    axes = (best[0], best[1], best[2])
    flips = tuple(bool(columns[i, axis] < 0) for i, axis in enumerate(axes))
    return axes, (flips[0], flips[1], flips[2])


def oriented_spacing(volume: Volume) -> tuple[float, float, float]:
    """Voxel size in mm along the working axes."""
    axes, _ = orientation(volume.affine)
    spacing = volume.spacing_mm
    return (spacing[axes[0]], spacing[axes[1]], spacing[axes[2]])


def working_grid(volume: Volume, config: PreprocessConfig) -> WorkingGrid:
    """The working grid of a scan: its oriented grid, resampled where the spacing differs by more than 1 %."""
    axes, flips = orientation(volume.affine)
    spacing = oriented_spacing(volume)
    oriented = tuple(int(volume.array.shape[axis]) for axis in axes)
    shape = tuple(
        size if abs(ours / target - 1.0) <= 0.01 else max(1, round(size * ours / target))
        for size, ours, target in zip(oriented, spacing, config.spacing_mm, strict=True)
    )
    return WorkingGrid(axes, flips, (oriented[0], oriented[1], oriented[2]), (shape[0], shape[1], shape[2]))


def orient(array: NDArray[np.generic], grid: WorkingGrid) -> NDArray[np.generic]:
    """`(X, Y, Z)` in file order to working order, no resampling; the result is contiguous."""
    array = np.transpose(array, grid.axes)
    for axis, flip in enumerate(grid.flips):
        if flip:
            array = np.flip(array, axis)
    return array.copy(order="C")  # ascontiguousarray keeps the negative stride of a flipped axis of length 1


def standardize(array: NDArray[np.generic], config: PreprocessConfig) -> NDArray[np.float32]:
    """Clip to percentiles of the scan, then zero mean and unit variance; float32, same shape.

    Done in float64 so that scans with intensities of 1e6 keep their digits; a constant scan becomes 0.
    """
    values = array.astype(np.float64)
    low, high = config.clip_percentiles
    if (low, high) != (0, 100):
        bottom, top = np.percentile(values, [low, high])
        if bottom < top:  # else nearly all voxels are alike, and clipping would erase the few that differ
            values = np.clip(values, bottom, top)
    mean, deviation = values.mean(), values.std()
    if deviation <= 1e-12 * np.abs(values).max():  # rounding alone makes a constant scan deviate a little
        return np.zeros(values.shape, np.float32)
    standardized: NDArray[np.float32] = ((values - mean) / deviation).astype(np.float32)
    return standardized


def preprocess_image(volume: Volume, config: PreprocessConfig) -> tuple[Tensor, WorkingGrid]:
    """A scan as the network sees it, `(1, H, W, D)` float32, and the grid to come back by."""
    grid = working_grid(volume, config)
    image = torch.from_numpy(orient(standardize(volume.array, config), grid))[None]
    if grid.shape != grid.oriented_shape:
        image = F.interpolate(image[None], size=grid.shape, mode="trilinear", align_corners=False)[0]
    return image, grid


def preprocess_label(label: NDArray[np.integer[Any]], grid: WorkingGrid) -> Tensor:
    """A label map `(X, Y, Z)` on the working grid, `(H, W, D)` uint8, by nearest neighbor."""
    oriented = torch.from_numpy(orient(label.astype(np.uint8), grid))
    if grid.shape == grid.oriented_shape:
        return oriented
    return F.interpolate(oriented[None, None].float(), size=grid.shape, mode="nearest-exact")[0, 0].to(
        torch.uint8
    )


def restore(values: Tensor, grid: WorkingGrid) -> Tensor:
    """`(C, H, W, D)` on the working grid back to the file's grid `(C, X, Y, Z)`, by linear interpolation."""
    if grid.shape != grid.oriented_shape:
        values = F.interpolate(
            values[None].float(), size=grid.oriented_shape, mode="trilinear", align_corners=False
        )[0]
    flipped = [axis + 1 for axis, flip in enumerate(grid.flips) if flip]
    if flipped:
        values = values.flip(flipped)
    inverse = [0] * 3
    for working_axis, file_axis in enumerate(grid.axes):
        inverse[file_axis] = working_axis + 1
    return values.permute(0, *inverse).contiguous()
