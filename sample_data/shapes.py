"""Signed distances in mm of the few solids the phantoms are built from: negative inside, positive outside."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Vector = NDArray[np.float64]

FAR_MM = 1e3
"""Distance given to points outside a shape's window, where only "far away" matters."""

REACH_MM = 14.0
"""How far around a tube its distance is worked out: more than any wall, blend or partial-volume width."""


@dataclass(frozen=True)
class Points:
    """The anatomical position in mm of every voxel of a grid.

    Attributes:
        x: Right(+) coordinate in mm, shape (X, Y, Z).
        y: Anterior(+) coordinate in mm, shape (X, Y, Z).
        z: Superior(+) coordinate in mm, shape (X, Y, Z).
        to_voxel: (4, 4) matrix from these mm to voxel indices, exact up to `slack_mm`.
        slack_mm: Largest departure of the positions from `to_voxel` (the smooth warp of the anatomy).
    """

    x: Field
    y: Field
    z: Field
    to_voxel: NDArray[np.float64]
    slack_mm: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Grid size in voxels, (X, Y, Z)."""
        return self.x.shape[0], self.x.shape[1], self.x.shape[2]

    def window(self, low: Vector, high: Vector) -> tuple[slice, slice, slice]:
        """The voxels whose positions may fall in the box from `low` to `high` (mm, shape (3,)), as slices."""
        low, high = low - self.slack_mm, high + self.slack_mm
        corners = np.array([[(low, high)[bit >> axis & 1][axis] for axis in range(3)] for bit in range(8)])
        voxels = corners @ self.to_voxel[:3, :3].T + self.to_voxel[:3, 3]
        first = np.clip(np.floor(voxels.min(0)).astype(int), 0, self.shape)
        last = np.clip(np.ceil(voxels.max(0)).astype(int) + 1, 0, self.shape)
        return slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2])


@dataclass(frozen=True)
class Tube:
    """A vessel: a polyline in mm, shape (N, 3), with a radius in mm at each of its N points."""

    path: Vector
    radii: Vector


def ellipsoid(points: Points, center: Vector, radii: Vector, axes: Vector | None = None) -> Field:
    """Signed distance in mm to an ellipsoid (first order: exact on the surface, where it matters).

    Args:
        points: Where to evaluate.
        center: Center in mm, shape (3,).
        radii: Semi-axes in mm, shape (3,).
        axes: Rows are the directions of the semi-axes, shape (3, 3); the coordinate axes when omitted.
    """
    middle = center.astype(np.float32)
    offset = (points.x - middle[0], points.y - middle[1], points.z - middle[2])
    rows = np.eye(3) if axes is None else axes
    scaled = np.zeros(points.shape, np.float32)
    steep = np.zeros(points.shape, np.float32)
    for row, radius in zip(rows.astype(np.float32), radii.astype(np.float32), strict=True):
        along = row[0] * offset[0] + row[1] * offset[1] + row[2] * offset[2]
        scaled += (along / radius) ** 2
        steep += (along / radius**2) ** 2
    scaled = np.sqrt(scaled)
    distance = scaled * (scaled - 1.0) / np.maximum(np.sqrt(steep), np.float32(1e-6))
    return np.asarray(distance, np.float32)


def half_space(points: Points, origin: Vector, normal: Vector) -> Field:
    """Signed distance in mm to a plane through `origin` (mm, shape (3,)), positive toward `normal`."""
    unit: Field = (normal / np.linalg.norm(normal)).astype(np.float32)
    start: Field = origin.astype(np.float32)
    offset = (points.x - start[0], points.y - start[1], points.z - start[2])
    return np.asarray(unit[0] * offset[0] + unit[1] * offset[1] + unit[2] * offset[2], np.float32)


def tube(points: Points, vessel: Tube, blend_mm: float = 1.0) -> Field:
    """Signed distance in mm to a vessel: cones between the points of its path, blended at the joints."""
    distance = np.full(points.shape, FAR_MM, np.float32)
    for start, end, radius, next_radius in zip(
        vessel.path[:-1], vessel.path[1:], vessel.radii[:-1], vessel.radii[1:], strict=True
    ):
        reach = max(radius, next_radius) + REACH_MM
        box = points.window(np.minimum(start, end) - reach, np.maximum(start, end) + reach)
        if 0 in distance[box].shape:
            continue
        cone = _cone(points, box, start, end, radius, next_radius)
        distance[box] = smooth_union(distance[box], cone, blend_mm)
    return distance


def _cone(
    points: Points, box: tuple[slice, ...], start: Vector, end: Vector, radius: float, next_radius: float
) -> Field:
    """Signed distance in mm to one segment of a tube with linearly changing radius, inside `box` only."""
    from_start = start.astype(np.float32)
    offset = [axis[box] - from_start[n] for n, axis in enumerate((points.x, points.y, points.z))]
    run = (end - start).astype(np.float32)
    length_squared = np.float32(max(float(run @ run), 1e-9))
    along = (offset[0] * run[0] + offset[1] * run[1] + offset[2] * run[2]) / length_squared
    along = np.clip(along, 0.0, 1.0)
    across = np.sqrt(sum((part - along * step) ** 2 for part, step in zip(offset, run, strict=True)))
    return np.asarray(across - (radius + along * (next_radius - radius)), np.float32)


def smooth_union(first: Field, second: Field, blend_mm: float) -> Field:
    """Union of two solids whose seam is rounded over `blend_mm`, as tissue joins and CAD shapes do not."""
    if blend_mm <= 0:
        return np.minimum(first, second)
    mix = np.clip(0.5 + 0.5 * (second - first) / np.float32(blend_mm), 0.0, 1.0)
    return np.asarray(second + (first - second) * mix - np.float32(blend_mm) * mix * (1.0 - mix), np.float32)


def carve(solid: Field, obstacle: Field, gap_mm: float) -> Field:
    """`solid` without what lies within `gap_mm` of `obstacle`: the thin wall between two neighbors."""
    return np.maximum(solid, np.float32(gap_mm) - obstacle)


def curve(control: Vector, count: int) -> Vector:
    """`count` points on the Bezier curve of the control points (mm, shape (K, 3)), ends included."""
    steps = np.linspace(0.0, 1.0, count)[:, None]
    layer = [np.broadcast_to(point, (count, 3)) for point in control]
    while len(layer) > 1:
        layer = [(1 - steps) * a + steps * b for a, b in pairwise(layer)]
    return np.asarray(layer[0], float)
