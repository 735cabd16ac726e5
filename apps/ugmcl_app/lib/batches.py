"""batches: what readers who work side by side are offered next: unsure cases that are unlike each other.

Without it, ten readers get the ten highest scores, which may be ten copies of one problem. A batch is chosen
in the background, within the least sure part of the pool and away from the cases that are in work or were
chosen before by the same model; the next one when all of it is given out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from ugmcl.diversity import most_uncertain_diverse, uncertain_part

from .catalogue import batch_rows
from .catalogue.database import Database, next_number


class Batches:
    """The batches of one project. Thread-safe, in several processes too.

    Args:
        database: The catalogue.
        size: Cases in a batch, above 0.
    """

    def __init__(self, database: Database, size: int) -> None:
        self._database, self._size = database, size

    def put(self, case_id: str, model_version: str, scan: str, features: Sequence[float]) -> None:
        """Keep what a model sees in a case (`CaseScore.features`)."""
        self._database.write(lambda s: batch_rows.put_features(s, case_id, model_version, scan, features))

    def missing(self, scans: Mapping[str, str], model_version: str) -> set[str]:
        """Cases in which a model has not looked yet; see `batch_rows.without_features`."""
        with self._database.read() as session:
            return batch_rows.without_features(session, scans, model_version)

    def renew(self, model_version: str, complete: bool) -> bool:
        """Choose a further batch if nothing of the present one is free any more.

        Args:
            model_version: The live model.
            complete: Whether it has scored every case; until then it begins no batch, as it would choose
                among the first ones.

        Returns:
            Whether there is a new batch.
        """
        now = time.time()
        with self._database.read() as session:
            by, before = batch_rows.chosen(session)
            if by != model_version:
                before = []
                if not complete:
                    return False
            elif batch_rows.has_free(session, before[-self._size :], now):
                return False
            batch = self._choose(session, model_version, before, now)
        if not batch:
            return False

        def enter(session: Session) -> bool:
            next_number(session, "batches")  # one after the other
            if batch_rows.chosen(session)[0] == model_version and batch_rows.chosen(session)[1] != before:
                return False  # another process was faster
            batch_rows.choose(session, batch, model_version)
            return True

        return self._database.write(enter)

    def _choose(self, session: Session, model_version: str, before: list[str], now: float) -> list[str]:
        total = batch_rows.count_candidates(session, now)
        scored = batch_rows.candidates(session, now, uncertain_part(total, self._size))
        known, features = batch_rows.features_of(session, [case_id for case_id, _ in scored], model_version)
        if not known:
            return []
        score_of = dict(scored)
        in_work = [case_id for case_id in batch_rows.in_work(session, now) if case_id not in before]
        _, centers = batch_rows.features_of(session, [*before, *in_work], model_version)
        found = most_uncertain_diverse(
            [score_of[case_id] for case_id in known],
            features,
            self._size,
            share=1.0,
            chosen=centers if len(centers) else None,
        )
        return [known[index] for index in found]
