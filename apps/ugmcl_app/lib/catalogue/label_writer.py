"""label_writer: how a label comes into a project, or leaves it: the file first, flushed, then the database.

The steps, and what a crash after each leaves: the bytes are in the store (nothing has happened); the record
is announced (the next start enters the label); the file is in its place and the database knows it (done, and
only now the client is told).
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ..errors import Refusal
from ..pool import Signature
from ..volumes import EXTENSIONS
from ..workspace import sync_folder, write_bytes_atomic
from . import cases, folder_files, labels
from .database import Database
from .folder_sync import FolderSync
from .label_store import TAKEN_AWAY, LabelRecord, LabelStore
from .look import VOXELS, FileRow, Looker
from .schema import ACTIVE, PRESENT, REMOVED, Label


class LabelWriter:
    """Writes the labels of one folder; what it takes was checked before."""

    def __init__(self, database: Database, store: LabelStore, sync: FolderSync, looker: Looker) -> None:
        self._database, self._store, self._sync, self._looker = database, store, sync, looker

    def save(self, record: LabelRecord, content: bytes) -> None:
        """Make a label the one in effect.

        Raises:
            Refusal: 404 if the case is not served any more.
        """
        self._store.keep(content, record.extension)
        self._store.announce(record)
        try:
            self.enter(record, content)
        except BaseException:
            self._withdraw_unless_entered(record)
            raise
        self._store.settle(record)

    def enter(self, record: LabelRecord, content: bytes) -> None:
        """Put an announced label into its place and into the database."""
        path = self._looker.folder / self._name(record)
        staged = _staged(path, content)
        try:
            row = self._database.write(lambda session: self._enter(session, record, staged, path))
        except IntegrityError:
            # Another process, starting just now, may have found the announced record and entered it.
            with self._database.read() as session:
                if not labels.is_entered(session, record.uid):
                    raise
            self._sync.look(record.case_id)
            return
        finally:
            staged.unlink(missing_ok=True)
        self._sync.note({row.name: row.signature}, self._others(record))

    def remove(self, case_id: str, tag: str) -> None:
        """Take the label in effect, or absent, away; its versions stay in the history and the store."""
        record = LabelRecord(case_id, tag, TAKEN_AWAY, time.time())
        names = [name for name, kind in self._looker.names_of(case_id).items() if kind == tag]

        def enter(session: Session) -> None:
            cases.lock(session, [case_id])
            label = labels.current(session, case_id, tag)
            if label is not None:
                labels.set_state(session, label, REMOVED)
            for name in names:
                (self._looker.folder / name).unlink(missing_ok=True)
            folder_files.drop(session, names)

        self._store.settle(record)
        self._database.write(enter)
        self._sync.note({}, names)

    def _enter(self, session: Session, record: LabelRecord, staged: Path, path: Path) -> FileRow:
        case = cases.lock(session, [record.case_id]).get(record.case_id)
        if case is None or case.state != PRESENT:
            raise Refusal(404, f"There is no image {record.case_id!r} in this project any more.")
        before = labels.current(session, record.case_id, record.tag)
        # Renamed with the case's row locked: whoever compares folder and catalogue sees both or neither.
        if staged.exists():  # a repeated transaction has renamed it already
            os.replace(staged, path)
            sync_folder(path.parent)
        others = self._others(record)
        for name in others:
            (self._looker.folder / name).unlink(missing_ok=True)
        folder_files.drop(session, others)
        image = self._looker.source.signature(case.file)
        no_finding = bool(record.info.get("no_finding"))
        context = self._looker.context_of(image, record.tag, no_finding)
        signature = Signature.of(path) or Signature(-1, 0)
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
        return row

    def _withdraw_unless_entered(self, record: LabelRecord) -> None:
        with self._database.read() as session:
            if not labels.is_entered(session, record.uid):
                self._store.withdraw(record)

    @staticmethod
    def _name(record: LabelRecord) -> str:
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


def _is_same(before: Label, record: LabelRecord) -> bool:
    """Whether the very same was saved already, as by a client that did not hear the first answer."""

    def told(info: dict[str, object]) -> dict[str, object]:
        return {key: value for key, value in info.items() if key != "ts"}

    same_bytes = before.state == ACTIVE and before.sha256 == record.sha256
    return same_bytes and before.source == record.source and told(before.info) == told(record.info)
