"""volumes: scans, labels and maps as files: NIfTI (.nii, .nii.gz) and NRRD (.nrrd), told apart by content.

The one place that knows file formats. Everything inside is `(X, Y, Z)` in the file's own voxel order with an
affine from voxel index to RAS millimeters; NRRD's LPS space is converted on the way in and out.
"""

from __future__ import annotations

import bz2
import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import nrrd
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ugmcl.volume import Volume

from .errors import UnusableImage
from .workspace import write_bytes_atomic

EXTENSIONS = (".nii.gz", ".nii", ".nrrd")
"""File names of scans and labels end in one of these; the first is how labels and maps are stored."""
MAX_VOXELS = 2**31
"""Larger headers are taken for damage: reading them would exhaust memory before the data proves them
wrong."""
_BROKEN = (OSError, EOFError, zlib.error, ValueError, IndexError, KeyError, TypeError, OverflowError)
_FORMATS = "a NIfTI (.nii, .nii.gz) or NRRD (.nrrd) volume"
_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Diagonals from a NRRD space to RAS; anything else has no place in a patient, or another number of axes.
_NRRD_SPACES = {
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
}


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
            return _nrrd_header(path)
        if start.startswith(b"\x1f\x8b"):
            with gzip.open(path) as stream:
                return _nifti_header(stream.read(544), ".nii.gz")
        with path.open("rb") as stream:
            return _nifti_header(stream.read(544), ".nii")
    except UnusableImage:
        raise
    except (EOFError, zlib.error) as error:
        raise UnusableImage("The file is truncated or damaged: its compressed data ends early.") from error
    except (*_BROKEN, nrrd.NRRDError, HeaderDataError, ImageFileError) as error:
        raise UnusableImage(f"The file is not {_FORMATS}; its header cannot be read.") from error


