"""source: the series of a PACS as the cases of a project: listed, fetched when needed, and made into volumes.

A case's id is its SeriesInstanceUID. Its scan is called `<id>.nii.gz` like a file in a folder; the file is
made of the fetched series, lies beside it in the cache and goes with it. It has the same bytes and time of
change whenever it is made, so that scores, maps and labels stay valid.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from ..catalogue import folder_files
from ..catalogue.database import Database
from ..catalogue.schema import Case
from ..dicom.instances import MODALITIES
from ..dicom.series import Series, SeriesGrid, read_grid, read_series
from ..errors import Refusal, UnusableImage
from ..pool import Finding, Signature, read_image
from ..volumes import EXTENSIONS, encode
from ..workspace import write_file_atomic
from . import known_series
from .cache import CachedSeries, SeriesCache
from .connection import PacsConnection, PacsError, PacsUnavailable
from .dicomweb import DicomWeb, Listing
from .known_series import KnownSeries
from .settings import PacsSettings

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

POLL_S = 10.0
_EXTENSION = EXTENSIONS[0]
_YEAR_2000_NS = 946_684_800 * 10**9
_HOLD_S, _LONGEST_HOLD_S = 30.0, 3600.0
_TRIES = 3
"""A series may be dropped to make room just while it is read; a cache smaller than three series is none."""


class _Held(NamedTuple):
    """A series that could not be fetched although the PACS answers: the others come first for a while."""

    until: float
    wait_s: float
    reason: str


class PacsSource:
    """Series of a PACS as a `CaseSource`. Thread-safe.

    Attributes:
        web, cache: The PACS, and its series on this disk.
        trouble: A sentence on why the PACS does not do what is asked, or empty.
        on_news: Called when a look found changes, or the PACS to be back.
    """

    is_folder = False

    def __init__(
        self,
        folder: Path,
        settings: PacsSettings,
        database: Database,
        max_bytes: int,
        poll_s: float = POLL_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`folder` is the project's own, for series and labels; `max_bytes` bounds the series."""
        self.root = Path(folder).resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        self.settings, self.trouble = settings, ""
        self.on_news: Callable[[], None] = lambda: None
        self._database, self._poll_s = database, poll_s
        self.web = DicomWeb(PacsConnection(settings, sleep))
        # A poll comes again by itself: one attempt, so that nobody waits for a PACS that is away.
        self._polling = DicomWeb(PacsConnection(dataclasses.replace(settings, attempts=1)))
        self.cache = SeriesCache(self.root / "series", self.web, max_bytes, self._is_needed)
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self._listings: dict[str, Listing] = {}
        self._polled_at = -poll_s
        self._is_away = False
        self._held: dict[str, _Held] = {}
        with database.read() as session:
            self._known = known_series.load(session)

    def close(self) -> None:
        """End the connections."""
        self.web.connection.close()
        self._polling.connection.close()

    # --- what the catalogue asks

    @property
    def is_away(self) -> bool:
        return self._is_away

    def list_files(self) -> dict[str, Signature]:
        if time.monotonic() - self._polled_at >= self._poll_s:
            self.poll()
        listed = {f"{uid}{_EXTENSION}": found.signature for uid, found in self._image_series().items()}
        return {**listed, **folder_files.list_labels(self.root)}

    def signature(self, name: str) -> Signature | None:
        if "/" in name:
            return Signature.of(self.root / name)
        found = self._image_series_named(name)
        return found.signature if found else None

    def path(self, name: str) -> Path:
        if "/" in name:
            return self.root / name
        return self.cache.folder_of(name.removesuffix(_EXTENSION)) / name

    def read_image(self, name: str, voxels: bool) -> Finding:
        uid = name.removesuffix(_EXTENSION)
        if not self._is_near(name):
            held = self._held.get(uid)
            if held is not None and time.monotonic() < held.until:
                return Finding(held.reason, passing=True)
            if not voxels:
                return Finding(self.trouble if self._is_away else None, passing=True)
        try:
            found = read_image(self._make(name), voxels)
        except PacsError as error:
            if not self._is_away:
                self._hold(uid, str(error))
            return Finding(str(error), passing=True)
        except UnusableImage as error:
            return Finding(str(error))
        self._held.pop(uid, None)
        return found

    def fetch(self, name: str) -> Path:
        try:
            return self._make(name)
        except PacsError as error:
            raise Refusal(503, f"{error} The scan is not on this machine, so it has to wait.") from error
        except UnusableImage as error:
            raise Refusal(422, str(error)) from error

    def at_hand(self, scans: Iterable[tuple[str, str]]) -> dict[str, str]:
        return {case_id: str(self.path(name)) for case_id, name in scans if self._is_near(name)}

    def set_aside(self, session: Session) -> dict[str, str]:
        images = folder_files.set_aside(session)
        said = {name.removesuffix(_EXTENSION): reason for name, reason in images.items() if "/" not in name}
        return {**said, **known_series.refused(session)}

    def uids(self, case_ids: list[str]) -> dict[str, tuple[str, str]]:
        found = ((case_id, self._known.get(case_id)) for case_id in case_ids)
        return {case_id: (row.study_uid, row.uid) for case_id, row in found if row is not None}

    # --- for what is made of series

    def series_of_study(self, study_uid: str) -> list[str]:
        """The cases of a study, by id."""
        return sorted(uid for uid, row in self._image_series().items() if row.study_uid == study_uid)

    def grid(self, case_id: str) -> SeriesGrid:
        """The grid of a case; raises as `fetch`."""
        self.fetch(case_id + _EXTENSION)
        return self._reading(case_id, lambda cached: read_grid(cached.files))

    def is_here(self, case_id: str) -> bool:
        """Whether the scan of a case is on this disk."""
        return self._is_near(case_id + _EXTENSION)

    def known(self, uid: str) -> KnownSeries | None:
        """What is known of a series, whatever its modality."""
        return self._known.get(uid)

    def note(self, row: KnownSeries) -> None:
        """Keep what was found out about a series."""
        self._enter({row.uid: row})

    # --- following the PACS

    def poll(self) -> None:
        """Ask for the lists of series now; a PACS that does not answer leaves what is known as it is."""
        self._polled_at = time.monotonic()
        news = False
        try:
            for modality in (*self.settings.modalities, "SEG"):
                # What narrows the images, such as a description, does not hold for what is drawn on them.
                narrowed = modality != "SEG"
                listing = self._polling.list_series(modality, self._listings.get(modality), narrowed)
                with self._lock:
                    known = dict(self._known)
                changed = known_series.differing(known, modality, listing.series)
                self._enter(changed)
                news |= bool(changed)
                self._listings[modality] = listing
        except PacsError as error:
            if str(error) != self.trouble:
                logger.warning("%s Work goes on with the series that are here.", error)
            self.trouble, self._is_away = str(error), True
        else:
            if self._is_away:
                logger.info("the PACS answers again")
                news = True
            self.trouble, self._is_away = "", False
        if news:
            self.on_news()

    def expire(self) -> None:
        """Something was written to the PACS: the next look asks it again."""
        self._polled_at = -self._poll_s

    def segmentations(self) -> list[KnownSeries]:
        """SEG series in the studies of cases that were not looked at as they are now."""
        with self._lock:
            rows = list(self._known.values())
        studies = {row.study_uid for row in self._image_series().values()}
        new = [row for row in rows if row.modality == "SEG" and row.listed and not row.is_made]
        return [row for row in new if row.study_uid in studies]

    # --- helpers

    def _hold(self, uid: str, reason: str) -> None:
        before = self._held.get(uid)
        wait_s = min(2 * before.wait_s, _LONGEST_HOLD_S) if before else _HOLD_S
        self._held[uid] = _Held(time.monotonic() + wait_s, wait_s, reason)

    def _enter(self, rows: dict[str, KnownSeries]) -> None:
        if rows:
            self._database.write(lambda session: known_series.put(session, rows.values()))
            with self._lock:
                self._known.update(rows)

    def _image_series(self) -> dict[str, KnownSeries]:
        with self._lock:
            return {u: row for u, row in self._known.items() if row.listed and row.modality in MODALITIES}

    def _image_series_named(self, name: str) -> KnownSeries | None:
        if not name.endswith(_EXTENSION):
            return None
        row = self._known.get(name.removesuffix(_EXTENSION))
        return row if row is not None and row.listed and row.modality in MODALITIES else None

    def _is_near(self, name: str) -> bool:
        row = self._image_series_named(name)
        return row is not None and row.is_made and Signature.of(self.path(name)) == row.signature

    def _is_needed(self, uid: str) -> bool:
        """Whether a series shall stay on the disk however long ago it was used: rounds need labeled cases."""
        with self._database.read() as session:
            found = session.get(Case, uid)
            return found is not None and found.labeled

    def _make(self, name: str) -> Path:
        """The volume of a series, made if it is not there.

        Raises:
            PacsError: If the series has to be fetched and cannot be.
            UnusableImage: If it makes no volume.
        """
        row = self._image_series_named(name)
        if row is None:
            raise PacsUnavailable(f"The PACS does not list the series {name.removesuffix(_EXTENSION)} now.")
        with self._lock:
            making = self._making.setdefault(row.uid, threading.Lock())
        with making:
            if self._is_near(name):
                with contextlib.suppress(OSError):
                    os.utime(self.path(name).parent)  # used just now: others make room first
                return self.path(name)
            changed = row.made_of != known_series.NOT_MADE and not row.is_made
            if self._is_away and (changed or not self.cache.has(row.uid)):
                raise PacsUnavailable(self.trouble)
            return self._write(row, name, changed)

    def _write(self, row: KnownSeries, name: str, changed: bool) -> Path:
        def make(cached: CachedSeries) -> Signature:
            if changed and row.instances and len(cached.files) != row.instances:
                raise PacsUnavailable(f"The series {row.uid} has changed; it is read when it can be fetched.")
            series = read_series(cached.files)
            return _write_volume(cached.files[0].parent / name, series, cached.fingerprint)

        try:
            made = self._reading(row.uid, make, changed)
        except UnusableImage:
            self.cache.forget(row.uid)  # it makes no volume: the room is for others
            raise
        self._enter({row.uid: row._replace(made_of=row.instances, size=made.size, mtime_ns=made.mtime_ns)})
        return self.path(name)

    def _reading(self, uid: str, read: Callable[[CachedSeries], Result], anew: bool = False) -> Result:
        """What `read` makes of the files of a series, fetched once more if they are dropped meanwhile."""
        row = self._known[uid]
        fetch = self.cache.refresh if anew else self.cache.get
        for attempt in range(_TRIES):
            cached = fetch(row.study_uid, uid)
            try:
                return read(cached)
            except (UnusableImage, OSError):
                if attempt == _TRIES - 1 or all(file.exists() for file in cached.files):
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")


def _write_volume(path: Path, series: Series, fingerprint: str) -> Signature:
    """Write a series' volume; its time of change is made of the content, not of the moment."""
    content = encode(_compact(series.volume.array), series.grid.affine, path.name)
    mtime_ns = _YEAR_2000_NS + int(fingerprint[:12], 16) % (20 * 365 * 86400) * 10**9

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)
        os.utime(temporary, ns=(mtime_ns, mtime_ns))

    write_file_atomic(path, write)
    return Signature(len(content), mtime_ns)


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers of 16 bits as such: the same values in half of the room."""
    whole = np.isfinite(array).all() and np.abs(array).max() <= 32767 and (array == np.round(array)).all()
    return array.astype(np.int16) if whole else array
