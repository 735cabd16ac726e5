"""batch_rows: the one writer of the tables `features` and `batch_places`: what a model sees in each case, and
which cases it has chosen for readers who work side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from . import leases
from .database import upsert
from .schema import PRESENT, BatchPlace, Case, CaseFeatures, Lease

_BATCH = 500
_FLOATS = np.dtype("<f4")


def put_features(
    session: Session, case_id: str, model_version: str, scan: str, features: Sequence[float]
) -> None:
    """Keep what a model sees in a case, instead of what an earlier one did: only those of one model can be
    compared."""
    vector = np.nan_to_num(np.asarray(features, dtype=_FLOATS)).tobytes()
    row = {"case_id": case_id, "model_version": model_version, "scan": scan, "vector": vector}
    upsert(session, CaseFeatures, [row], ["case_id"])


def without_features(session: Session, scans: Mapping[str, str], model_version: str) -> set[str]:
    """Those of the cases in which this model has not looked yet, at the scan as it is now.

    Args:
        session: Sees one state of the catalogue.
        scans: Image id -> its `pool.scan_version`.
        model_version: Of the model.
    """
    rows = select(CaseFeatures.case_id, CaseFeatures.scan).where(CaseFeatures.model_version == model_version)
    known = {str(case_id): str(scan) for case_id, scan in session.execute(rows)}
    return {case_id for case_id, scan in scans.items() if known.get(case_id) != scan}


def features_of(
    session: Session, case_ids: Sequence[str], model_version: str
) -> tuple[list[str], NDArray[np.float32]]:
    """The cases that have features of a model, in the order given, and these, `(N, C)`."""
    found: dict[str, bytes] = {}
    for start in range(0, len(case_ids), _BATCH):
        rows = select(CaseFeatures.case_id, CaseFeatures.vector).where(
            CaseFeatures.case_id.in_(case_ids[start : start + _BATCH]),
            CaseFeatures.model_version == model_version,
        )
        found.update({str(case_id): bytes(vector) for case_id, vector in session.execute(rows)})
    known = [case_id for case_id in case_ids if case_id in found]
    vectors = [np.frombuffer(found[case_id], dtype=_FLOATS) for case_id in known]
    return known, np.array(vectors, dtype=np.float32) if vectors else np.zeros((0, 0), np.float32)


def chosen(session: Session) -> tuple[str | None, list[str]]:
    """The model that has chosen, and its cases in order; labeled ones are among them."""
    rows = select(BatchPlace.case_id, BatchPlace.model_version).order_by(BatchPlace.place)
    found = session.execute(rows).all()
    return (found[0][1] if found else None), [str(case_id) for case_id, _ in found]


def present_batch(session: Session, size: int) -> list[str]:
    """The cases of the newest batch that are still to be labeled, in order."""
    rows = select(BatchPlace.case_id).order_by(BatchPlace.place.desc()).limit(size)
    return _to_do(session, list(session.scalars(rows))[::-1])


def choose(session: Session, case_ids: Sequence[str], model_version: str) -> None:
    """Add a batch; those that another model has chosen are forgotten."""
    session.execute(
        delete(BatchPlace)
        .where(BatchPlace.model_version != model_version)
        .execution_options(synchronize_session=False)
    )
    last = session.scalar(select(func.max(BatchPlace.place))) or 0
    rows = [
        {"case_id": case_id, "model_version": model_version, "place": last + 1 + number}
        for number, case_id in enumerate(case_ids)
    ]
    upsert(session, BatchPlace, rows, ["case_id"])  # one that was given back may come again


def has_free(session: Session, case_ids: Sequence[str], now: float) -> bool:
    """Whether any of some cases can still be given to a reader; one that somebody skipped does not count."""
    return any(
        session.scalar(select(Case.id).where(Case.id == case_id, *_free(now))) is not None
        for case_id in _to_do(session, case_ids)
    )


def candidates(session: Session, now: float, count: int) -> list[tuple[str, float]]:
    """Id and newest score of free cases, the least sure first, at most `count`."""
    rows = select(Case.id, Case.rank_score).where(*_free(now)).order_by(Case.rank_score.desc(), Case.id)
    return [(str(case_id), float(score)) for case_id, score in session.execute(rows.limit(count))]


def count_candidates(session: Session, now: float) -> int:
    """How many there are."""
    return int(session.scalar(select(func.count()).select_from(Case).where(*_free(now))) or 0)


def in_work(session: Session, now: float) -> list[str]:
    """Cases that readers have now."""
    return [lease.case_id for lease in leases.open_leases(session, now)]


def _to_do(session: Session, case_ids: Sequence[str]) -> list[str]:
    # By their ids alone: with a further condition SQLite walks through every unlabeled case by rank.
    rows = select(Case.id, Case.state, Case.labeled, Case.priority).where(Case.id.in_(case_ids))
    open_ones = {row[0] for row in session.execute(rows) if tuple(row[1:]) == (PRESENT, False, 0)}
    return [case_id for case_id in case_ids if case_id in open_ones]


def _free(now: float) -> tuple[ColumnElement[bool], ...]:
    skipped = select(Lease.id).where(Lease.case_id == Case.id, Lease.end == leases.SKIPPED).exists()
    return (
        Case.state == PRESENT,
        Case.labeled.is_(False),
        Case.priority == 0,  # what is set by hand is not for a batch to decide
        Case.assigned_to.is_(None),
        leases.has_room(now),
        ~skipped,
    )
