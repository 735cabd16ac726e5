"""Readers of what a server answers, independent of its own writers and of the stock client's parser."""

from __future__ import annotations

import email
import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import requests


@dataclass(frozen=True)
class Part:
    """One part of a multipart reply, as it came."""

    name: str
    filename: str | None
    content: bytes


def parts_of(answer: requests.Response) -> list[Part]:
    """The parts of a multipart reply in their order, by a parser that is neither the client's nor ours."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.content)
    assert message.is_multipart(), answer.headers["content-type"]
    found = []
    for part in message.get_payload():
        assert isinstance(part, email.message.Message)
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found.append(Part(str(name), part.get_filename(), content))
    return found


def nifti_of(content: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def nrrd_of(content: bytes) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Voxels `(X, Y, Z)`, affine voxel -> RAS mm and header of an NRRD file in LPS."""
    stream = io.BytesIO(content)
    header = nrrd.read_header(stream)
    array = nrrd.read_data(header, stream, index_order="F")
    assert header["space"] == "left-posterior-superior"
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(header["space directions"], float).T
    affine[:3, 3] = header["space origin"]
    return array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, dict(header)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    total = int((one > 0).sum() + (other > 0).sum())
    return 1.0 if total == 0 else 2 * int(((one > 0) & (other > 0)).sum()) / total


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)
