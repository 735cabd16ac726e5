"""readers: what each reader has done, told from labels, leases and comparisons; changes nothing."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from . import leases, readings
from .label_store import SUBMITTED
from .labels import FINAL
from .schema import ACTIVE, Label, Lease

DAYS = 30
"""How many days back labels are counted day by day."""
_DAY_S = 86400.0


def statistics(session: Session, now: float) -> list[dict[str, Any]]:
    """One entry for each reader who ever saved a label or had a case, by name; an empty name: nobody said.

    Returns:
        `reader`; `labels_saved` (submissions, readings included), `labels_by_day` (the last `DAYS` days,
        UTC), `labels_per_day` (mean over the days of those with any), `unchanged_proposals` (labels that are
        voxel for voxel the kept proposal of the model), `skipped`, `released` and `expired` (cases given
        back), `open_lease` (`case_id`, `expires_at`, or None), `mean_seconds` from lease to label (None
        before the first), `mean_dice` with other readers over `comparisons` of theirs (None without any).
    """
    saved, unchanged = _saved(session), _unchanged(session)
    by_day, ended, seconds = _by_day(session, now), leases.ended_by_reader(session), _seconds(session)
    current = {lease.reader: lease for lease in leases.open_leases(session, now)}
    compared = readings.dice_by_reader(session)
    return [
        {
            "reader": reader,
            "labels_saved": saved.get(reader, 0),
            "labels_by_day": dict(sorted(by_day[reader].items())),
            "labels_per_day": by_day[reader].total() / len(by_day[reader]) if by_day[reader] else None,
            "unchanged_proposals": unchanged.get(reader, 0),
            **{how: ended.get(reader, {}).get(how, 0) for how in _GIVEN_BACK},
            "open_lease": _shown(current.get(reader)),
            "mean_seconds": seconds.get(reader),
            "mean_dice": sum(compared[reader]) / len(compared[reader]) if reader in compared else None,
            "comparisons": len(compared.get(reader, ())),
        }
        for reader in sorted({*saved, *ended, *current})
    ]


_GIVEN_BACK = (leases.SKIPPED, leases.RELEASED, leases.EXPIRED)
_SUBMITTED = (Label.tag == FINAL, Label.source == SUBMITTED)


def _saved(session: Session) -> dict[str, int]:
    rows = select(Label.reader, func.count()).where(*_SUBMITTED).group_by(Label.reader)
    return {reader: int(count) for reader, count in session.execute(rows)}


def _unchanged(session: Session) -> dict[str, int]:
    proposal = aliased(Label)
    rows = (
        select(Label.reader, func.count(Label.id.distinct()))
        .join(proposal, (proposal.case_id == Label.case_id) & (proposal.sha256 == Label.sha256))
        .where(*_SUBMITTED, Label.sha256 != "", proposal.tag != FINAL, proposal.state == ACTIVE)
        .group_by(Label.reader)
    )
    return {reader: int(count) for reader, count in session.execute(rows)}


def _by_day(session: Session, now: float) -> defaultdict[str, Counter[str]]:
    first = (now // _DAY_S - DAYS + 1) * _DAY_S
    rows = select(Label.reader, Label.created_at).where(*_SUBMITTED, Label.created_at >= first)
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for reader, at in session.execute(rows):
        found[reader][time.strftime("%Y-%m-%d", time.gmtime(at))] += 1
    return found


def _seconds(session: Session) -> dict[str, float]:
    rows = select(Lease.reader, func.avg(Lease.ended_at - Lease.granted_at)).where(Lease.end == leases.SAVED)
    return {reader: float(mean) for reader, mean in session.execute(rows.group_by(Lease.reader))}


def _shown(lease: Lease | None) -> dict[str, Any] | None:
    return None if lease is None else {"case_id": lease.case_id, "expires_at": lease.expires_at}
