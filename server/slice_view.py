"""Slices of a scan as radiologists expect them, and the colors that mark what is drawn over them.

Axial slices are seen from the feet and coronal ones from the front, both with the patient's right at the
left; sagittal ones are seen from the left with the front at the left; the head is up. An oblique scan is
shown along its own axes, each taken for the nearest of the patient's, and is not resampled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

# Okabe and Ito's palette: told apart with any kind of color vision, and in gray.
REFERENCE, PREDICTION = "#56B4E9", "#E69F00"
"""Contours of the expert and of the model, everywhere."""


class Plane(NamedTuple):
    """A way of cutting; its number in `PLANES` is the patient axis (right, anterior, superior) it is across.

    Attributes:
        name: As radiologists call it.
        columns, rows: Patient axes along which the picture's columns and rows run, both backward.
        edges: What lies at the picture's left, right, top and bottom.
        direction: Where higher slices lie.
    """

    name: str
    columns: int
    rows: int
    edges: tuple[str, str, str, str]
    direction: str


PLANES = (
    Plane("sagittal", 1, 2, ("A", "P", "S", "I"), "right"),
    Plane("coronal", 0, 2, ("R", "L", "S", "I"), "front"),
    Plane("axial", 0, 1, ("R", "L", "A", "P"), "head"),
)


class PatientAxes:
    """How a file's voxel axes lie in the patient.

    Attributes:
        spacing_mm: Voxel edge lengths along right, anterior and superior.
    """

    def __init__(self, affine: NDArray[np.float64]) -> None:
        """`affine` is `(4, 4)`, voxel index to RAS mm."""
        self._turn = nib.orientations.io_orientation(affine)
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        spacing = [0.0, 0.0, 0.0]
        for axis in range(3):
            spacing[self.plane(axis)] = float(lengths[axis])
        self.spacing_mm: tuple[float, float, float] = (spacing[0], spacing[1], spacing[2])

    def plane(self, axis: int) -> int:
        """The number in `PLANES` of slices across an axis of the file."""
        return int(self._turn[axis, 0])

    def place(self, axis: int, index: int, size: int) -> int:
        """Where a slice of the file, `index` of `size`, lies along the patient axis."""
        return index if self._turn[axis, 1] > 0 else size - 1 - index

    def turned(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array `(X, Y, Z)` of the file as a view along right, anterior, superior."""
        return np.asarray(nib.orientations.apply_orientation(array, self._turn))


def cut(turned: NDArray[Any], plane: int, place: int) -> NDArray[Any]:
    """One slice `(rows, columns)` of an array along right, anterior, superior."""
    slice_ = np.take(turned, place, plane)
    return np.asarray(slice_[::-1, ::-1].T)


def pixel_mm(spacing_mm: tuple[float, float, float], plane: int) -> tuple[float, float]:
    """Height and width of a pixel of `cut` in millimeters."""
    return spacing_mm[PLANES[plane].rows], spacing_mm[PLANES[plane].columns]
