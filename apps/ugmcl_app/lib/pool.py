"""pool: which files of a project's folder are usable: their names, their signatures, and their content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .checks import check_label, safe_id
from .errors import Refusal, UnusableImage
from .volumes import EXTENSIONS, check_complete, extension_of, read_volume


class Signature(NamedTuple):
    """What changes when a file does: its size in bytes and modification time in ns."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path | str) -> Signature | None:
        """Of a regular file (or a link to one); None where there is none."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns)


def scan_version(path: Path | str) -> str:
    """What changes when a scan is replaced: its name and signature in one string; empty where none is."""
    signature = Signature.of(path)
    return f"{signature.size}:{signature.mtime_ns}:{Path(path).name}" if signature else ""


class Finding(NamedTuple):
    """What reading a file found.

    Attributes:
        reason: Why its content cannot be used; None: it can, as far as it was read.
        sha256: Of a label file's bytes.
        passing: Whether reading failed in the system, so that the same file may be readable later.
    """

    reason: str | None
    sha256: str = ""
    passing: bool = False


def read_image(path: Path, voxels: bool) -> Finding:
    """Check a scan: its header and size, or with `voxels` all of it."""
    try:
        if voxels:
            read_volume(path)
        else:
            check_complete(path)
    except UnusableImage as error:
        return Finding(str(error), passing=_may_pass(error.__cause__))
    except MemoryError:
        return Finding("The file does not fit into this machine's memory.")
    return Finding(None)


def read_label_file(path: Path, image: Path, labels: Mapping[str, int], allow_empty: bool) -> Finding:
    """Check a label found in the folder; its values are the project's.

    Args:
        path: The label file.
        image: The scan's file.
        labels: The project's classes, `{name: value}`.
        allow_empty: Whether it may be all zero.
    """
    digest = ""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        check_label(path, image, labels, allow_empty=allow_empty)
    except Refusal as refusal:
        return Finding(str(refusal.detail), digest)
    except (OSError, UnusableImage) as error:
        reason = f"The label or its image cannot be read ({error})."
        return Finding(reason, digest, passing=_may_pass(error) or _may_pass(error.__cause__))
    return Finding(None, digest)


def _may_pass(error: BaseException | None) -> bool:
    """Whether reading failed in the system and not in the content: a mount or a right that may come back.

    Such a finding is not remembered, for the file's signature does not change when it can be read again.
    """
    return isinstance(error, OSError) and error.errno is not None


def label_context(image: Signature | None, labels: Mapping[str, int], allow_empty: bool) -> str:
    """What the finding of a label depends on beside its own bytes, as one string."""
    return repr((image, sorted(labels.items()), allow_empty))


def list_folder(folder: Path) -> dict[str, Signature]:
    """Regular files of a folder whose names end like a scan's, in either case; no file is opened.

    Raises:
        OSError: If the folder cannot be listed; then nothing is known, and nothing must be concluded.
    """
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.lower().endswith(EXTENSIONS):
                continue
            try:
                state = entry.stat()
            except OSError:
                found[entry.name] = Signature(-1, 0)  # a dangling link is worth a reason in the list
                continue
            if not stat.S_ISDIR(state.st_mode):  # a folder is not a scan
                found[entry.name] = Signature(state.st_size, state.st_mtime_ns)
    return found


def split_name(name: str) -> tuple[str, str]:
    """File name -> id and extension; only the extension at the end is taken off.

    Raises:
        ValueError: With the reason why the file cannot belong to the pool.
    """
    extension = extension_of(name)
    if extension is None:
        meant = extension_of(name.lower())
        if meant is None:
            raise ValueError("Its name does not end like a scan's.")
        # Not served under its name: id plus extension must give the file's name, here and in every client.
        renamed = name[: -len(meant)] + meant
        raise ValueError(f"Its extension is not in lower case; rename it to {renamed!r} to have it served.")
    if name.startswith("._"):
        raise ValueError("It is a macOS resource file (its name starts with '._'), not a scan.")
    image_id = name[: -len(extension)]
    try:
        return safe_id(image_id), extension
    except Refusal as refusal:
        raise ValueError(str(refusal.detail)) from refusal


def printable(name: Any) -> str:
    """A file name that can be sent as JSON, whatever bytes it is made of."""
    return str(name).encode("utf-8", "replace").decode()
