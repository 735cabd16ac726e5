"""Distance of every voxel to a predicted or true boundary, the band around both, and the map to be beaten."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BAND_VOXELS = 3.0
"""Half width of the band: within 3 voxels of the true or predicted boundary."""
DISTANCE_SCALE = 1.5
"""In voxels: the map exp(-d / 1.5) knows nothing but the predicted boundary and still finds most errors."""


def boundary_distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance in voxels to the nearest voxel on the other side of a mask's boundary, `(X, Y, Z)`.

    1 for voxels that touch the boundary with a face, on either side of it; infinite everywhere when the mask
    is empty or full and so has no boundary.
    """
    if not mask.any() or mask.all():
        return np.full(mask.shape, np.inf)
    inside: Any = ndimage.distance_transform_edt(mask)
    outside: Any = ndimage.distance_transform_edt(~mask)
    return np.asarray(inside + outside, dtype=np.float64)


def label_boundary_distance(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`boundary_distance` to the nearest boundary of any class, those between two classes included."""
    values = [int(value) for value in np.unique(labels) if value]
    if not values:
        return np.full(labels.shape, np.inf)
    distance = boundary_distance(labels == values[0])
    for value in values[1:]:
        distance = np.minimum(distance, boundary_distance(labels == value))
    return distance


def boundary_band(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Voxels within `BAND_VOXELS` of one of the two boundaries, given the distances to each."""
    return (predicted <= BAND_VOXELS) | (true <= BAND_VOXELS)


def distance_codes(distance: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The distance map exp(-d / 1.5) as index per voxel and value per index; 0 where there is no boundary.

    Squared distances between voxels are whole numbers, so there are few values and none is rounded.
    """
    squared = np.where(np.isfinite(distance), np.rint(distance**2), 0).astype(np.int64)
    # No voxel is closer than 1, so the index 0 is free for "no boundary".
    levels = np.exp(-np.sqrt(np.arange(int(squared.max(initial=0)) + 1)) / DISTANCE_SCALE)
    levels[0] = 0.0
    return squared, levels
