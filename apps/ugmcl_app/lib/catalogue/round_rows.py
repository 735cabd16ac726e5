"""round_rows: the one writer of the table `rounds`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .database import insert_new, next_number, raise_number
from .schema import TrainingRound

_COUNTER = "rounds"


def new_id(session: Session) -> tuple[str, int]:
    """The id and number of the next round; no round ever gets them again."""
    number = next_number(session, _COUNTER)
    return f"r{number:04d}", number


def add(session: Session, number: int, record: dict[str, Any]) -> None:
    """A new round; nothing happens if it is known."""
    raise_number(session, _COUNTER, number)
    row = {"id": record["id"], "number": number, "status": record["status"], "record": record}
    insert_new(session, TrainingRound, [row])


def put(session: Session, record: dict[str, Any]) -> None:
    """Replace the record of a round."""
    found = session.get(TrainingRound, record["id"])
    assert found is not None
    found.status, found.record = record["status"], record
    session.flush()


def find(session: Session, round_id: str) -> dict[str, Any] | None:
    """The record of a round."""
    found = session.get(TrainingRound, round_id)
    return None if found is None else dict(found.record)


def status(session: Session, round_id: str) -> str | None:
    """The status of a round; None for an unknown one."""
    return session.scalar(select(TrainingRound.status).where(TrainingRound.id == round_id))


def every(session: Session) -> list[dict[str, Any]]:
    """All records, oldest first."""
    rows = select(TrainingRound.record).order_by(TrainingRound.number)
    return [dict(record) for record in session.scalars(rows)]


def newest(session: Session, wanted: str) -> dict[str, Any] | None:
    """The record of the last round with this status."""
    rows = select(TrainingRound.record).where(TrainingRound.status == wanted)
    found = session.scalar(rows.order_by(TrainingRound.number.desc()).limit(1))
    return None if found is None else dict(found)


def count(session: Session) -> int:
    """How many rounds there are."""
    return int(session.scalar(select(func.count()).select_from(TrainingRound)) or 0)
