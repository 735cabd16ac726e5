"""adoption: what a start takes over: files of earlier versions, the stock server's file, and, into an empty
catalogue, the records kept with the labels."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..checks import TAGS
from ..pool import Signature
from ..workspace import Workspace, read_json
from . import cases, facts, folder_files, labels, readings, stock_file
from .database import Database, next_number
from .label_store import TAKEN_AWAY, LabelRecord, LabelStore
from .labels import FINAL
from .look import HEADER, IMAGE, VOXELS, FileRow
from .schema import ABSENT, GONE, REMOVED, Label

logger = logging.getLogger(__name__)

RETIRED = "before_catalogue"
"""Folder of the workspace for the files that the catalogue has replaced."""


def adopt(database: Database, workspace: Workspace, folder: Path, store: LabelStore) -> list[str]:
    """Take over what is there and not known yet; several processes may try at once.

    Returns:
        Sentences on what was mended.
    """
    path = folder / stock_file.NAME
    with database.read() as session:
        changed = stock_file.is_new(session, path)
    # Read only then: with many cases it is large.
    content, repairs = stock_file.read(path) if changed else (None, [])

    def enter(session: Session) -> list[str]:
        next_number(session, "adoption")  # one process at a time
        found = []
        rebuilt = session.scalar(select(Label.id).limit(1)) is None and _rebuild(session, store)
        if rebuilt:
            found.append(f"The history of {rebuilt} label versions was read again from their records.")
        if content is not None and stock_file.is_new(session, path):
            stock_file.take_over(session, content)
            stock_file.note(session, path)
        _take_absent(session, read_json(workspace.absent_labels_file, {}))
        _take_findings(session, read_json(workspace.checks_file, {}))
        return found

    repairs += database.write(enter)
    retire(workspace, workspace.absent_labels_file, workspace.checks_file)
    return repairs


def retire(workspace: Workspace, *files: Path) -> None:
    """Put files away that the catalogue has taken over; a reader of old must not take them for the state."""
    for file in files:
        if file.exists():
            kept = workspace.root / RETIRED
            kept.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                file.replace(kept / file.name)


def judges_alike(database: Database, labels_map: dict[str, int], allow_empty: bool) -> bool:
    """Whether the last start judged labels by the same classes; notes the present ones."""
    judge = {"labels": [list(pair) for pair in sorted(labels_map.items())], "allow_empty": allow_empty}

    def compare(session: Session) -> bool:
        same = facts.get(session, "judge") == judge
        if not same:
            facts.put(session, "judge", judge)
        return same

    return database.write(compare)


def _rebuild(session: Session, store: LabelStore) -> int:
    """Enter every record of the store, in its order; the newest of each label as absent."""
    records = [record for record in store.records() if record.tag in TAGS]
    files = {record.case_id: record.case_id + record.extension for record in records}
    cases.add(session, files, GONE)
    session.flush()
    for record in records:
        _replay(session, record)
    return sum(record.source != TAKEN_AWAY for record in records)


def _replay(session: Session, record: LabelRecord) -> None:
    if record.source != TAKEN_AWAY:
        if labels.is_entered(session, record.uid):
            return
        if record.is_label:
            labels.enter(session, record, ABSENT)
            return
        labels.enter_reading(session, record)
        cases.want_readers(cases.lock(session, [record.case_id])[record.case_id], record.readers_wanted)
        return
    removed = labels.current(session, record.case_id, record.tag)
    if removed is not None:
        labels.set_state(session, removed, REMOVED)
    if record.tag == FINAL:
        readings.close(session, record.case_id, record.created_at)


def _take_absent(session: Session, stored: Any) -> None:
    for tag, records in stored.items() if isinstance(stored, dict) else ():
        for case_id, entry in records.items() if isinstance(records, dict) and tag in TAGS else ():
            if not isinstance(entry, dict) or labels.current(session, case_id, tag) is not None:
                continue
            cases.add(session, {case_id: case_id}, GONE)
            extension, info = str(entry.get("ext", "")), dict(entry.get("info") or {})
            labels.enter(session, stock_file.record_of(case_id, tag, extension, info), ABSENT)


def _take_findings(session: Session, stored: Any) -> None:
    rows = []
    for key, found in stored.items() if isinstance(stored, dict) else ():
        tag, _, _ = key.rpartition("/")
        name = f"labels/{key}" if tag else key
        try:
            case_id = folder_files.case_of(name)
            signature = Signature(int(found["size"]), int(found["mtime_ns"]))
            rows.append(
                FileRow(
                    name,
                    tag or IMAGE,
                    case_id,
                    *signature,
                    VOXELS if found.get("voxels", True) else HEADER,
                    finding=found.get("reason"),
                    reason=None,
                    context=str(found.get("context", "")),
                    sha256=str(found.get("sha256", "")),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # written by another version: that file is read again
    folder_files.put(session, rows)
