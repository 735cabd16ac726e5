"""file_headers: what a volume file says of itself, and what every format must fulfil."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import UnusableImage

MAX_VOXELS = 2**31
"""Larger headers are taken for damage: reading them would exhaust memory before the data proves them
wrong."""
FORMATS = "a NIfTI (.nii, .nii.gz) or NRRD (.nrrd) volume"


class FileHeader(NamedTuple):
    """What a file says of itself before its voxels are read.

    Attributes:
        extension: The extension the content deserves, one of `EXTENSIONS`.
        shape: `(X, Y, Z)`.
        affine: `(4, 4)` float64, voxel index to RAS mm.
        source: The parsed header: a nibabel header, or pynrrd's dict.
    """

    extension: str
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    source: Any


def require_volume(shape: tuple[int, ...], affine: NDArray[np.float64]) -> None:
    size = " x ".join(str(length) for length in shape)
    if len(shape) != 3:
        raise UnusableImage(f"The file has {len(shape)} axes ({size}); a scan here is one 3D volume.")
    if min(shape) < 1:
        raise UnusableImage(f"The volume is {size} voxels: it is empty.")
    if min(shape) == 1:
        raise UnusableImage(
            f"The volume is a single slice ({size} voxels); at least 2 along each axis are needed."
        )
    if math.prod(shape) > MAX_VOXELS:
        raise UnusableImage(
            f"The header claims {size} voxels, more than {MAX_VOXELS}; it is damaged or too large."
        )
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UnusableImage("The file gives no usable position: its affine is not invertible or not finite.")


def require_bytes(present: int, expected: int) -> None:
    if present < expected:
        raise UnusableImage(f"The file is truncated: {present} of {expected} bytes are there.")


def inflate(stream: Any, expected: int) -> bytes:
    content: bytes = stream.read(expected)
    # To the end, so that the checksum is compared; in pieces, so that a bomb fills no memory.
    while stream.read(1 << 20):
        pass
    return content
