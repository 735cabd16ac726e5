"""volume: a scan on its file's own grid, the one form in which images enter and leave the method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Volume:
    """A 3D scalar image in its file's voxel order, with its place in the patient.

    Attributes:
        array: Voxels `(X, Y, Z)` in the file's own axis order.
        affine: `(4, 4)` float64, voxel index to RAS millimeters (the NIfTI convention).
    """

    array: NDArray[np.generic]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise ValueError(f"A volume has 3 axes; this array has {self.array.ndim} ({self.array.shape}).")
        if self.affine.shape != (4, 4):
            raise ValueError(f"An affine is 4 x 4; this one is {self.affine.shape}.")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths in millimeters, in the file's axis order."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(lengths[0]), float(lengths[1]), float(lengths[2]))
