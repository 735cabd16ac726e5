"""Uploaded files: streamed to a private temporary folder under a name of our own, removed after use."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import UploadFile

from server.names import upload_suffix
from server.refusal import refuse

DICOM = ".dcm"
"""Suffix of an upload that is a DICOM object."""


@contextlib.contextmanager
def upload_on_disk(upload: UploadFile, dicom: bool = False) -> Iterator[Path]:
    """Give the upload as a file with its own suffix in a folder only this user can read; gone afterwards.

    Args:
        upload: What was sent.
        dicom: Whether a DICOM object will do as well; its suffix is `.dcm` whatever its name.

    Raises:
        HTTPException: 400 or 422 for a name `server.names.upload_suffix` refuses.
    """
    suffix = DICOM if dicom and _is_dicom(upload) else upload_suffix(upload.filename)
    with tempfile.TemporaryDirectory(prefix="ugmcl-upload-") as folder:
        path = Path(folder) / f"upload{suffix}"
        with path.open("wb") as file:
            shutil.copyfileobj(upload.file, file, length=1 << 20)
        yield path


def _is_dicom(upload: UploadFile) -> bool:
    start = upload.file.read(132)
    upload.file.seek(0)
    return start[128:] == b"DICM"


def json_object(text: str | None, what: str = "params") -> dict[str, Any]:
    """Parse a form field that must hold a JSON object; empty or absent means `{}`.

    Raises:
        HTTPException: 400 when it is not JSON, or JSON but not an object.
    """
    if text is None or not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        refuse(400, f"The form field {what} is not JSON; send an object, as in {{}}.")
    if not isinstance(value, dict):
        refuse(400, f"The form field {what} is JSON but not an object; send one, as in {{}}.")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def remove_files(*paths: str | os.PathLike[str] | None) -> None:
    """Remove result files once they are sent; a missing one is fine."""
    for path in paths:
        if path:
            with contextlib.suppress(OSError):
                Path(path).unlink()
