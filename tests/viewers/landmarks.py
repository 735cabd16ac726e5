"""Scans whose voxels hold their own position, on grids that get geometry wrong when anything does.

Needs numpy alone: the programs that run beside Slicer read it too.
"""

from __future__ import annotations

import numpy as np

SHAPE = (24, 20, 16)
CENTER = np.array([10.0, -20.0, 30.0])
"""RAS mm; off the origin, so that a lost translation shows."""
COORDINATES = "ras"
DRAWN_AT, DRAWN_RADII = np.array([4.0, -4.0, 3.0]), np.array([6.5, 4.5, 7.5])
"""Of the reader's label: an ellipsoid off the center, unlike its mirror images; mm from CENTER, and mm."""


def _turn(axis: int, degrees: float) -> np.ndarray:
    matrix, angle = np.eye(3), np.radians(degrees)
    one, other = [a for a in range(3) if a != axis]
    matrix[one, one] = matrix[other, other] = np.cos(angle)
    matrix[one, other], matrix[other, one] = -np.sin(angle), np.sin(angle)
    return matrix


def _affine(directions: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Voxel index to RAS mm, the middle of the grid at CENTER."""
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag(spacing)
    affine[:3, 3] = CENTER - affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


GRIDS = {
    "ras": _affine(np.eye(3), (1.5, 1.5, 2.0)),
    "lps": _affine(np.diag([-1.0, -1.0, 1.0]), (1.5, 1.5, 2.0)),
    "oblique": _affine(_turn(0, 25) @ _turn(1, -15) @ _turn(2, 35), (1.5, 1.5, 2.0)),
    # The axes run posterior, inferior, right, as in a sagittal scan, with thick slices.
    "anisotropic": _affine(np.array([[0, 0, 1.0], [-1.0, 0, 0], [0, -1.0, 0]]), (1.2, 1.4, 3.0)),
}


def positions(affine: np.ndarray, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """`(X, Y, Z, 3)`: where each voxel is, in RAS mm."""
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def drawn(where: np.ndarray) -> np.ndarray:
    """Whether the reader's label is at these positions `(..., 3)`."""
    return (((where - CENTER - DRAWN_AT) / DRAWN_RADII) ** 2).sum(axis=-1) < 1.0
