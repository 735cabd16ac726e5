"""worklist: the cases of a project page by page, in an order that two pages agree on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session

from .schema import PRESENT, Case


class Place(NamedTuple):
    """Where a case stands in the order, which is all that the next page needs to know.

    Attributes:
        priority, rank_score: As in `schema.Case`; both 0 where the order is that of the ids.
        id: The case.
    """

    priority: int
    rank_score: float
    id: str


class Row(NamedTuple):
    """A case as a worklist shows it."""

    id: str
    labeled: bool
    priority: int
    rank_score: float

    def place(self, ranked: bool) -> Place:
        """Where it stands."""
        return Place(self.priority, self.rank_score, self.id) if ranked else Place(0, 0.0, self.id)


def page(session: Session, labeled: bool | None, ranked: bool, limit: int, after: Place | None) -> list[Row]:
    """The next cases that are served now.

    Args:
        session: Of a look at the catalogue.
        labeled: Those with or without a final label; None: all.
        ranked: By priority, then the newest score, the unscored last, then by id; False: by id.
        limit: How many at most.
        after: The last case of the page before; None: the first page.
    """
    # One index serves each state of the label: two ordered lists are merged rather than one sorted anew.
    states = (False, True) if labeled is None else (labeled,)
    found = [row for state in states for row in _of_state(session, state, ranked, limit, after)]
    found.sort(key=lambda row: (-row.priority, -row.rank_score, row.id) if ranked else (0, 0.0, row.id))
    return found[:limit]


def _of_state(session: Session, labeled: bool, ranked: bool, limit: int, after: Place | None) -> list[Row]:
    found: list[Row] = []
    for where in _stretches(ranked, after):
        wanted = _rows(labeled, ranked).where(*where).limit(limit - len(found))
        found += [Row(*row) for row in session.execute(wanted)]
        if len(found) == limit:
            break
    return found


def _stretches(ranked: bool, after: Place | None) -> Iterator[list[ColumnElement[bool]]]:
    """What follows a place, in parts that each are one stretch of the index."""
    if after is None:
        yield []
    elif not ranked:
        yield [Case.id > after.id]
    else:
        same = [Case.priority == after.priority, Case.rank_score == after.rank_score]
        yield [*same, Case.id > after.id]
        yield [Case.priority == after.priority, Case.rank_score < after.rank_score]
        yield [Case.priority < after.priority]


def _rows(labeled: bool, ranked: bool) -> Select[str, bool, int, float]:
    rows = select(Case.id, Case.labeled, Case.priority, Case.rank_score).where(
        Case.state == PRESENT, Case.labeled.is_(labeled)
    )
    if ranked:
        return rows.order_by(Case.priority.desc(), Case.rank_score.desc(), Case.id)
    return rows.order_by(Case.id)
