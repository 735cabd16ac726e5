"""geometry: a stack of slices as one grid, and points of other grids in its voxel coordinates.

DICOM's own terms: a *row* runs along the first three numbers of ImageOrientationPatient (its column index
grows), a *column* along the last three. Positions are those of voxel centers in LPS millimeters, PS3.3
C.7.6.2.1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .refusals import UnusableSeries

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns LPS millimeters into RAS millimeters, and back."""
ORIENTATION_TOLERANCE = 1e-4
"""Largest difference between the direction cosines of two slices of one stack. 0.05 mm at the end of a 500 mm
row; scanners repeat the same digits for every slice."""
UNIT_TOLERANCE = 1e-3
"""How far the length of a direction cosine may be from 1, and the angle of row and column from a right one:
headers round to as few as four digits."""
POSITION_TOLERANCE = 0.05
"""How far a slice may lie from its place in the even stack, as a part of the slices' distance. A missing
slice is 1; scanners that round positions to 0.01 mm need 0.02 at 0.5 mm."""
TILT_TOLERANCE = 0.01
"""Shift of neighboring slices in their plane, as a part of their distance: 0.6 degrees."""
SAME_PLACE_MM = 0.01
"""Two slices nearer to each other than this are at one place."""


class Plane(NamedTuple):
    """Where one slice lies.

    Attributes:
        position: `(3,)` LPS mm of the center of its first voxel.
        orientation: `(6,)` direction cosines of a row, then of a column.
        spacing: mm between rows, then between columns (PixelSpacing).
    """

    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Row times column, a unit vector."""
        cross = np.cross(self.orientation[:3], self.orientation[3:])
        return cross / np.linalg.norm(cross)

    @property
    def steps(self) -> NDArray[np.float64]:
        """`(3, 2)` LPS mm from a voxel to the next in its row, and to the next in its column."""
        row, column = self.orientation[:3], self.orientation[3:]
        return np.stack([row * self.spacing[1], column * self.spacing[0]], axis=1)


class Stack(NamedTuple):
    """Slices in the order of the volume's third axis.

    Attributes:
        order: Index of each slice as given, along the normal.
        affine: `(4, 4)` voxel `(column, row, slice)` to RAS mm, right-handed.
    """

    order: list[int]
    affine: NDArray[np.float64]


def stack(uid: str, planes: Sequence[Plane]) -> Stack:
    """Order slices along their normal and fit the one even grid they lie on.

    Raises:
        UnusableSeries: If there is no such grid: fewer than two slices, mixed orientations, spacings or
            places, missing or uneven slices, a tilted gantry.
    """
    if len(planes) < 2:
        raise UnusableSeries(uid, "it has a single slice; a volume needs two or more.")
    _require_parallel(uid, planes)
    normal = planes[0].normal
    heights = np.array([plane.position @ normal for plane in planes])
    order = [int(index) for index in np.argsort(heights, kind="stable")]
    _require_even(uid, heights[order])
    positions = np.array([planes[index].position for index in order])
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    _require_straight(uid, positions, step, normal)
    lps = np.eye(4)
    lps[:3, :2] = planes[0].steps
    lps[:3, 2] = step
    lps[:3, 3] = positions[0]
    return Stack(order, LPS_RAS @ lps)


def indices_of(affine: NDArray[np.float64], plane: Plane) -> NDArray[np.float64]:
    """`(3, 3)`: a plane's first voxel, its step along a row and its step along a column, in voxels of a grid.

    Args:
        affine: Of the grid, voxel to RAS mm.
        plane: The plane.
    """
    inverse = np.linalg.inv(LPS_RAS @ affine)
    origin = inverse[:3, :3] @ plane.position + inverse[:3, 3]
    return np.column_stack([origin, inverse[:3, :3] @ plane.steps])


def _require_parallel(uid: str, planes: Sequence[Plane]) -> None:
    first = planes[0]
    for plane in planes:
        row, column = plane.orientation[:3], plane.orientation[3:]
        lengths = np.abs(np.array([np.linalg.norm(row) - 1, np.linalg.norm(column) - 1, row @ column]))
        if not np.isfinite(plane.position).all() or not (lengths <= UNIT_TOLERANCE).all():
            raise UnusableSeries(
                uid,
                f"a slice has the orientation {_shown(plane.orientation)} at {_shown(plane.position)}; two "
                "unit vectors at right angles and a finite position are needed.",
            )
        if np.abs(plane.orientation - first.orientation).max() > ORIENTATION_TOLERANCE:
            raise UnusableSeries(
                uid,
                f"its slices are oriented differently, {_shown(first.orientation)} and "
                f"{_shown(plane.orientation)}, as in a localizer; all slices of a volume are parallel.",
            )
        if not np.allclose(plane.spacing, first.spacing, rtol=1e-4, atol=0) or min(plane.spacing) <= 0:
            raise UnusableSeries(
                uid,
                f"its slices have the pixel spacings {_shown(first.spacing)} and {_shown(plane.spacing)} mm; "
                "one positive spacing for all is needed.",
            )


def _require_even(uid: str, heights: NDArray[np.float64]) -> None:
    gaps = np.diff(heights)
    same = np.flatnonzero(gaps < SAME_PLACE_MM)
    if same.size:
        raise UnusableSeries(
            uid,
            f"{same.size + 1} or more of its {heights.size} slices share a place, the first at "
            f"{heights[same[0]]:.2f} mm along the normal: duplicates, or several echoes, phases or b-values "
            "in one series. One slice a place is needed; split the series.",
        )
    usual = float(np.median(gaps))
    widest = int(np.argmax(gaps))
    ratios = gaps / usual
    whole = np.abs(ratios - np.round(ratios)).max() <= POSITION_TOLERANCE
    if whole and ratios.max() > 1.5:
        raise UnusableSeries(
            uid,
            f"slices are missing: between {heights[widest]:.2f} and {heights[widest + 1]:.2f} mm along the "
            f"normal lie {gaps[widest]:.2f} mm, elsewhere {usual:.2f} mm. Send the whole series.",
        )
    even = np.linspace(heights[0], heights[-1], heights.size)
    if np.abs(heights - even).max() > POSITION_TOLERANCE * usual:
        raise UnusableSeries(
            uid,
            f"its slices are not evenly spaced: their distances run from {gaps.min():.3f} to "
            f"{gaps.max():.3f} mm. Resample the series to one distance.",
        )


def _require_straight(
    uid: str, positions: NDArray[np.float64], step: NDArray[np.float64], normal: NDArray[np.float64]
) -> None:
    distance = float(step @ normal)
    shift = float(np.linalg.norm(step - distance * normal))
    if shift > TILT_TOLERANCE * distance:
        raise UnusableSeries(
            uid,
            f"each slice is shifted by {shift:.3f} mm in its plane against the one before, as with a tilted "
            "gantry; the slices of a volume lie straight above each other. Resample the series.",
        )
    even = positions[0] + np.arange(len(positions))[:, None] * step
    off = np.linalg.norm(positions - even, axis=1)
    if off.max() > POSITION_TOLERANCE * distance:
        raise UnusableSeries(
            uid,
            f"a slice at {_shown(positions[int(off.argmax())])} lies {off.max():.3f} mm beside its place in "
            "the stack; the slices of a volume lie straight above each other.",
        )


def _shown(numbers: Sequence[float] | NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{float(number):g}" for number in np.round(numbers, 5)) + ")"
