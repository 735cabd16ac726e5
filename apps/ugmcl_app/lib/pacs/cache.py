"""cache: series of a PACS on this disk: fetched once, whole and checked, and bounded in size.

An entry is a folder named by its SeriesInstanceUID with one file an instance and a manifest. It appears in
one step (a rename), so that there is never half a series. What a broken fetch brought is kept beside it and
need not travel again. The files hold what the PACS holds of patients: the folder is for this user alone. An
entry may be dropped while its files are read: whoever meets a missing file asks again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..workspace import read_json, write_bytes_atomic, write_json_atomic
from .arrival import checked
from .connection import PacsAnswerUnusable, PacsUnavailable
from .dicomweb import DicomWeb

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_PARTIAL = ".partial"
DEFAULT_BYTES = 20 * 1024**3
"""Bound of a cache: about 200 CT series of 200 slices of 512 x 512 pixels."""
_FEW = 8
"""So many missing instances are asked for one by one; more, and the series travels again."""


@dataclass(frozen=True)
class CachedSeries:
    """A series on this disk.

    Attributes:
        uid, study_uid: SeriesInstanceUID and StudyInstanceUID.
        files: Its instances, in the order of their UIDs.
        fingerprint: Of its instances' contents; another one means another series content.
    """

    uid: str
    study_uid: str
    files: tuple[Path, ...]
    fingerprint: str


class SeriesCache:
    """Series of one PACS under one folder, the least recently used dropped first. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        web: DicomWeb,
        max_bytes: int = DEFAULT_BYTES,
        needed: Callable[[str], bool] = lambda uid: False,
    ) -> None:
        """Series that are `needed(uid)` are not dropped to make room."""
        self._folder, self._web, self._max_bytes, self._needed = Path(folder), web, max_bytes, needed
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._verified: dict[str, tuple[tuple[int, int], ...]] = {}

    def get(self, study_uid: str, series_uid: str) -> CachedSeries:
        """A series: from the disk where it is whole there, else fetched; two who ask at once fetch it once.

        Raises:
            PacsError: If it has to be fetched and cannot be; what has arrived is kept for the next attempt.
        """
        with self._lock_of(series_uid):
            found = self._find(series_uid)
            if found is None:
                found = self._fetch(study_uid, series_uid)
        self._shrink(keep=series_uid)
        return found

    def refresh(self, study_uid: str, series_uid: str) -> CachedSeries:
        """A series as the PACS has it now: fetched again if its instances changed.

        While the PACS is away, the series of the disk is the answer.

        Raises:
            PacsError: If it is not on the disk and cannot be fetched, or the PACS no longer has it.
        """
        with self._lock_of(series_uid):
            found = self._find(series_uid)
            if found is not None:
                try:
                    current = self._web.list_instances(study_uid, series_uid)
                except PacsUnavailable as error:
                    logger.info("series %s is used from the cache: %s", series_uid, error)
                    return found
                if current == set(self._manifest(series_uid)["instances"]):
                    return found
                self._drop(series_uid)
            found = self._fetch(study_uid, series_uid)
        self._shrink(keep=series_uid)
        return found

    def forget(self, series_uid: str) -> None:
        """Drop a series; it is fetched anew when it is asked for."""
        with self._lock_of(series_uid):
            self._drop(series_uid)

    def folder_of(self, series_uid: str) -> Path:
        """Where a series lies, if it is here; what is made of it may lie there too, and goes with it."""
        return self._folder / series_uid

    def has(self, series_uid: str) -> bool:
        """Whether a whole series is on the disk; damage shows when it is asked for."""
        return (self._folder / series_uid / MANIFEST).exists()

    def cached(self) -> list[str]:
        """UIDs of the whole series on the disk."""
        names = (path.parent.name for path in self._folder.glob(f"*/{MANIFEST}"))
        return sorted(name for name in names if not name.endswith(_PARTIAL))

    def size(self) -> int:
        """Bytes of all files, those of broken fetches included."""
        return sum(_bytes_of(path) for path in self._folder.iterdir())

    def _find(self, uid: str) -> CachedSeries | None:
        """The series if it is whole and as it arrived; a damaged one is dropped."""
        manifest = self._manifest(uid)
        if manifest is None:
            return None
        files = tuple(self._folder / uid / entry["file"] for entry in manifest["instances"].values())
        try:
            states = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in files)
            if self._verified.get(uid) != states:
                for path, entry in zip(files, manifest["instances"].values(), strict=True):
                    if _digest(path.read_bytes()) != entry["sha256"]:
                        raise OSError("another content than what arrived")
                self._verified[uid] = states
            # Not the kernel's own clock, whose ticks of some milliseconds can make two uses one.
            os.utime(self._folder / uid, ns=(time.time_ns(), time.time_ns()))
        except OSError as error:
            logger.warning("cached series %s is damaged (%s); it is fetched anew", uid, error)
            self._drop(uid)
            return None
        return CachedSeries(uid, manifest["study_uid"], files, _fingerprint(manifest))

    def _manifest(self, uid: str) -> Any:
        manifest = read_json(self._folder / uid / MANIFEST, None)
        return (
            manifest if isinstance(manifest, dict) and isinstance(manifest.get("instances"), dict) else None
        )

    def _fetch(self, study_uid: str, uid: str) -> CachedSeries:
        partial = self._folder / (uid + _PARTIAL)
        partial.mkdir(parents=True, exist_ok=True, mode=0o700)
        expected = self._web.list_instances(study_uid, uid)
        if not expected:
            raise PacsAnswerUnusable(
                f"The PACS has no instances of the series {uid}; it may have been deleted.", 404
            )
        start = time.monotonic()
        self._web.connection.retry(lambda: self._collect(study_uid, uid, expected, partial), f"series {uid}")
        # A series that changes while it travels: whoever sends to the PACS may not be done.
        if self._web.list_instances(study_uid, uid) != expected:
            raise PacsUnavailable(
                f"The series {uid} changes in the PACS just now; it is fetched when it is whole."
            )
        instances = {}
        for path in partial.iterdir():
            if path.stem not in expected:
                path.unlink()  # of an earlier state of the series
        for instance in sorted(expected):
            content = (partial / f"{instance}.dcm").read_bytes()
            instances[instance] = {"file": f"{instance}.dcm", "sha256": _digest(content)}
        manifest = {"series_uid": uid, "study_uid": study_uid, "instances": instances}
        write_json_atomic(partial / MANIFEST, manifest)
        self._drop(uid)
        partial.rename(self._folder / uid)
        logger.info("fetched series %s: %d instances in %.1f s", uid, len(expected), time.monotonic() - start)
        found = self._find(uid)
        if found is None:
            raise PacsAnswerUnusable(f"The series {uid} could not be kept on this disk.")
        return found

    def _collect(self, study_uid: str, uid: str, expected: frozenset[str], partial: Path) -> None:
        """Bring every expected instance into the folder; those there already stay."""

        def keep(content: bytes) -> None:
            instance = checked(content, study_uid, uid)
            if instance in expected:
                write_bytes_atomic(partial / f"{instance}.dcm", content)

        missing = self._missing(expected, partial)
        if len(missing) > min(_FEW, len(expected) - 1):
            self._web.fetch_series(study_uid, uid, keep)
        else:
            for instance in sorted(missing):
                self._web.fetch_instance(study_uid, uid, instance, keep)
        missing = self._missing(expected, partial)
        if missing:
            there = len(expected) - len(missing)
            raise PacsUnavailable(
                f"The PACS sent {there} of the {len(expected)} instances of the series {uid}."
            )

    @staticmethod
    def _missing(expected: frozenset[str], partial: Path) -> set[str]:
        return {instance for instance in expected if not (partial / f"{instance}.dcm").is_file()}

    def _shrink(self, keep: str) -> None:
        """Drop the least recently used until the bound holds; the one just asked for stays."""
        with self._lock:
            sizes = {path: _bytes_of(path) for path in self._folder.iterdir()}
            total = sum(sizes.values())
            for path in sorted(sizes, key=_last_use):
                if total <= self._max_bytes:
                    return
                uid = path.name.removesuffix(_PARTIAL)
                lock = self._fetching.setdefault(uid, threading.Lock())
                if (
                    uid != keep and not self._needed(uid) and lock.acquire(blocking=False)
                ):  # one in use right now stays
                    try:
                        shutil.rmtree(path, ignore_errors=True)
                        self._verified.pop(uid, None)
                        total -= sizes[path]
                    finally:
                        lock.release()

    def _drop(self, uid: str) -> None:
        folder = self._folder / uid
        (folder / MANIFEST).unlink(missing_ok=True)  # first, so that a killed removal leaves no whole entry
        shutil.rmtree(folder, ignore_errors=True)
        self._verified.pop(uid, None)

    def _lock_of(self, uid: str) -> threading.Lock:
        with self._lock:
            return self._fetching.setdefault(uid, threading.Lock())


def _bytes_of(folder: Path) -> int:
    """Of an entry's files; another thread may be renaming or removing it."""
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:
        return 0


def _last_use(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _fingerprint(manifest: dict[str, Any]) -> str:
    digests = {uid: entry["sha256"] for uid, entry in manifest["instances"].items()}
    return _digest(json.dumps(digests, sort_keys=True).encode())
