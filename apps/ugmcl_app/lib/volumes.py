"""volumes: scans, labels and maps as files: NIfTI (.nii, .nii.gz) and NRRD (.nrrd), told apart by content.

The one way in and out of volume files; the formats themselves are in `nifti_files` and `nrrd_files`.
Everything inside is `(X, Y, Z)` in the file's own voxel order with an affine from voxel index to RAS
millimeters; NRRD's LPS space is converted on the way in and out.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ugmcl.volume import Volume

from .errors import UnusableImage
from .file_headers import FORMATS, FileHeader, require_bytes
from .nifti_files import nifti_bytes, read_nifti_header, read_nifti_voxels
from .nrrd_files import encode_nrrd, nrrd_itemsize, read_nrrd_header, read_nrrd_voxels
from .workspace import write_bytes_atomic

EXTENSIONS = (".nii.gz", ".nii", ".nrrd")
"""File names of scans and labels end in one of these; the first is how labels and maps are stored."""
_BROKEN = (OSError, EOFError, zlib.error, ValueError, IndexError, KeyError, TypeError, OverflowError)


def extension_of(name: str) -> str | None:
    """The scan extension a file name ends in, or None."""
    return next((extension for extension in EXTENSIONS if name.endswith(extension)), None)


def read_header(path: Path | str) -> FileHeader:
    """Read shape and geometry, not the voxels.

    Raises:
        UnusableImage: For anything but one scalar 3D volume of at least 2 voxels along each axis.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
    except OSError as error:
        raise UnusableImage(f"The file cannot be read ({error.strerror}).") from error
    try:
        if start.startswith(b"NRRD"):
            return read_nrrd_header(path)
        if start.startswith(b"\x1f\x8b"):
            with gzip.open(path) as stream:
                return read_nifti_header(stream.read(544), ".nii.gz")
        with path.open("rb") as stream:
            return read_nifti_header(stream.read(544), ".nii")
    except UnusableImage:
        raise
    except (EOFError, zlib.error) as error:
        raise UnusableImage("The file is truncated or damaged: its compressed data ends early.") from error
    except (*_BROKEN, nrrd.NRRDError, HeaderDataError, ImageFileError) as error:
        raise UnusableImage(f"The file is not {FORMATS}; its header cannot be read.") from error


def read_voxels(path: Path | str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """All voxels `(X, Y, Z)`, in the file's own type (scaled where a NIfTI says so), and the affine.

    Raises:
        UnusableImage: As `read_header`, and for a file that ends before its voxels do.
    """
    header = read_header(path)
    try:
        if header.extension == ".nrrd":
            array = read_nrrd_voxels(Path(path), header)
        else:
            array = read_nifti_voxels(Path(path), header)
    except UnusableImage:
        raise
    except (*_BROKEN, nrrd.NRRDError, HeaderDataError, ImageFileError) as error:
        raise UnusableImage("The file is truncated or damaged: its voxels cannot be read.") from error
    return array, header.affine


def read_volume(path: Path | str) -> Volume:
    """A scan ready for the method, as float32.

    Raises:
        UnusableImage: As `read_voxels`, and for a scan with NaN or infinite values or only one intensity.
    """
    voxels, affine = read_voxels(path)
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(voxels, dtype=np.float32)
    if not np.isfinite(array).all():
        raise UnusableImage("The image holds NaN or infinite intensities; a scan has finite ones only.")
    if array.min() == array.max():
        raise UnusableImage(
            f"The image is constant: every voxel is {float(array.flat[0]):g}, there is nothing to see."
        )
    return Volume(array, affine)


def read_label(path: Path | str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """A label's voxels `(X, Y, Z)` in their file's type, and its affine; see `read_voxels` for what it
    raises."""
    return read_voxels(path)


def check_complete(path: Path | str) -> FileHeader:
    """Read the header and compare the file's size with it; cheap even for a large pool.

    Of a compressed file only the trailer is compared; a mismatch there is settled by reading the file.

    Raises:
        UnusableImage: As `read_voxels`.
    """
    path = Path(path)
    header = read_header(path)
    if header.extension == ".nrrd":
        expected = math.prod(header.shape) * nrrd_itemsize(header)
        with path.open("rb") as stream:
            nrrd.read_header(stream)
            present = path.stat().st_size - stream.tell()
        encoding = header.source["encoding"]
        raw, compressed = encoding == "raw", encoding in ("gzip", "gz")
    else:
        expected, present = nifti_bytes(header), path.stat().st_size
        raw, compressed = header.extension == ".nii", header.extension == ".nii.gz"
    if raw:
        require_bytes(present, expected)
    elif not compressed or _gzip_length(path) != expected % 2**32:
        read_voxels(path)
    return header


def write_label(
    path: Path, array: NDArray[Any], affine: NDArray[np.float64], dtype: str | np.dtype[Any] | None = None
) -> None:
    """Write integer labels `(X, Y, Z)` atomically; the format is `path`'s extension, see `EXTENSIONS`.

    Equal labels give equal bytes, so a hash of the file is a hash of the label.
    """
    write_bytes_atomic(Path(path), encode(array if dtype is None else array.astype(dtype), affine, path.name))


def write_map(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write a float32 map `(X, Y, Z)` atomically; the format is `path`'s extension."""
    write_bytes_atomic(Path(path), encode(array.astype(np.float32), affine, path.name))


def encode(array: NDArray[Any], affine: NDArray[np.float64], name: str) -> bytes:
    """A volume `(X, Y, Z)` with its affine (voxel index to RAS mm) as the bytes of a file called `name`."""
    extension = extension_of(name)
    if extension is None:
        raise ValueError(f"{name!r} has no extension to write; allowed: {', '.join(EXTENSIONS)}.")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if extension == ".nrrd":
        return encode_nrrd(array, affine)
    image = nibabel.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    # No time stamp in the gzip header: equal content gives equal bytes.
    return gzip.compress(content, compresslevel=1, mtime=0) if extension == ".nii.gz" else content


def _gzip_length(path: Path) -> int:
    with path.open("rb") as stream:
        stream.seek(-4, io.SEEK_END)
        return int.from_bytes(stream.read(4), "little")  # ISIZE: uncompressed bytes modulo 2**32
