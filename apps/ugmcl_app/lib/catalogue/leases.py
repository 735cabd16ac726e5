"""leases: the one writer of the table `leases`: who has which case, until when, and how that ended.

Two open leases of one case, or of one reader, cannot exist: the database itself refuses the second. A lease
whose time is over is still open until somebody needs the case or the reader comes back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from . import readings
from .schema import PRESENT, Case, Lease

SAVED, RELEASED, SKIPPED, EXPIRED = "saved", "released", "skipped", "expired"
MAX_NAME = 200


def reader_name(name: object) -> str:
    """The name of a reader as it is kept; empty: nobody said."""
    if not isinstance(name, str):
        return ""
    plain = name.replace("\0", "").encode("utf-8", "replace").decode()
    return plain.strip()[:MAX_NAME].strip()


def of_reader(session: Session, reader: str) -> Lease | None:
    """The open lease of a reader, also one whose time is over."""
    return session.scalar(select(Lease).where(Lease.reader == reader, Lease.ended_at.is_(None)))


def open_leases(session: Session, now: float, case_ids: Iterable[str] | None = None) -> list[Lease]:
    """Leases in force, oldest first; with `case_ids`, those of some cases."""
    rows = select(Lease).where(Lease.ended_at.is_(None), Lease.expires_at > now).order_by(Lease.id)
    if case_ids is not None:
        rows = rows.where(Lease.case_id.in_(list(case_ids)))
    return list(session.scalars(rows))


def has_room(now: float) -> ColumnElement[bool]:
    """Whether a case (a row of `cases`) has a place for one more reader, as part of a query."""
    leased = (
        select(func.count())
        .select_from(Lease)
        .where(Lease.case_id == Case.id, Lease.ended_at.is_(None), Lease.expires_at > now)
        .correlate(Case)
        .scalar_subquery()
    )
    return Case.readers_wanted > leased + readings.count()


def skipped(reader: str) -> ColumnElement[bool]:
    """Whether a reader has skipped a case (a row of `cases`), as part of a query."""
    where = (Lease.reader == reader, Lease.case_id == Case.id, Lease.end == SKIPPED)
    return select(Lease.id).where(*where).exists()


def skipped_by(session: Session, reader: str, case_ids: Iterable[str]) -> set[str]:
    """Of some cases, those that a reader has skipped."""
    where = (Lease.reader == reader, Lease.case_id.in_(list(case_ids)), Lease.end == SKIPPED)
    return set(session.scalars(select(Lease.case_id).where(*where)))


def grant(
    session: Session, case: Case, reader: str, strategy: str, now: float, seconds: float
) -> Lease | None:
    """Give a case to a reader; None if it has no place free any more.

    Args:
        session: Of a transaction that has locked the case.
        case: The case.
        reader: Who gets it; a lease of theirs on another case must have ended.
        strategy: What chose it.
        now: Seconds since 1970.
        seconds: How long it is theirs without a sign of life.
    """
    if case.state != PRESENT or case.labeled:
        return None
    taken = set()
    for other in session.scalars(select(Lease).where(Lease.case_id == case.id, Lease.ended_at.is_(None))):
        if other.expires_at > now:
            taken.add(other.slot)
        else:
            end(other, EXPIRED, now)
    given_already = readings.open_of(session, case.id)
    if len(taken) + len(given_already) >= case.readers_wanted:
        return None
    if any(reading.reader == reader for reading in given_already):
        return None
    session.flush()  # before the next one comes: only one may have a slot
    given = Lease(
        case_id=case.id,
        slot=next(slot for slot in range(case.readers_wanted) if slot not in taken),
        reader=reader,
        strategy=strategy,
        granted_at=now,
        heartbeat_at=now,
        expires_at=now + seconds,
        ended_at=None,
        end=None,
        reason="",
    )
    session.add(given)
    session.flush()
    return given


def renew(lease: Lease, now: float, seconds: float) -> None:
    """A sign of life of the reader."""
    lease.heartbeat_at, lease.expires_at = now, now + seconds


def end(lease: Lease, how: str, now: float, reason: str = "") -> None:
    """End a lease: `SAVED`, `RELEASED`, `SKIPPED` or `EXPIRED`."""
    lease.ended_at, lease.end, lease.reason = now, how, reason


def end_saved(session: Session, case_id: str, reader: str, others_too: bool) -> None:
    """A reader's label of a case came in: end their lease of it and, if it is decided, everybody's."""
    for lease in session.scalars(select(Lease).where(Lease.case_id == case_id, Lease.ended_at.is_(None))):
        if lease.reader == reader:
            end(lease, SAVED, time.time())
        elif others_too:
            end(lease, RELEASED, time.time(), "the case was labeled by another reader")
    session.flush()


def ended_by_reader(session: Session) -> dict[str, dict[str, int]]:
    """How many leases of each reader ended in which way."""
    rows = select(Lease.reader, Lease.end, func.count()).where(Lease.end.is_not(None))
    counts: dict[str, dict[str, int]] = {}
    for reader, how, count in session.execute(rows.group_by(Lease.reader, Lease.end)):
        counts.setdefault(reader, {})[str(how)] = int(count)
    return counts
