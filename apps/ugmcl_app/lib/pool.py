"""pool: which files of a project's folder are usable, found out once per file and remembered in the
workspace."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .checks import check_label, safe_id
from .errors import Refusal, UnusableImage
from .volumes import check_complete, extension_of, read_volume
from .workspace import read_json, write_json_atomic


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


@dataclass(frozen=True)
class Finding:
    """What reading a file found.

    Attributes:
        size, mtime_ns: The file's signature when it was read.
        reason: Why the file is set aside; None: usable as far as it was read.
        voxels: Whether every voxel was read, not just header and size.
        context: What else the finding depends on (of a label: its image and the project's classes).
        sha256: Of a label file's bytes.
    """

    size: int
    mtime_ns: int
    reason: str | None
    voxels: bool = True
    context: str = ""
    sha256: str = ""

    @property
    def signature(self) -> Signature:
        return Signature(self.size, self.mtime_ns)


class PoolFindings:
    """Remembers findings by file, so that a start with thousands of scans reads only what is new.
    Thread-safe."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._dirty = False
        self._findings: dict[str, Finding] = {}
        stored = read_json(file, {})
        for key, values in stored.items() if isinstance(stored, dict) else ():
            try:
                self._findings[key] = Finding(**values)
            except TypeError:
                continue  # written by another version: that file is read again

    def image(self, path: Path, signature: Signature, voxels: bool) -> Finding:
        """Check a scan: its header and size, or with `voxels` all of it."""
        known = self._known(path.name, signature)
        if known and (known.voxels or known.reason or not voxels):
            return known
        reason, passing = None, False
        try:
            if voxels:
                read_volume(path)
            else:
                check_complete(path)
        except UnusableImage as error:
            reason, passing = str(error), _may_pass(error.__cause__)
        except MemoryError:
            reason = "The file does not fit into this machine's memory."
        finding = Finding(*signature, reason, voxels=voxels)
        return finding if passing else self._keep(path.name, finding)

    def label(
        self,
        key: str,
        path: Path,
        signature: Signature,
        image: Path,
        labels: Mapping[str, int],
        allow_empty: bool,
    ) -> Finding:
        """Check a label found in the folder; its values are the project's.

        Args:
            key: Tag and file name.
            path: The label file.
            signature: Its signature.
            image: The scan's file.
            labels: The project's classes, `{name: value}`.
            allow_empty: Whether it may be all zero.
        """
        context = _label_context(image, labels, allow_empty)
        known = self._known(key, signature)
        if known and known.context == context:
            return known
        reason, digest = None, ""
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            check_label(path, image, labels, allow_empty=allow_empty)
        except Refusal as refusal:
            reason = str(refusal.detail)
        except (OSError, UnusableImage) as error:
            reason = f"The label or its image cannot be read ({error})."
            if _may_pass(error) or _may_pass(error.__cause__):
                return Finding(*signature, reason, context=context)
        return self._keep(key, Finding(*signature, reason, context=context, sha256=digest))

    def accept_label(
        self, key: str, path: Path, image: Path, labels: Mapping[str, int], allow_empty: bool, sha256: str
    ) -> None:
        """Remember a label that was checked before it was written; arguments as `label`."""
        signature = Signature.of(path)
        if signature is not None:
            context = _label_context(image, labels, allow_empty)
            self._keep(key, Finding(*signature, None, context=context, sha256=sha256))

    def forget_missing(self, present: set[str]) -> None:
        """Drop what is remembered of files that are gone."""
        with self._lock:
            for key in set(self._findings) - present:
                del self._findings[key]
                self._dirty = True

    def save(self) -> None:
        """Write what is not on disk yet."""
        with self._lock:
            if self._dirty:
                write_json_atomic(self._file, {key: asdict(found) for key, found in self._findings.items()})
                self._dirty = False

    def _known(self, key: str, signature: Signature) -> Finding | None:
        with self._lock:
            known = self._findings.get(key)
        return known if known and known.signature == signature else None

    def _keep(self, key: str, finding: Finding) -> Finding:
        with self._lock:
            self._findings[key] = finding
            self._dirty = True
        return finding


def _may_pass(error: BaseException | None) -> bool:
    """Whether reading failed in the system and not in the content: a mount or a right that may come back.

    Such a finding is not remembered, for the file's signature does not change when it can be read again.
    """
    return isinstance(error, OSError) and error.errno is not None


def _label_context(image: Path, labels: Mapping[str, int], allow_empty: bool) -> str:
    return repr((Signature.of(image), sorted(labels.items()), allow_empty))


def scan_files(folder: Path) -> dict[str, Signature]:
    """Regular files of a folder whose names end like a scan's, in either case, sorted by name.

    Raises:
        OSError: If the folder cannot be listed; then nothing is known, and nothing must be concluded.
    """
    return dict(sorted(_scan(folder)))


def _scan(folder: Path) -> Iterator[tuple[str, Signature]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if extension_of(entry.name.lower()) is None:
                continue
            signature = Signature.of(entry.path)
            # A dangling link is worth a reason in the list; a folder is not a scan.
            if not entry.is_dir():
                yield entry.name, signature or Signature(-1, 0)


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
