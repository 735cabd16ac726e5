"""known_series: the one writer of the table `pacs_series`: which series the PACS has, and what reading them
gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..catalogue.database import upsert
from ..catalogue.schema import PacsSeries
from ..pool import Signature
from .dicomweb import SeriesEntry

NOT_MADE = -1
_BATCH = 500


class KnownSeries(NamedTuple):
    """A row of `pacs_series`; see there."""

    uid: str
    study_uid: str
    modality: str
    instances: int
    listed: bool = True
    made_of: int = NOT_MADE
    size: int = 0
    mtime_ns: int = 0
    reason: str | None = None

    @property
    def is_made(self) -> bool:
        """Whether what was read of it is what the PACS has now."""
        return self.made_of == self.instances

    @property
    def signature(self) -> Signature:
        """Of the volume that was made of it; before that of what the PACS says of it, which is no file's."""
        if self.is_made and self.size:
            return Signature(self.size, self.mtime_ns)
        return Signature(-2, self.instances)


_COLUMNS = [getattr(PacsSeries, name) for name in KnownSeries._fields]


def load(session: Session) -> dict[str, KnownSeries]:
    """Every row by UID."""
    return {row[0]: KnownSeries(*row) for row in session.execute(select(*_COLUMNS))}


def put(session: Session, rows: Iterable[KnownSeries]) -> None:
    """Enter or replace rows."""
    upsert(session, PacsSeries, [row._asdict() for row in rows], ["uid"])


def refused(session: Session) -> dict[str, str]:
    """Why each segmentation that is listed and not taken is not, by UID."""
    rows = select(PacsSeries.uid, PacsSeries.reason).where(PacsSeries.reason.is_not(None), PacsSeries.listed)
    return {uid: str(reason) for uid, reason in session.execute(rows.order_by(PacsSeries.uid))}


def differing(
    known: Mapping[str, KnownSeries], modality: str, listed: Iterable[SeriesEntry]
) -> dict[str, KnownSeries]:
    """The rows that a listing of a modality changes: new ones, changed ones, and those that are gone.

    What was read of a series is kept, so that one that comes back unchanged is not read again.
    """
    changed = {}
    present = set()
    for entry in listed:
        present.add(entry.uid)
        before = known.get(entry.uid)
        now = KnownSeries(entry.uid, entry.study_uid, modality, entry.instances or 0)
        if before is not None:
            now = before._replace(study_uid=now.study_uid, instances=now.instances, listed=True)
        if now != before:
            changed[entry.uid] = now
    for uid, before in known.items():
        if before.modality == modality and before.listed and uid not in present:
            changed[uid] = before._replace(listed=False)
    return changed
