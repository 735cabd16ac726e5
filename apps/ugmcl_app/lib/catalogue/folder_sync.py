"""folder_sync: bring the catalogue in line with its scans and labels, reading no more than what changed.

A look happens in two steps. First the files are read, which takes long and needs no lock. Then one short
transaction enters what was found, unless the file has changed again since: then the next look will tell.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sqlalchemy.orm import Session

from ..checks import TAGS
from ..pool import Signature
from . import cases, folder_files, labels
from .database import Database
from .label_store import FOUND, LabelRecord, LabelStore
from .look import HEADER, IMAGE, UNOPENED, VOXELS, CaseLook, FileRow, Looker
from .schema import ABSENT, ACTIVE, GONE, PRESENT, SET_ASIDE, Case, Label

BATCH = 500
"""Cases in one transaction."""


class FolderSync:
    """Follows one source of cases for one process. Thread-safe.

    Other processes may follow the same source: what they entered is found in the catalogue, and costs this
    one a comparison.
    """

    def __init__(self, database: Database, looker: Looker, store: LabelStore) -> None:
        self._database, self._looker, self._store = database, looker, store
        self.folder, self._source = looker.folder, looker.source
        self._lock = threading.Lock()  # one look of the whole folder at a time
        self._known_lock = threading.Lock()
        self._known: dict[str, Signature] = {}

    def load(self, labels_too: bool) -> None:
        """Take over what earlier looks found.

        Args:
            labels_too: False where labels must be judged again, for other classes than at the last look.
        """
        with self._database.read() as session:
            known = folder_files.known_signatures(session)
        if not labels_too:
            known = {name: sig for name, sig in known.items() if folder_files.kind_of(name) not in TAGS}
        with self._known_lock:
            self._known = known

    def follow(self, reading_s: float) -> None:
        """Compare the scans and labels there are with the catalogue.

        Args:
            reading_s: Seconds for opening new and changed files; scans beyond are entered unread, labels
                beyond wait for the next look.

        Raises:
            OSError: If they cannot be listed.
        """
        with self._lock:
            listing = self._list_files()
            with self._known_lock:
                known = dict(self._known)
            differing = [name for name, signature in listing.items() if known.get(name) != signature]
            differing += [name for name in known if name not in listing]
            wanted = self._sort_out(differing, listing)
            deadline = time.monotonic() + reading_s
            for start in range(0, len(wanted), BATCH):
                batch = wanted[start : start + BATCH]
                self._look_at(batch, HEADER, lambda: time.monotonic() < deadline, listing)

    def _list_files(self) -> dict[str, Signature]:
        try:
            return self._source.list_files()
        except FileNotFoundError:
            if not self._made_label_folders():
                raise
            return self._source.list_files()

    def _made_label_folders(self) -> bool:
        """Make a folder of labels again that somebody removed while it was empty.

        Not where it had labels, or none of the scans is there: then the folder may be a share that is away.
        """
        missing = [tag for tag in TAGS if not (self.folder / "labels" / tag).exists()]
        with self._database.read() as session:
            if not missing or labels.any_of(session, missing):
                return False
        with self._known_lock:
            scans = [name for name in self._known if folder_files.kind_of(name) == IMAGE]
        if not self.folder.is_dir() or (scans and not any(self._source.signature(name) for name in scans)):
            return False
        for tag in missing:
            (self.folder / "labels" / tag).mkdir(parents=True, exist_ok=True)
        return True

    def read_through(self, seconds: float) -> None:
        """Read scans to their last voxel that were not yet, as many as the time allows."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._source.is_away:
            wanted = folder_files.not_read_through(self._database, 20)
            before = len(wanted)
            while wanted and time.monotonic() < deadline:
                self.look(wanted.pop(0))
            if before < 20 or time.monotonic() >= deadline:
                return

    def look(self, case_id: str, depth: int = VOXELS, anew: bool = False) -> CaseLook:
        """Look at one case now, whatever is known of it; with `anew` also at a scan that did not change."""
        return self._look_at([case_id], depth, lambda: True, None, anew)[case_id]

    def note(self, written: Mapping[str, Signature], gone: Iterable[str] = ()) -> None:
        """Files that this process has just written and entered into the catalogue, or removed."""
        with self._known_lock:
            self._known.update(written)
            for name in gone:
                self._known.pop(name, None)

    # --- a look

    def _sort_out(self, names: list[str], listing: Mapping[str, Signature]) -> list[str]:
        """The cases that files belong to, sorted; files whose names no case can have are entered here."""
        wanted, misnamed, gone = set(), {}, []
        for name in names:
            try:
                wanted.add(folder_files.case_of(name))
            except ValueError as error:
                if name in listing:
                    misnamed[name] = folder_files.misnamed(name, listing[name], str(error))
                else:
                    gone.append(name)
        if misnamed or gone:

            def enter(session: Session) -> None:
                folder_files.put(session, misnamed.values())
                folder_files.drop(session, gone)

            self._database.write(enter)
            self.note({name: row.signature for name, row in misnamed.items()}, gone)
        return sorted(wanted)

    def _look_at(
        self,
        case_ids: list[str],
        depth: int,
        in_time: Callable[[], bool],
        listing: Mapping[str, Signature] | None,
        anew: bool = False,
    ) -> dict[str, CaseLook]:
        with self._database.read() as session:
            rows = folder_files.of_cases(session, case_ids)
            current = labels.current_of(session, case_ids)
        known = {name: row for name, row in rows.items() if not (anew and row.kind == IMAGE)}
        looks = {}
        for case_id in case_ids:
            present = self._present(case_id, rows, listing)
            recorded = {tag: current[case_id, tag] for tag in TAGS if (case_id, tag) in current}
            looks[case_id] = self._looker.look(case_id, present, known, recorded, depth, in_time)
        self._database.write(lambda session: self._enter(session, looks, rows))
        seen = {name: row for found in looks.values() for name, row in found.files.items()}
        waiting = {name for found in looks.values() for name in found.postponed}
        gone = [name for name in rows if name not in seen and name not in waiting]
        unsettled = [name for name, row in seen.items() if not row.is_settled]
        self.note({name: row.signature for name, row in seen.items()}, [*gone, *unsettled, *waiting])
        if listing is None:
            return looks
        with self._known_lock:  # listed as known, but nobody knows it: it went before any look entered it
            for name in [name for case_id in case_ids for name in self._looker.names_of(case_id)]:
                if name not in seen and name not in waiting:
                    self._known.pop(name, None)
        return looks

    def _present(
        self, case_id: str, rows: Mapping[str, FileRow], listing: Mapping[str, Signature] | None
    ) -> dict[str, Signature]:
        """The files of a case as they are now; the listing only says where there is nothing to ask for."""
        present = {}
        for name in self._looker.names_of(case_id):
            if listing is None or name in listing or name in rows:
                signature = self._of_file(name)
                if signature is not None:
                    present[name] = signature
                elif listing is not None and listing.get(name) == Signature(-1, 0):
                    present[name] = Signature(-1, 0)  # a dangling link
        return present

    # --- entering what it found

    def _enter(self, session: Session, looks: Mapping[str, CaseLook], before: Mapping[str, FileRow]) -> None:
        found = cases.lock(session, list(looks))
        files = [row for look in looks.values() for row in look.files.values() if row != before.get(row.name)]
        folder_files.put(session, files)
        kept = {name for look in looks.values() for name in [*look.files, *look.postponed]}
        folder_files.drop(session, [name for name in before if name not in kept])
        new = {i: look for i, look in looks.items() if i not in found and (look.serving or look.hidden)}
        cases.add(session, {i: look.serving or "" for i, look in new.items() if look.serving})
        cases.add(session, {i: look.hidden or "" for i, look in new.items() if not look.serving}, SET_ASIDE)
        for case_id, row in found.items():
            self._serve(row, looks[case_id])
        session.flush()
        current = labels.current_of(session, list(looks))
        for case_id, look in looks.items():
            for tag in TAGS:
                recorded = current.get((case_id, tag))
                if look.labels.get(tag) is not None or recorded is not None:
                    self._enter_label(session, look, tag, recorded)

    def _serve(self, row: Case, look: CaseLook) -> None:
        if look.serving is not None:
            cases.serve(row, look.serving, PRESENT)
        elif look.hidden is not None:
            cases.serve(row, look.hidden, SET_ASIDE)
        elif not any(self._of_file(name) for name in self._looker.names_of(row.id) if "/" not in name):
            cases.serve(row, row.file, GONE)

    def _of_file(self, name: str) -> Signature | None:
        """The signature of a file; None where there is none, or a folder of that name."""
        signature = self._source.signature(name)
        return None if signature is None or self._source.path(name).is_dir() else signature

    def _enter_label(self, session: Session, look: CaseLook, tag: str, recorded: Label | None) -> None:
        file = look.labels.get(tag)
        if file is None:
            assert recorded is not None
            name = f"labels/{tag}/{look.case_id}{recorded.extension}"
            aside = look.files.get(name)
            unchanged = Signature.of(self.folder / name) == (aside.signature if aside else None)
            if recorded.state == ACTIVE and name not in look.postponed and unchanged:
                labels.set_state(session, recorded, ABSENT)  # gone, or set aside as it is now
            return
        if Signature.of(self.folder / file.name) != file.signature:
            return
        extension = file.name.removeprefix(f"labels/{tag}/{look.case_id}")
        if recorded is None or recorded.sha256 not in ("", file.sha256):
            if not self._holds(file):
                # Replaced by a label of the same size within one tick of the clock: the next look reads it.
                look.postponed.add(file.name)
                folder_files.put(session, [file._replace(depth=UNOPENED, sha256="")])
                return
            # The case's row is locked: who announced this very label is not entering it now, but was cut off.
            announced = self._store.announced(look.case_id, tag, file.sha256)
            labels.enter(session, announced or self._found(look.case_id, tag, file, extension))
            return
        if recorded.extension != extension or recorded.sha256 != file.sha256:
            recorded.extension, recorded.sha256 = extension, file.sha256
            recorded.info = {**recorded.info, "name": Path(file.name).name, "sha256": file.sha256}
        if recorded.state == ABSENT:
            labels.set_state(session, recorded, ACTIVE)

    def _holds(self, file: FileRow) -> bool:
        """Whether a label's file still has the bytes that were read."""
        try:
            return self._store.digest((self.folder / file.name).read_bytes()) == file.sha256
        except OSError:
            return False

    def _found(self, case_id: str, tag: str, file: FileRow, extension: str) -> LabelRecord:
        """The record of a label that somebody put into the folder."""
        info = {
            "ts": file.mtime_ns // 10**9,
            "name": Path(file.name).name,
            "sha256": file.sha256,
            "label_info": [{"name": name, "idx": value} for name, value in self._looker.labels.items()],
        }
        return LabelRecord(
            case_id, tag, FOUND, time.time(), sha256=file.sha256, extension=extension, info=info
        )
