"""export_rows: what the catalogue knows of the cases that are exported; read only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .labels import FINAL
from .schema import ACTIVE, PRESENT, Case, Label, SplitRole

ORIGINAL = "original"
_FEW = 500
"""Ids that are named in a query; of more, all cases are read."""


class PlannedCase(NamedTuple):
    """One case of an export, as it was when the export began.

    Attributes:
        id: The case.
        file: Name of its scan.
        final, original: Uid of the label version in effect; empty: none, or not asked for.
    """

    id: str
    file: str
    final: str
    original: str


def planned(
    session: Session, chosen: Collection[str] | None, unlabeled: bool, originals: bool
) -> list[PlannedCase]:
    """The cases to export, by id.

    Args:
        session: Sees one state of the catalogue.
        chosen: Only these; None: all that are served.
        unlabeled: Those without a final label, too.
        originals: With the proposals that are kept of them.
    """
    rows = select(Case.id, Case.file).where(Case.state == PRESENT).order_by(Case.id)
    wanted = None if chosen is None else set(chosen)
    if wanted is not None and len(wanted) <= _FEW:
        rows = rows.where(Case.id.in_(wanted))
    final = _in_effect(session, FINAL)
    original = _in_effect(session, ORIGINAL) if originals else {}
    return [
        PlannedCase(case_id, file, final.get(case_id, ""), original.get(case_id, ""))
        for case_id, file in session.execute(rows)
        if (wanted is None or case_id in wanted) and (unlabeled or case_id in final)
    ]


def _in_effect(session: Session, tag: str) -> dict[str, str]:
    # Asked for by itself: joined to the cases, SQLite would walk through all labels for each of them.
    rows = select(Label.case_id, Label.uid).where(Label.tag == tag, Label.state == ACTIVE)
    return {str(case_id): str(uid) for case_id, uid in session.execute(rows)}


def newest_label(session: Session) -> int:
    """The row of the newest label version."""
    return int(session.scalar(select(func.max(Label.id))) or 0)


def versions(session: Session, uids: Collection[str]) -> dict[str, Label]:
    """Label versions by uid."""
    return {found.uid: found for found in session.scalars(select(Label).where(Label.uid.in_(uids)))}


def history(session: Session, case_ids: Sequence[str], newest: int) -> list[Label]:
    """Every label version of some cases up to a row, by case, oldest first."""
    rows = select(Label).where(Label.case_id.in_(case_ids), Label.id <= newest)
    return list(session.scalars(rows.order_by(Label.case_id, Label.id)))


def cases_of(session: Session, case_ids: Sequence[str]) -> dict[str, Case]:
    """Cases by id."""
    return {found.id: found for found in session.scalars(select(Case).where(Case.id.in_(case_ids)))}


def roles_of(session: Session, case_ids: Sequence[str]) -> dict[str, str]:
    """Whether cases train or validate, by id."""
    rows = select(SplitRole.case_id, SplitRole.role).where(SplitRole.case_id.in_(case_ids))
    return {str(case_id): str(role) for case_id, role in session.execute(rows)}
