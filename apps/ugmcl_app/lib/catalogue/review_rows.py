"""review_rows: what the review page asks of the catalogue: who labeled when, and how scores moved."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from .label_store import SUBMITTED
from .labels import FINAL
from .schema import PRESENT, Case, CaseScore, Label


class Move(NamedTuple):
    """How sure two models are of one case; scores in [0, 1], higher is less sure."""

    id: str
    before: float
    after: float


class Moves(NamedTuple):
    """How the scores of the unlabeled cases changed from one model to another.

    Attributes:
        cases: Those that both have scored.
        before, after: Mean scores of these.
        surer, less_sure: How many of them became so.
        fell, rose: The cases that did so most, most first.
    """

    cases: int
    before: float
    after: float
    surer: int
    less_sure: int
    fell: list[Move]
    rose: list[Move]


def submitted_since(session: Session, since: float) -> list[tuple[str, float]]:
    """Reader and time of every final label submitted since, oldest first; also of versions replaced later."""
    rows = (
        select(Label.reader, Label.created_at)
        .where(Label.tag == FINAL, Label.source == SUBMITTED, Label.created_at >= since)
        .order_by(Label.created_at)
    )
    return [(str(reader), float(at)) for reader, at in session.execute(rows)]


def submitted_by_reader(session: Session) -> dict[str, int]:
    """How many final labels each reader has submitted at all."""
    rows = (
        select(Label.reader, func.count())
        .where(Label.tag == FINAL, Label.source == SUBMITTED)
        .group_by(Label.reader)
    )
    return {str(reader): int(count) for reader, count in session.execute(rows)}


def moves(session: Session, before: str, after: str, most: int) -> Moves | None:
    """Compare the scores of two versions of the model; None if no unlabeled case has both.

    Args:
        session: Of a look at the catalogue.
        before, after: The versions.
        most: Length of `fell` and of `rose`.
    """
    old, new = aliased(CaseScore), aliased(CaseScore)
    rows = (
        select(Case.id, old.score, new.score)
        .join(old, old.case_id == Case.id)
        .join(new, new.case_id == Case.id)
        .where(
            Case.state == PRESENT,
            Case.labeled.is_(False),
            old.model_version == before,
            new.model_version == after,
        )
    )
    found = [Move(str(i), float(a), float(b)) for i, a, b in session.execute(rows)]
    if not found:
        return None
    ordered = sorted(found, key=lambda move: (move.after - move.before, move.id))
    fell = [move for move in ordered if move.after < move.before]
    rose = [move for move in reversed(ordered) if move.after > move.before]
    return Moves(
        len(found),
        sum(move.before for move in found) / len(found),
        sum(move.after for move in found) / len(found),
        len(fell),
        len(rose),
        fell[:most],
        rose[:most],
    )


def scores_of(session: Session, case_id: str) -> list[tuple[str, float]]:
    """Model version and score of a case, oldest first."""
    rows = (
        select(CaseScore.model_version, CaseScore.score)
        .where(CaseScore.case_id == case_id)
        .order_by(CaseScore.scored_at)
    )
    return [(str(version), float(score)) for version, score in session.execute(rows)]
