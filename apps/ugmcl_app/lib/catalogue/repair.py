"""repair: what a start mends of what a crash, a full disk or a damaged file has left, and says about it."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select

from ..pool import Signature
from ..workspace import write_bytes_atomic
from . import cases, labels
from .database import Database
from .folder_sync import FolderSync
from .label_store import LabelRecord, LabelStore
from .label_writer import LabelWriter
from .schema import ABSENT, FolderFile, Label

logger = logging.getLogger(__name__)

HALF_WRITTEN_AGE_S = 600.0
"""A temporary file is written in seconds; one that is older belongs to nobody any more."""
UNREADABLE = "The label cannot be used."
"""How the finding of a label begins whose file is no readable volume, as against one with wrong values."""


def remove_half_written(*folders: Path) -> list[str]:
    """Delete temporary files that a killed process has left in folders."""
    count = 0
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            signature = Signature.of(path)
            if signature and time.time() - signature.mtime_ns / 1e9 > HALF_WRITTEN_AGE_S:
                path.unlink(missing_ok=True)
                count += 1
    return [f"{count} half-written temporary files of an interrupted run were removed."] if count else []


def finish_pending(database: Database, store: LabelStore, writer: LabelWriter) -> list[str]:
    """Enter labels that were received in full when the server was cut off before the database knew them."""
    said = []
    for record in store.pending():
        with database.read() as session:
            entered = labels.is_entered(session, record.uid)
            known = labels.current(session, record.case_id, record.tag)
            served = cases.find(session, record.case_id) is not None
        content = store.read(record.sha256, record.extension)
        if entered:
            store.settle(record)
        elif content is None:
            store.withdraw(record)
            said.append(f"{_submission(record)} was cut off before all of it was written; send it again.")
        elif record.is_label and known is not None and known.created_at > record.created_at:
            newer = known.created_at
            database.write(lambda s, r=record, at=newer: labels.enter_history(s, r, at))  # type: ignore[misc]
            store.settle(record)
            said.append(f"{_submission(record)} was cut off; a newer one stands, it is kept in the history.")
        elif served:
            writer.enter(record, content)
            store.settle(record)
            said.append(f"{_submission(record)} was cut off just before its end and was completed.")
    return _told(said)


def restore_damaged(database: Database, store: LabelStore, quarantine: Path, sync: FolderSync) -> list[str]:
    """Replace label files that cannot be read any more by the kept bytes; the damaged ones are put away."""
    rows = (
        select(FolderFile.name, Label.case_id, Label.sha256, Label.extension)
        .join(Label, (Label.case_id == FolderFile.case_id) & (Label.tag == FolderFile.kind))
        .where(FolderFile.finding.startswith(UNREADABLE), Label.state == ABSENT)
    )
    with database.read() as session:
        damaged = session.execute(rows).all()
    said = []
    for name, case_id, sha256, extension in damaged:
        content = store.read(sha256, extension)
        if content is None or not name.endswith(f"{case_id}{extension}"):
            continue
        path = sync.folder / name
        kept = quarantine / f"{time.strftime('%Y%m%d-%H%M%S')}-{name.replace('/', '-')}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(path.read_bytes())
        write_bytes_atomic(path, content)
        sync.look(case_id)
        said.append(f"The label file {name} was damaged and was replaced by its kept copy; see {kept.name}.")
    return _told(said)


def _submission(record: LabelRecord) -> str:
    moment = datetime.fromtimestamp(record.created_at, UTC).isoformat(timespec="seconds")
    return f"A label ({record.tag}) of {record.case_id!r}, submitted {moment},"


def _told(said: list[str]) -> list[str]:
    if said:  # the sentences name cases, which may be named after patients: those are for /info/
        logger.warning("The start mended %d labels; GET /info/ says which.", len(said))
    return said
