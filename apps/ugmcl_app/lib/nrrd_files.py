"""nrrd_files: NRRD with its voxels in the same file; its space is converted to RAS and back."""

from __future__ import annotations

import bz2
import gzip
import io
import math
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from numpy.typing import NDArray

from .errors import UnusableImage
from .file_headers import FileHeader, inflate, require_bytes, require_volume

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


def read_nrrd_header(path: Path) -> FileHeader:
    with path.open("rb") as stream:
        source = nrrd.read_header(stream)
    if {"datafile", "data file"} & set(source):
        # A detached header may name any file of this machine.
        raise UnusableImage(
            "The NRRD keeps its voxels in another file; send one file with header and voxels."
        )
    shape = tuple(int(length) for length in source["sizes"])
    if len(shape) != 3:
        require_volume(shape, np.eye(4))
    affine = _nrrd_affine(source)
    require_volume(shape, affine)
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


def nrrd_itemsize(header: FileHeader) -> int:
    return int(nrrd.reader._determine_datatype(header.source).itemsize)


def read_nrrd_voxels(path: Path, header: FileHeader) -> NDArray[Any]:
    voxels = math.prod(header.shape)
    expected = voxels * nrrd_itemsize(header)
    encoding = header.source["encoding"]
    with path.open("rb") as stream:
        source = nrrd.read_header(stream)
        if encoding in ("raw", "ascii", "text", "txt"):
            # From memory: pynrrd's file branch uses numpy readers that silently stop early.
            content = stream.read()
        elif encoding in ("gzip", "gz"):
            content = inflate(gzip.GzipFile(fileobj=stream), expected)
        else:
            content = inflate(bz2.BZ2File(stream), expected)
    if encoding not in ("ascii", "text", "txt"):
        require_bytes(len(content), expected)
        source = {**source, "encoding": "raw"}
    return np.asarray(nrrd.read_data(source, io.BytesIO(content), index_order="F"))


def encode_nrrd(array: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
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
