"""readings: what several readers of one case gave, until it is decided which of it becomes the label; the one
writer of the table `agreements`.

A reading is a row of `labels` in the state `reading`, and open until its case has a final label. Functions
that change something take the session of a transaction in which the case's row is locked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from .schema import PRESENT, READING, REMOVED, Agreement, Case, Label

AGREED, SETTLED = "agreed", "settled"
"""Sources of a label that was chosen among readings: by their agreement, by an adjudicator."""


class Pair(NamedTuple):
    """Two readings compared.

    Attributes:
        first, second: Their rows in `labels`.
        dice: Dice by class name.
    """

    first: int
    second: int
    dice: dict[str, float]


_OPEN = (Label.state == READING, Label.ended_at.is_(None))


def open_of(session: Session, case_id: str) -> list[Label]:
    """The readings of a case that wait for the others or for a decision, oldest first."""
    return list(session.scalars(select(Label).where(Label.case_id == case_id, *_OPEN).order_by(Label.id)))


def count() -> ColumnElement[int]:
    """How many open readings a case (a row of `cases`) has, as part of a query."""
    return (
        select(func.count())
        .select_from(Label)
        .where(Label.case_id == Case.id, *_OPEN)
        .correlate(Case)
        .scalar_subquery()
    )


def are_missing() -> ColumnElement[bool]:
    """Whether a case (a row of `cases`) has fewer open readings than it wants, as part of a query."""
    return Case.readers_wanted > count()


def read_by(reader: str) -> ColumnElement[bool]:
    """Whether a reader has read a case (a row of `cases`) that is not decided, as part of a query."""
    return select(Label.id).where(Label.case_id == Case.id, Label.reader == reader, *_OPEN).exists()


def of_reader(session: Session, case_id: str, reader: str) -> list[Label]:
    """A reader's readings of a case, decided ones included."""
    where = (Label.case_id == case_id, Label.reader == reader, Label.state == READING)
    return list(session.scalars(select(Label).where(*where)))


def undecided(session: Session) -> list[str]:
    """Cases with all the readings they want that were not compared yet, by id."""
    compared = select(Agreement.id).where(Agreement.case_id == Case.id, Agreement.settled_at.is_(None))
    having = select(Label.case_id).where(*_OPEN)
    rows = select(Case.id).where(
        Case.id.in_(having),
        Case.state == PRESENT,
        Case.labeled.is_(False),
        ~are_missing(),
        ~compared.exists(),
    )
    return list(session.scalars(rows.order_by(Case.id)))


def enter_agreements(session: Session, case_id: str, pairs: Iterable[Pair], now: float) -> None:
    """Note how far the readings of a case agree; the case waits for adjudication until it is closed."""
    for pair in pairs:
        session.add(
            Agreement(
                case_id=case_id,
                first_label=pair.first,
                second_label=pair.second,
                dice=pair.dice,
                compared_at=now,
                settled_at=None,
                settled_by="",
            )
        )
    session.flush()


def withdraw(session: Session, case_id: str, now: float, settled_by: str = "") -> None:
    """A case waits for adjudication no longer."""
    session.execute(
        update(Agreement)
        .where(Agreement.case_id == case_id, Agreement.settled_at.is_(None))
        .values(settled_at=now, settled_by=settled_by)
        .execution_options(synchronize_session=False)
    )


def close(session: Session, case_id: str, now: float, settled_by: str = "") -> None:
    """A case is decided: its readings are history."""
    given = open_of(session, case_id)
    if given:  # only then can there be comparisons
        for reading in given:
            reading.ended_at = now
        session.flush()
        withdraw(session, case_id, now, settled_by)


def drop(session: Session, found: Iterable[Label], now: float) -> None:
    """Readings that cannot be used any more; their readers' places are free again."""
    for reading in found:
        reading.state, reading.ended_at = REMOVED, now
    session.flush()


def waiting(session: Session, limit: int, after: str) -> list[str]:
    """Cases that wait for adjudication, by id, those after one."""
    rows = select(Agreement.case_id).where(Agreement.settled_at.is_(None), Agreement.case_id > after)
    rows = rows.join(Case, Case.id == Agreement.case_id).where(Case.state == PRESENT)
    return list(session.scalars(rows.distinct().order_by(Agreement.case_id).limit(limit)))


def count_waiting(session: Session) -> int:
    """How many cases wait for adjudication."""
    rows = select(func.count(Agreement.case_id.distinct())).where(Agreement.settled_at.is_(None))
    return int(
        session.scalar(rows.join(Case, Case.id == Agreement.case_id).where(Case.state == PRESENT)) or 0
    )


def agreements(session: Session, case_id: str) -> list[Agreement]:
    """The comparisons for which a case waits for adjudication."""
    where = (Agreement.case_id == case_id, Agreement.settled_at.is_(None))
    return list(session.scalars(select(Agreement).where(*where).order_by(Agreement.id)))


def dice_by_reader(session: Session) -> dict[str, list[float]]:
    """The mean Dice over classes of each comparison that a reader's readings took part in, by reader."""
    rows = select(Agreement.first_label, Agreement.second_label, Agreement.dice)
    compared: list[tuple[int, int, dict[str, Any]]] = [
        (first, second, dice) for first, second, dice in session.execute(rows)
    ]
    names = select(Label.id, Label.reader).where(
        Label.id.in_(select(Agreement.first_label).union(select(Agreement.second_label)))
    )
    reader_of: dict[int, str] = {row[0]: row[1] for row in session.execute(names)}
    found: dict[str, list[float]] = {}
    for first, second, dice in compared:
        for label_id in (first, second):
            found.setdefault(reader_of[label_id], []).append(sum(dice.values()) / len(dice))
    return found
