"""labels: the one writer of the table `labels`, and of `Case.labeled`, which follows from it.

Functions that change something take the session of a transaction in which the case's row is locked
(`cases.lock`), so that two of them never work on one case at the same time.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from . import leases, readings
from .database import Database, next_number, number
from .label_store import LabelRecord
from .schema import ABSENT, ACTIVE, PRESENT, READING, REMOVED, REPLACED, Case, Label

FINAL = "final"
CURRENT = (ACTIVE, ABSENT)


def revision(session: Session, tag: str) -> int:
    """A number that grows with every change of the labels of a tag."""
    return number(session, f"labels:{tag}")


def current(session: Session, case_id: str, tag: str) -> Label | None:
    """The label in effect, or the one that is absent for now."""
    where = (Label.case_id == case_id, Label.tag == tag, Label.state.in_(CURRENT))
    return session.scalar(select(Label).where(*where))


def current_of(session: Session, case_ids: Iterable[str]) -> dict[tuple[str, str], Label]:
    """Of several cases, by case and tag."""
    where = (Label.case_id.in_(list(case_ids)), Label.state.in_(CURRENT))
    return {(found.case_id, found.tag): found for found in session.scalars(select(Label).where(*where))}


def any_of(session: Session, tags: Iterable[str]) -> bool:
    """Whether any case has a label of these tags, or one that is absent for now."""
    where = (Label.tag.in_(list(tags)), Label.state.in_(CURRENT))
    return session.scalar(select(Label.id).where(*where).limit(1)) is not None


def enter(session: Session, record: LabelRecord, state: str = ACTIVE) -> Label:
    """Make a version the current one of its case and tag; the one before becomes history."""
    stamp = next_number(session, f"labels:{record.tag}")
    before = current(session, record.case_id, record.tag)
    if before is not None:
        before.state, before.ended_at, before.revision = REPLACED, record.created_at, stamp
        session.flush()  # before the next one comes: only one may be current
    label = _row(record, state, stamp)
    session.add(label)
    session.flush()
    _follow(session, record.case_id, record.tag, state == ACTIVE)
    if record.tag == FINAL:
        settled_by = str(record.info.get("settled_by") or label.reader)
        readings.close(session, record.case_id, record.created_at, settled_by)
        if state == ACTIVE:
            leases.end_saved(session, record.case_id, label.reader, others_too=True)
    return label


def enter_reading(session: Session, record: LabelRecord, ended_at: float | None = None) -> Label:
    """Add what one of several readers gave; what the same reader gave before becomes history.

    Args:
        session: See above.
        record: How it came.
        ended_at: When its case was decided; None: it is not.
    """
    row = _row(record, READING, stamp=0)
    row.ended_at = ended_at
    for before in readings.open_of(session, record.case_id):
        if before.reader == row.reader:
            before.state, before.ended_at = REPLACED, record.created_at
    readings.withdraw(session, record.case_id, record.created_at)
    session.add(row)
    session.flush()
    leases.end_saved(session, record.case_id, row.reader, others_too=False)
    return row


def enter_history(session: Session, record: LabelRecord, ended_at: float) -> None:
    """Add a version that never was in effect: it has no revision, for what is in effect stays the same."""
    row = _row(record, REPLACED, stamp=0)
    row.ended_at = ended_at
    session.add(row)
    session.flush()


def set_state(session: Session, label: Label, state: str) -> None:
    """A current label goes, comes back, or is removed on purpose."""
    label.state, label.revision = state, next_number(session, f"labels:{label.tag}")
    label.ended_at = time.time() if state == REMOVED else None
    session.flush()
    _follow(session, label.case_id, label.tag, state == ACTIVE)


def is_entered(session: Session, uid: str) -> bool:
    """Whether a label has come into the table."""
    return session.scalar(select(Label.id).where(Label.uid == uid)) is not None


def version(session: Session, case_id: str, uid: str) -> Label | None:
    """One version of a case's label."""
    return session.scalar(select(Label).where(Label.uid == uid, Label.case_id == case_id))


def history(session: Session, case_id: str, tag: str) -> list[Label]:
    """Every version of a case's label, oldest first."""
    rows = select(Label).where(Label.case_id == case_id, Label.tag == tag).order_by(Label.id)
    return list(session.scalars(rows))


def counts(session: Session) -> dict[str, int]:
    """How many labels are in effect, by tag."""
    rows = select(Label.tag, func.count()).where(Label.state == ACTIVE).group_by(Label.tag)
    return {str(tag): int(count) for tag, count in session.execute(rows)}


class FinalLabels:
    """SHA-256 of every final label in effect, followed by reading what changed since the last look."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._seen = 0
        self._digests: dict[str, str] = {}

    def digests(self) -> dict[str, str]:
        """By image id, as of now, whichever process made the last change."""
        with self._lock, self._database.read() as session:
            newest = revision(session, FINAL)
            if newest != self._seen:
                changed = (
                    select(Label.case_id, Label.state, Label.sha256)
                    .where(Label.tag == FINAL, Label.revision > self._seen)
                    # A label and the one it replaced have the same revision; the newer row comes last.
                    .order_by(Label.revision, Label.id)
                )
                for case_id, state, sha256 in session.execute(changed):
                    if state == ACTIVE:
                        self._digests[case_id] = sha256
                    else:
                        self._digests.pop(case_id, None)
                self._seen = newest
            return dict(self._digests)


def _row(record: LabelRecord, state: str, stamp: int) -> Label:
    return Label(
        uid=record.uid or uuid.uuid4().hex,
        case_id=record.case_id,
        tag=record.tag,
        state=state,
        revision=stamp,
        sha256=record.sha256,
        extension=record.extension,
        source=record.source,
        reader=_text(record.reader),
        tool=_text(record.tool),
        model_version=_text(record.model_version),
        comment=_text(record.comment),
        created_at=record.created_at,
        ended_at=None,
        info=record.info,
    )


def _text(value: Any) -> str:
    """What a client sent as text that every database takes: no NUL, no half of a surrogate pair."""
    return str(value).replace("\0", "").encode("utf-8", "replace").decode()


def _follow(session: Session, case_id: str, tag: str, labeled: bool) -> None:
    if tag == FINAL:
        session.execute(
            update(Case)
            .where(Case.id == case_id)
            .values(labeled=labeled)
            .execution_options(synchronize_session=False)
        )


def labeled_ids(session: Session, tag: str) -> list[str]:
    """Cases served now that have a label of this tag, by id."""
    rows = (
        select(Label.case_id)
        .join(Case, Case.id == Label.case_id)
        .where(Label.tag == tag, Label.state == ACTIVE, Case.state == PRESENT)
        .order_by(Label.case_id)
    )
    return list(session.scalars(rows))


def pairs(session: Session, tag: str) -> list[tuple[str, str, str]]:
    """Id, scan file and label extension of every case served now that has a label of this tag, by id."""
    rows = (
        select(Label.case_id, Case.file, Label.extension)
        .join(Case, Case.id == Label.case_id)
        .where(Label.tag == tag, Label.state == ACTIVE, Case.state == PRESENT)
        .order_by(Label.case_id)
    )
    return [(case_id, file, extension) for case_id, file, extension in session.execute(rows)]
