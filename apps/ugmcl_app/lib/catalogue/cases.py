"""cases: the one writer of the table `cases` (but for `labeled`, which follows the labels)."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from .database import BATCH, Database, insert_new
from .schema import GONE, PRESENT, UNRANKED, Case, CaseScore

PAGE = 50


def find(session: Session, case_id: str) -> Case | None:
    """A case that is served now."""
    found = session.get(Case, case_id)
    return found if found is not None and found.state == PRESENT else None


def lock(session: Session, case_ids: Sequence[str]) -> dict[str, Case]:
    """The rows of cases, which nobody else changes until the transaction ends; by id."""
    rows = select(Case).where(Case.id.in_(case_ids)).order_by(Case.id).with_for_update()
    return {found.id: found for found in session.scalars(rows)}


def add(session: Session, files: dict[str, str], state: str = PRESENT) -> None:
    """Enter cases that have no row yet.

    Args:
        session: Of a transaction.
        files: Id -> file name.
        state: Their state.
    """
    if not files:
        return
    newest: dict[str, tuple[float, float]] = {}
    ids = list(files)
    for start in range(0, len(ids), BATCH):
        some = CaseScore.case_id.in_(ids[start : start + BATCH])
        rows = select(CaseScore.case_id, CaseScore.score, CaseScore.scored_at).where(some)
        for case_id, score, at in session.execute(rows):
            newest[case_id] = max(newest.get(case_id, (0.0, UNRANKED)), (at, score))
    now = time.time()
    new = [
        {
            "id": case_id,
            "file": file,
            "state": state,
            "info": {"ts": int(now), "name": file},
            "added_at": now,
            "labeled": False,
            "rank_score": newest[case_id][1] if case_id in newest else UNRANKED,
            "priority": 0,
            "assigned_to": None,
            "readers_wanted": 1,
            "leased_at": 0.0,
        }
        for case_id, file in files.items()
    ]
    insert_new(session, Case, new)


def serve(found: Case, file: str, state: str) -> bool:
    """Bring a case's file and state up to date; returns whether that changed anything."""
    if (found.file, found.state) == (file, state):
        return False
    if found.file != file or "name" not in found.info:
        found.info = {"ts": int(time.time()), **found.info, "name": file}
    found.file, found.state = file, state
    return True


def forget(found: Case) -> None:
    """A case was removed on purpose: only its id and the history of its labels are kept."""
    found.state, found.info = GONE, {}


def rank(session: Session, scores: Iterable[tuple[str, float]]) -> None:
    """Note the newest scores of cases, which decide the order in which they are offered."""
    for case_id, score in scores:
        session.execute(
            update(Case)
            .where(Case.id == case_id, Case.rank_score != score)
            .values(rank_score=score)
            .execution_options(synchronize_session=False)
        )


def ids(session: Session, labeled: bool | None = None) -> list[str]:
    """Cases served now, by id; with `labeled`, those with or without a final label."""
    rows = select(Case.id).where(Case.state == PRESENT).order_by(Case.id)
    return list(session.scalars(rows if labeled is None else rows.where(Case.labeled == labeled)))


def files(session: Session) -> list[tuple[str, str]]:
    """Id and file name of every case served now, by id."""
    rows = select(Case.id, Case.file).where(Case.state == PRESENT).order_by(Case.id)
    return [(case_id, file) for case_id, file in session.execute(rows)]


def count(session: Session, labeled: bool | None = None) -> int:
    """How many `ids` there are."""
    rows = select(func.count()).select_from(Case).where(Case.state == PRESENT)
    return int(session.scalar(rows if labeled is None else rows.where(Case.labeled == labeled)) or 0)


def in_order(database: Database, order: str) -> Iterator[str]:
    """Unlabeled cases, best first, fetched page by page as they are asked for.

    Args:
        database: The catalogue.
        order: `rank` (priority, then the newest score, the unscored by id after all others), `id`, or
            `random`.
    """
    if order == "random":
        yield from _shuffled(database)
        return
    wanted = _unlabeled()
    if order == "rank":
        wanted = wanted.order_by(Case.priority.desc(), Case.rank_score.desc(), Case.id)
    else:
        wanted = wanted.order_by(Case.id)
    given: set[str] = set()
    while True:
        with database.read() as session:
            # From the start again each time: what was set aside meanwhile has left the list.
            page = list(session.scalars(wanted.limit(PAGE + len(given))))
        fresh = [case_id for case_id in page if case_id not in given]
        if not fresh:
            return
        given.update(fresh)
        yield from fresh


def _shuffled(database: Database) -> Iterator[str]:
    """The first few by one look each, so that asking for one does not read all; then the rest, shuffled."""
    given: set[str] = set()
    for _ in range(3):
        with database.read() as session:
            total = count(session, labeled=False)
            if not total:
                return
            offset = random.randrange(total)
            found = session.scalar(_unlabeled().order_by(Case.id).offset(offset).limit(1))
        if found is not None and found not in given:
            given.add(found)
            yield found
    with database.read() as session:
        rest = [case_id for case_id in ids(session, labeled=False) if case_id not in given]
    random.shuffle(rest)
    yield from rest


def _unlabeled() -> Select[Any]:
    return select(Case.id).where(Case.state == PRESENT, Case.labeled.is_(False))


def touch(session: Session, case_id: str, before: float, now: float) -> bool:
    """Note that a case is given to someone; False if someone else was faster since `before`."""
    done = session.execute(
        update(Case)
        .where(Case.id == case_id, Case.leased_at == before, Case.labeled.is_(False))
        .values(leased_at=now)
        .execution_options(synchronize_session=False)
    )
    return bool(getattr(done, "rowcount", 0))


def set_priority(found: Case, priority: int) -> None:
    """Offer a case earlier (above 0) or later than its score would."""
    found.priority = priority


def want_readers(found: Case, readers: int) -> None:
    """Have a case labeled by so many readers, and their labels compared; 1: by anyone."""
    found.readers_wanted = readers


def assign(found: Case, reader: str | None) -> None:
    """Offer a case to this reader only, before all others; None: to anyone."""
    found.assigned_to = reader
