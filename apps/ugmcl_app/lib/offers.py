"""offers: which reader gets which case next, so that no two work on the same one.

A reader is who logged in, else the non-empty `client_id` of the request, else nobody. A named reader has one
case at a time and gets the same one again until the label is saved, the case is given back or skipped, or its
time is over. An anonymous request gets the free case that was given to anyone longest ago, or never: nobody
would give a lease back for it. A case that several readers label has as many places; nobody gets it twice.
Nothing is offered only when every case is labeled, or read by this reader, or waits for an adjudicator.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from .catalogue import batch_rows, cases, leases, readers, readings
from .catalogue.database import Database
from .catalogue.schema import PRESENT, Case, Lease
from .datastore import FolderDatastore
from .errors import Refusal

_PAGE = 50
_MAX_REASON = 1000


class Offer(NamedTuple):
    """A case for a reader.

    Attributes:
        id: The case.
        expires_at: Until when it is theirs alone, in seconds since 1970; None: it is not.
    """

    id: str
    expires_at: float | None


def reader_of(request: dict[str, Any]) -> str:
    """The reader a request comes from; empty: nobody said."""
    # Until there is a login; what else a request says of itself is no proof.
    return leases.reader_name(request.get("client_id"))


class CaseOffers:
    """Gives the cases of one project to its readers. Thread-safe, in several processes too.

    Args:
        datastore: The project's scans.
        database: Its catalogue.
        lease_s: Seconds without a sign of life after which a case is free again.
        batch: Size of the diverse batch that the order `rank` offers first; 0: there is none.
    """

    def __init__(
        self, datastore: FolderDatastore, database: Database, lease_s: float, batch: int = 0
    ) -> None:
        self._datastore, self._database, self._lease_s = datastore, database, lease_s
        self._batch = batch

    def next(self, reader: str, strategy: str, order: str) -> Offer | None:
        """The case for a reader now; None when nothing is left for them.

        Args:
            reader: As `reader_of`.
            strategy: The name of the strategy, kept with the lease.
            order: The strategy's order, as in `FolderDatastore.unlabeled_in_order`.
        """
        if not reader:
            return self._next_for_nobody(order)
        found = self._again(reader) or self._lease_one(reader, strategy, order)
        # Again: another request of the same reader may have taken the last one meanwhile.
        return found or self._again(reader) or self._shared(reader)

    def heartbeat(self, case_id: str, reader: str) -> Offer:
        """A sign of life; Refusal 409 if the reader does not have the case."""

        def renew(session: Session) -> Offer:
            lease = self._own(session, case_id, reader)
            leases.renew(lease, time.time(), self._lease_s)
            return Offer(case_id, lease.expires_at)

        return self._database.write(renew)

    def give_back(self, case_id: str, reader: str, skipped: bool = False, reason: str = "") -> None:
        """End a reader's lease; a skipped case is not offered to them again while there are others."""

        def end(session: Session) -> None:
            lease = self._own(session, case_id, reader)
            how = leases.SKIPPED if skipped else leases.RELEASED
            leases.end(lease, how, time.time(), reason.replace("\0", "")[:_MAX_REASON])

        self._database.write(end)

    def current(self) -> list[dict[str, Any]]:
        """The leases in force, oldest first."""
        with self._database.read() as session:
            found = leases.open_leases(session, time.time())
        keys = ("case_id", "reader", "strategy", "granted_at", "heartbeat_at", "expires_at")
        return [{key: getattr(lease, key) for key in keys} for lease in found]

    def readers(self) -> list[dict[str, Any]]:
        """What each reader has done; see `catalogue.readers.statistics`."""
        with self._database.read() as session:
            return readers.statistics(session, time.time())

    def plan(
        self,
        case_id: str,
        priority: int | None = None,
        assigned_to: str | None = None,
        readers_wanted: int | None = None,
    ) -> dict[str, Any]:
        """Set by hand how early a case is offered, to whom, and to how many.

        Args:
            case_id: The case.
            priority: Above 0 earlier than by score, below 0 later; None: as it is.
            assigned_to: The only reader to offer it to; empty: anyone; None: as it is.
            readers_wanted: How many readers label it, 1 or more; None: as it is.

        Raises:
            Refusal: 404 for an unknown case, 409 for more readers of a labeled one, 422 for more readers of
                one that is assigned to a single one.
        """

        def change(session: Session) -> dict[str, Any]:
            found = cases.lock(session, [case_id]).get(case_id)
            if found is None or found.state != PRESENT:
                raise Refusal(404, f"There is no image {case_id[:200]!r} in this project.")
            if priority is not None:
                cases.set_priority(found, priority)
            if assigned_to is not None:
                cases.assign(found, reader_of({"client_id": assigned_to}) or None)
            if readers_wanted is not None:
                _want_readers(session, found, readers_wanted)
            if found.readers_wanted > 1 and found.assigned_to:
                raise Refusal(
                    422,
                    f"The case {case_id!r} cannot be for {found.readers_wanted} readers and assigned to one; "
                    'send {"assigned_to": ""} or {"readers_wanted": 1} with it.',
                )
            keys = ("id", "priority", "assigned_to", "readers_wanted")
            return {key: getattr(found, key) for key in keys}

        planned = self._database.write(change)
        self._datastore.readings.decide(case_id)  # fewer may be wanted than there are
        return planned

    # --- named readers

    def _again(self, reader: str) -> Offer | None:
        """The case a reader has already, if it is still theirs and still to do."""

        def renew(session: Session) -> Offer | None:
            lease = leases.of_reader(session, reader)
            if lease is None:
                return None
            case, now = cases.lock(session, [lease.case_id]).get(lease.case_id), time.time()
            session.refresh(lease)
            if lease.ended_at is None and case is not None and case.state == PRESENT and not case.labeled:
                # Also when its time is over: nobody else has come for it.
                leases.renew(lease, now, self._lease_s)
                return Offer(lease.case_id, lease.expires_at)
            if lease.ended_at is None:
                leases.end(lease, leases.RELEASED, now, "the case is no longer to be labeled")
            return None

        with self._database.read() as session:  # most who ask have just saved a label, and have none
            if leases.of_reader(session, reader) is None:
                return None
        offer = self._database.write(renew)
        if offer is None or self._datastore.is_usable(offer.id):
            return offer
        with contextlib.suppress(Refusal):  # another request of the same reader was faster
            self.give_back(offer.id, reader, reason="the case is no longer to be labeled")
        return None

    def _lease_one(self, reader: str, strategy: str, order: str) -> Offer | None:
        """A free case of the reader's own, chosen and leased in one transaction; None if there is none."""
        while True:
            chances = self._chances(order)
            try:
                found = self._database.write(lambda s: self._grant_first(s, reader, strategy, order, chances))  # noqa: B023
            except IntegrityError:  # another request of the same reader was faster
                return self._again(reader)
            if found is None:
                return None
            if found.expires_at is None:
                time.sleep(0.005)  # taken while it was looked for
                continue
            # The first time a scan is given to anyone, all of it is read: an unusable one is set aside.
            if self._datastore.is_usable(found.id):
                return found
            self._again(reader)  # ends the lease

    def _chances(self, order: str) -> list[str]:
        """For the order `random`: some cases to try first."""
        return (
            list(itertools.islice(self._datastore.unlabeled_in_order(order), 3)) if order == "random" else []
        )

    def _grant_first(
        self, session: Session, reader: str, strategy: str, order: str, chances: list[str]
    ) -> Offer | None:
        now = time.time()
        mine = select(Case).where(
            *_TO_DO, leases.has_room(now), ~readings.read_by(reader), ~leases.skipped(reader)
        )
        free = mine.where(Case.assigned_to.is_(None))
        by_rank = (Case.priority.desc(), Case.rank_score.desc(), Case.id)
        # Asked for by itself: as a condition below, SQLite would walk through every case by rank.
        own = list(session.scalars(select(Case.id).where(Case.assigned_to == reader)))
        tries = [
            *([mine.where(Case.id.in_(own)).order_by(*by_rank)] if own else []),
            *(free.where(Case.id == case_id) for case_id in chances),
            *(self._from_batch(session, free) if order == "rank" else []),
            free.order_by(*by_rank) if order == "rank" else free.order_by(Case.id),
        ]
        for rows in tries:
            case = session.scalar(rows.limit(1).with_for_update(skip_locked=True, of=Case))
            if case is not None:
                lease = leases.grant(session, case, reader, strategy, now, self._lease_s)
                if lease is None:
                    return Offer(case.id, None)
                cases.touch(session, case.id, case.leased_at, now)
                return Offer(case.id, lease.expires_at)
        # None, or one that another transaction had locked just then, and that may turn out to be free.
        missed = session.scalar(mine.where(_for_anyone_or(reader)).limit(1))
        return None if missed is None else Offer(missed.id, None)

    def _from_batch(self, session: Session, free: Select[Case]) -> list[Select[Case]]:
        """Before the order by score: what was moved up by hand, then the batch in its own order."""
        batch = batch_rows.present_batch(session, self._batch) if self._batch else []
        if not batch:
            return []
        return [
            free.where(Case.priority > 0).order_by(Case.priority.desc(), Case.rank_score.desc(), Case.id),
            *(free.where(Case.id == case_id) for case_id in batch),
        ]

    def _shared(self, reader: str) -> Offer | None:
        """Everything that is left is in work, assigned or skipped: the case given out longest ago, to share;
        one that the reader skipped last of all. None that the reader has read already."""
        skipped = []
        for case_id, _ in self._by_last_lease(reader, "rank", free=False):
            with self._database.read() as session:
                if leases.skipped_by(session, reader, [case_id]):
                    skipped.append(case_id)
                    continue
            if self._datastore.is_usable(case_id):
                return Offer(case_id, None)
        return Offer(skipped[0], None) if skipped else None

    # --- nobody

    def _next_for_nobody(self, order: str) -> Offer | None:
        for free in (True, False):
            is_late = True  # another request took what this one had found: there may be more
            while is_late:
                is_late = False
                chances = self._by_chance() if order == "random" and free else iter(())
                for case_id, before in itertools.chain(chances, self._by_last_lease("", order, free)):
                    if not self._datastore.is_usable(case_id):
                        continue
                    now = max(time.time(), before + 1e-6)  # a clock set back must not offer it at once again
                    if self._database.write(lambda s, i=case_id, b=before, n=now: cases.touch(s, i, b, n)):  # type: ignore[misc]
                        return Offer(case_id, None)
                    is_late = True
        return None

    def _by_chance(self) -> Iterator[tuple[str, float]]:
        """A few of the cases given out longest ago, or never, each with equal chance."""
        for _ in range(5):
            with self._database.read() as session:
                oldest = session.scalar(select(func.min(Case.leased_at)).where(*_TO_DO))
                where = (*_TO_DO, Case.leased_at == oldest)
                count = session.scalar(select(func.count()).select_from(Case).where(*where)) or 0
                if not count:
                    return
                # Asked of one row only: of all of them it would take long.
                is_free = and_(leases.has_room(time.time()), ~readings.read_by(""))
                rows = select(Case.id, is_free, Case.assigned_to).where(*where)
                offset = random.randrange(count)
                found = session.execute(rows.order_by(Case.id).offset(offset).limit(1)).first()
            if found is not None and found[1] and found[2] is None:
                yield found[0], float(oldest or 0.0)

    def _by_last_lease(self, reader: str, order: str, free: bool) -> Iterator[tuple[str, float]]:
        """Cases to do, never given out first, then longest ago; equals in the strategy's order."""
        rows: Select[str, float] = select(Case.id, Case.leased_at).where(
            *_TO_DO, readings.are_missing(), ~readings.read_by(reader)
        )
        if free:
            rows = rows.where(leases.has_room(time.time()), Case.assigned_to.is_(None))
        if order == "rank":
            rows = rows.order_by(Case.leased_at, Case.priority.desc(), Case.rank_score.desc(), Case.id)
        else:
            rows = rows.order_by(Case.leased_at, Case.id)
        offset = 0
        while True:
            with self._database.read() as session:
                page = [(row[0], row[1]) for row in session.execute(rows.offset(offset).limit(_PAGE))]
            if not page:
                return
            yield from page
            offset += len(page)

    # --- helpers

    @staticmethod
    def _own(session: Session, case_id: str, reader: str) -> Lease:
        cases.lock(session, [case_id])  # or somebody may take the case just now
        lease = leases.of_reader(session, reader) if reader else None
        if lease is None or lease.case_id != case_id:
            raise Refusal(
                409,
                f"The case {case_id[:200]!r} is not leased to {reader[:80]!r}; ask for a case with "
                "POST /activelearning/most_uncertain and the same client_id.",
            )
        return lease


_TO_DO = (Case.state == PRESENT, Case.labeled.is_(False))


def _want_readers(session: Session, case: Case, readers: int) -> None:
    if readers > 1 and case.labeled:
        raise Refusal(
            409, f"The case {case.id!r} has its label already; remove that before asking for more readers."
        )
    cases.want_readers(case, readers)
    if len(readings.open_of(session, case.id)) < readers:
        readings.withdraw(session, case.id, time.time())


def _for_anyone_or(reader: str) -> ColumnElement[bool]:
    return or_(Case.assigned_to.is_(None), Case.assigned_to == reader)