def read_voxels(path: Path | str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """All voxels `(X, Y, Z)`, in the file's own type (scaled where a NIfTI says so), and the affine.

    Raises:
        UnusableImage: As `read_header`, and for a file that ends before its voxels do.
    """
    header = read_header(path)
    try:
        if header.extension == ".nrrd":
            array = _nrrd_voxels(Path(path), header)
        else:
            array = _nifti_voxels(Path(path), header)
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
        expected = math.prod(header.shape) * _nrrd_itemsize(header)
        with path.open("rb") as stream:
            nrrd.read_header(stream)
            present = path.stat().st_size - stream.tell()
        encoding = header.source["encoding"]
        raw, compressed = encoding == "raw", encoding in ("gzip", "gz")
    else:
        expected, present = _nifti_bytes(header), path.stat().st_size
        raw, compressed = header.extension == ".nii", header.extension == ".nii.gz"
    if raw:
        _require_bytes(present, expected)
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
        return _encode_nrrd(array, affine)
    image = nibabel.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    # No time stamp in the gzip header: equal content gives equal bytes.
    return gzip.compress(content, compresslevel=1, mtime=0) if extension == ".nii.gz" else content


def _require_volume(shape: tuple[int, ...], affine: NDArray[np.float64]) -> None:
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


def _require_bytes(present: int, expected: int) -> None:
    if present < expected:
        raise UnusableImage(f"The file is truncated: {present} of {expected} bytes are there.")


def _gzip_length(path: Path) -> int:
    with path.open("rb") as stream:
        stream.seek(-4, io.SEEK_END)
        return int.from_bytes(stream.read(4), "little")  # ISIZE: uncompressed bytes modulo 2**32


def _nifti_header(start: bytes, extension: str) -> FileHeader:
    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        size = kind.template_dtype.itemsize
        magic = start[344:348] if kind is nibabel.Nifti1Header else start[4:8]
        if len(start) >= size and magic in (b"n+1\0", b"n+2\0"):
            source = kind(start[:size], check=False)
            break
    else:
        raise UnusableImage(f"The file is not {_FORMATS}.")
    shape = tuple(int(length) for length in source.get_data_shape())
    affine = np.asarray(source.get_best_affine(), dtype=np.float64)
    _require_volume(shape, affine)
    _require_scalar(source.get_data_dtype())
    return FileHeader(extension, shape, affine, source)


def _require_scalar(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iuf":
        raise UnusableImage(f"The voxels are of type {dtype}; one real number a voxel is needed.")


def _nifti_bytes(header: FileHeader) -> int:
    voxels = math.prod(header.shape) * header.source.get_data_dtype().itemsize
    return int(header.source.get_data_offset()) + voxels


def _nifti_voxels(path: Path, header: FileHeader) -> NDArray[Any]:
    expected = _nifti_bytes(header)
    if header.extension == ".nii.gz":
        with gzip.open(path) as compressed:
            content = _inflate(compressed, expected)
    else:
        with path.open("rb") as stream:
            content = stream.read(expected)
    _require_bytes(len(content), expected)
    kind = nibabel.Nifti2Image if isinstance(header.source, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return np.asanyarray(kind.from_bytes(content).dataobj)


def _nrrd_header(path: Path) -> FileHeader:
    with path.open("rb") as stream:
        source = nrrd.read_header(stream)
    if {"datafile", "data file"} & set(source):
        # A detached header may name any file of this machine.
        raise UnusableImage(
            "The NRRD keeps its voxels in another file; send one file with header and voxels."
        )
    shape = tuple(int(length) for length in source["sizes"])
    if len(shape) != 3:
        _require_volume(shape, np.eye(4))
    affine = _nrrd_affine(source)
    _require_volume(shape, affine)
    header = FileHeader(".nrrd", shape, affine, source)
    skips = [source.get(name, 0) for name in ("lineskip", "line skip", "byteskip", "byte skip")]
    if set(skips) - {0, -1}:
        raise UnusableImage("The NRRD skips lines or bytes before its voxels; write it without.")
    if source.get("encoding") not in ("raw", "gzip", "gz", "bzip2", "bz2", "ascii", "text", "txt"):
        raise UnusableImage(f"The NRRD's encoding is {source.get('encoding')!r}; use raw or gzip.")
    if source.get("type") == "block":
        raise UnusableImage("The NRRD's voxels are opaque blocks; one real number a voxel is needed.")
    return header


def _nrrd_affine(source: dict[str, Any]) -> NDArray[np.float64]:
    affine = np.eye(4)
    if "space directions" in source:
        affine[:3, :3] = np.asarray(source["space directions"], dtype=np.float64).T
    elif "spacings" in source:
        affine[:3, :3] = np.diag(np.asarray(source["spacings"], dtype=np.float64))
    if "space origin" in source:
        affine[:3, 3] = np.asarray(source["space origin"], dtype=np.float64)
    # ITK takes a NRRD without a space for LPS; so does every viewer built on it.
    space = str(source.get("space", "left-posterior-superior")).lower()
    if space not in _NRRD_SPACES:
        raise UnusableImage(f"The NRRD's space is {space!r}; allowed: {', '.join(_NRRD_SPACES)}.")
    return np.diag([*_NRRD_SPACES[space], 1.0]) @ affine


def _nrrd_itemsize(header: FileHeader) -> int:
    return int(nrrd.reader._determine_datatype(header.source).itemsize)


def _nrrd_voxels(path: Path, header: FileHeader) -> NDArray[Any]:
    voxels = math.prod(header.shape)
    expected = voxels * _nrrd_itemsize(header)
    encoding = header.source["encoding"]
    with path.open("rb") as stream:
        source = nrrd.read_header(stream)
        if encoding in ("raw", "ascii", "text", "txt"):
            # From memory: pynrrd's file branch uses numpy readers that silently stop early.
            content = stream.read()
        elif encoding in ("gzip", "gz"):
            content = _inflate(gzip.GzipFile(fileobj=stream), expected)
        else:
            content = _inflate(bz2.BZ2File(stream), expected)
    if encoding not in ("ascii", "text", "txt"):
        _require_bytes(len(content), expected)
        source = {**source, "encoding": "raw"}
    return np.asarray(nrrd.read_data(source, io.BytesIO(content), index_order="F"))


def _inflate(stream: Any, expected: int) -> bytes:
    content: bytes = stream.read(expected)
    # To the end, so that the checksum is compared; in pieces, so that a bomb fills no memory.
    while stream.read(1 << 20):
        pass
    return content


def _encode_nrrd(array: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    lps = _LPS_RAS @ affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T + 0.0,  # + 0.0 turns -0 into 0
        "space origin": lps[:3, 3] + 0.0,
        "kinds": ["domain", "domain", "domain"],
        "encoding": "gzip",
        "endian": "little",
    }
    target = io.BytesIO()
    nrrd.write(target, np.asfortranarray(array), header, index_order="F", compression_level=1)
    return target.getvalue()
