"""label_writer: how a label comes into a project, or leaves it: the file first, flushed, then the database.

The steps, and what a crash after each leaves: the bytes are in the store (nothing has happened); the record
is announced (the next start enters the label); the file is in its place and the database knows it (done, and
only now the client is told). A reading, one of several labels of a case that wait to be compared, comes the
same way, but has no file outside the store.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ..errors import Refusal
from ..pool import Signature
from ..volumes import EXTENSIONS
from ..workspace import sync_folder, write_bytes_atomic
from . import cases, folder_files, labels, leases, readings
from .archive import keep_label
from .database import Database
from .folder_sync import FolderSync
from .label_store import TAKEN_AWAY, LabelRecord, LabelStore
from .look import VOXELS, FileRow, Looker
from .schema import ACTIVE, PRESENT, REMOVED, Case, Label


class Recounted(Exception):
    """Between looking and entering, the case came to want another number of readers."""


class LabelWriter:
    """Writes the labels of one folder; what it takes was checked before."""

    def __init__(self, database: Database, store: LabelStore, sync: FolderSync, looker: Looker) -> None:
        self._database, self._store, self._sync, self._looker = database, store, sync, looker
        self._in_the_way: set[str] = set()  # records whose file took its place, and could not be taken back

    def save(
        self,
        record: LabelRecord,
        content: bytes,
        settles: bool = False,
        also: Callable[[Session], None] | None = None,
    ) -> LabelRecord:
        """Make a label the one in effect, or, where its case is read by several, one of the readings.

        Args:
            record: How it came.
            content: Its bytes.
            settles: Whether it decides the case, however many readers that still waits for.
            also: Done in the same transaction, before the label is entered.

        Returns:
            The record as it was entered.

        Raises:
            Refusal: 404 if the case is not served any more.
        """
        self._store.keep(content, record.extension)
        while True:
            with self._database.read() as session:
                if self._repeats_reading(session, record, settles):
                    return record
                case = session.get(Case, record.case_id)
                wanted = 0 if case is None else _readers_wanted(session, case, record, settles)
            record = replace(record, readers_wanted=wanted)
            self._store.announce(record)
            try:
                self.enter(record, content, settles, also)
            except Recounted:
                self._store.withdraw(record)
                continue
            except BaseException:
                self._withdraw_unless_entered(record)
                raise
            self._store.settle(record)
            return record

    def enter(
        self,
        record: LabelRecord,
        content: bytes,
        settles: bool = True,
        also: Callable[[Session], None] | None = None,
    ) -> None:
        """Put an announced label into its place and into the database; see `save`."""
        if not record.is_label:
            self._database.write(lambda session: self._enter_reading(session, record))
            return
        path = self._looker.folder / self._name(record)
        staged, renamed = _staged(path, content), []
        try:

            def enter(session: Session) -> FileRow:
                case = self._locked(session, record)
                if _readers_wanted(session, case, record, settles):
                    raise Recounted
                if also is not None:
                    also(session)
                row = self._enter(session, case, record, staged, content)
                # Last, when the database has taken all of it, and with the case's row locked: whoever
                # compares folder and catalogue sees both or neither.
                os.replace(staged, path)
                renamed.append(row.signature)
                sync_folder(path.parent)
                for name in self._others(record):
                    (self._looker.folder / name).unlink(missing_ok=True)
                return row

            row = self._database.write(enter)
        except IntegrityError:
            # Another process, starting just now, may have found the announced record and entered it.
            with self._database.read() as session:
                if not labels.is_entered(session, record.uid):
                    raise
            self._sync.look(record.case_id)
            return
        except BaseException:
            if renamed:
                self._give_back(record, renamed[-1])
            raise
        finally:
            staged.unlink(missing_ok=True)
        self._sync.note({row.name: row.signature}, self._others(record))

    def remove(self, case_id: str, tag: str) -> None:
        """Take the label in effect, or absent, away; its versions stay in the history and the store."""
        record = LabelRecord(case_id, tag, TAKEN_AWAY, time.time())
        names = [name for name, kind in self._looker.names_of(case_id).items() if kind == tag]
        deleting: list[bool] = []

        def enter(session: Session) -> None:
            cases.lock(session, [case_id])
            label = labels.current(session, case_id, tag)
            if label is not None:
                keep_label(self._store, self._looker.folder, label)
                labels.set_state(session, label, REMOVED)
            if tag == labels.FINAL:
                readings.close(session, case_id, record.created_at)
            folder_files.drop(session, names)
            session.flush()
            deleting.append(True)
            for name in names:
                (self._looker.folder / name).unlink(missing_ok=True)

        def put_back(session: Session) -> None:
            cases.lock(session, [case_id])
            label = labels.current(session, case_id, tag)
            if label is not None and label.state == ACTIVE:
                self._restore(label)

        try:
            self._database.write(enter)
        except BaseException:
            if deleting:
                self._database.write(put_back)
            raise
        # After it: a database that is lost between the two is rebuilt with the label as absent.
        self._store.settle(record)
        self._sync.note({}, names)

    @staticmethod
    def _locked(session: Session, record: LabelRecord) -> Case:
        case = cases.lock(session, [record.case_id]).get(record.case_id)
        if case is None or case.state != PRESENT:
            raise Refusal(404, f"There is no image {record.case_id!r} in this project any more.")
        return case

    def _enter_reading(self, session: Session, record: LabelRecord) -> None:
        case = self._locked(session, record)
        if labels.is_entered(session, record.uid):
            return
        # Of a case that was decided meanwhile, it is kept with the others.
        labels.enter_reading(session, record, record.created_at if case.labeled else None)

    def _enter(
        self, session: Session, case: Case, record: LabelRecord, staged: Path, content: bytes
    ) -> FileRow:
        before = labels.current(session, record.case_id, record.tag)
        if before is not None and before.state == ACTIVE:
            keep_label(self._store, self._looker.folder, before)  # one that came by the folder just now
        if not staged.exists():  # a repeated transaction
            write_bytes_atomic(staged, content)
        folder_files.drop(session, self._others(record))
        image = self._looker.source.signature(case.file)
        no_finding = bool(record.info.get("no_finding"))
        context = self._looker.context_of(image, record.tag, no_finding)
        signature = Signature.of(staged) or Signature(-1, 0)
        row = FileRow(
            self._name(record),
            record.tag,
            record.case_id,
            *signature,
            VOXELS,
            None,
            None,
            context,
            record.sha256,
        )
        folder_files.put(session, [row])
        if before is None or not _is_same(before, record):
            labels.enter(session, record)
        session.flush()
        return row

    @staticmethod
    def _repeats_reading(session: Session, record: LabelRecord, settles: bool) -> bool:
        """Whether a reader sends the very same reading again: it must not replace what was chosen since."""
        if settles or record.tag != labels.FINAL:
            return False
        given = readings.of_reader(session, record.case_id, record.reader)
        current = labels.current(session, record.case_id, record.tag) if given else None
        return any(
            (found.ended_at is None or (current is not None and found.ended_at >= current.created_at))
            and found.sha256 == record.sha256
            and _told(found) == _told(record)
            for found in given
        )

    def _withdraw_unless_entered(self, record: LabelRecord) -> None:
        with self._database.read() as session:
            if labels.is_entered(session, record.uid):  # by a look of another process, meanwhile
                self._store.settle(record)
            elif record.uid not in self._in_the_way:
                self._store.withdraw(record)

    def _give_back(self, record: LabelRecord, renamed: Signature) -> None:
        """After a commit that failed: put the label before it into its place again, or nothing.

        Where that fails too, as on a full disk, the record stays announced: the next look or start that finds
        its file enters it as its reader's.
        """
        path = self._looker.folder / self._name(record)

        def put_back(session: Session) -> None:
            cases.lock(session, [record.case_id])
            if labels.is_entered(session, record.uid) or Signature.of(path) != renamed:
                return
            before = labels.current(session, record.case_id, record.tag)
            if before is None or before.state != ACTIVE or self._restore(before).name != path.name:
                path.unlink()

        self._in_the_way.add(record.uid)
        self._database.write(put_back)
        self._in_the_way.discard(record.uid)

    def _restore(self, label: Label) -> Path:
        """Write the kept bytes of a label into its place; OSError if that fails."""
        path = self._looker.folder / self._name(label)
        content = self._store.read(label.sha256, label.extension)
        if content is None:
            raise FileNotFoundError(f"The bytes of the label {label.uid} are not kept.")
        write_bytes_atomic(path, content)
        return path

    @staticmethod
    def _name(record: LabelRecord | Label) -> str:
        return f"labels/{record.tag}/{record.case_id}{record.extension}"

    def _others(self, record: LabelRecord) -> list[str]:
        stem = f"labels/{record.tag}/{record.case_id}"
        return [stem + extension for extension in EXTENSIONS if extension != record.extension]


def _staged(path: Path, content: bytes) -> Path:
    """A complete, flushed file beside `path`, to be renamed to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    os.close(handle)
    staged = Path(name)
    write_bytes_atomic(staged, content)
    return staged


def _readers_wanted(session: Session, case: Case, record: LabelRecord, settles: bool) -> int:
    """Of how many readings a submission is one; 0: it is the case's label.

    While readings are missing, each submission is one. Once they are all there, and wait for an adjudicator,
    those who read the case, or have it to read, correct themselves or add theirs; anybody else decides.
    """
    if record.tag != labels.FINAL or settles or case.labeled:
        return 0
    given = readings.open_of(session, case.id)
    if case.readers_wanted <= 1 and not given:
        return 0
    if len(given) >= case.readers_wanted and all(found.reader != record.reader for found in given):
        lease = leases.of_reader(session, record.reader) if record.reader else None
        if lease is None or lease.case_id != case.id:
            return 0
    return max(1, case.readers_wanted)


def _is_same(before: Label, record: LabelRecord) -> bool:
    """Whether the very same was saved already, as by a client that did not hear the first answer."""
    same_bytes = before.state == ACTIVE and before.sha256 == record.sha256
    return same_bytes and before.source == record.source and _told(before) == _told(record)


def _told(found: Label | LabelRecord) -> dict[str, object]:
    """What a client told with a label."""
    return {key: value for key, value in found.info.items() if key != "ts"}
