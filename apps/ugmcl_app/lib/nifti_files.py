"""nifti_files: NIfTI-1 and -2, plain or compressed, read without trusting the header."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from .errors import UnusableImage
from .file_headers import FORMATS, FileHeader, inflate, require_bytes, require_volume


def read_nifti_header(start: bytes, extension: str) -> FileHeader:
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        size = kind.template_dtype.itemsize
        magic = start[344:348] if kind is nibabel.Nifti1Header else start[4:8]
        if len(start) >= size and magic in (b"n+1\0", b"n+2\0"):
            source = kind(start[:size], check=False)
            break
    else:
        raise UnusableImage(f"The file is not {FORMATS}.")
    shape = tuple(int(length) for length in source.get_data_shape())
    affine = np.asarray(source.get_best_affine(), dtype=np.float64)
    require_volume(shape, affine)
    _require_scalar(source.get_data_dtype())
    return FileHeader(extension, shape, affine, source)


def _require_scalar(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iuf":
        raise UnusableImage(f"The voxels are of type {dtype}; one real number a voxel is needed.")


def nifti_bytes(header: FileHeader) -> int:
    voxels = math.prod(header.shape) * header.source.get_data_dtype().itemsize
    return int(header.source.get_data_offset()) + voxels


def read_nifti_voxels(path: Path, header: FileHeader) -> NDArray[Any]:
    expected = nifti_bytes(header)
    if header.extension == ".nii.gz":
        with gzip.open(path) as compressed:
            content = inflate(compressed, expected)
    else:
        with path.open("rb") as stream:
            content = stream.read(expected)
    require_bytes(len(content), expected)
    kind = nibabel.Nifti2Image if isinstance(header.source, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return np.asanyarray(kind.from_bytes(content).dataobj)
