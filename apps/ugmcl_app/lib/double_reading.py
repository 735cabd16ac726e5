"""double_reading: what becomes of a case that several readers label.

Each reader's label is kept as a reading, which no round trains on. When all are in, every two are compared
class by class. If all agree, the reading that agrees most with the others becomes the label; otherwise the
case waits for an adjudicator, who names a reading or submits a label of their own.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray
from sqlalchemy.orm import Session

from ugmcl.agreement import PairAgreement, all_agree, compare_pairs, most_agreeing

from .catalogue import cases, readings
from .catalogue.database import Database
from .catalogue.label_store import LabelRecord, LabelStore
from .catalogue.label_writer import LabelWriter
from .catalogue.labels import FINAL
from .catalogue.leases import reader_name
from .catalogue.schema import Agreement, Case, Label
from .errors import Refusal, UnusableImage
from .volumes import read_label

logger = logging.getLogger(__name__)

_SHOWN = ("reader", "tool", "model_version", "comment", "created_at")


class _Overtaken(Exception):
    """The readings changed while they were compared."""


class DoubleReading:
    """Compares the readings of one project's cases. Thread-safe, in several processes too.

    Args:
        database, store, writer: The project's catalogue and labels.
        labels: Its classes, `{name: value}`.
        agreement_dice: Dice in [0, 1] that every class of every two readings must reach.
        on_decided: Called, without arguments, after a case got its label here.
    """

    def __init__(
        self,
        database: Database,
        store: LabelStore,
        writer: LabelWriter,
        labels: Mapping[str, int],
        agreement_dice: float,
        on_decided: Callable[[], None],
    ) -> None:
        self._database, self._store, self._writer = database, store, writer
        self._labels, self._agreement_dice = dict(labels), agreement_dice
        self._on_decided = on_decided

    def decide_all(self) -> None:
        """Compare whatever is complete and was not compared, as after a crash between the two."""
        with self._database.read() as session:
            found = readings.undecided(session)
        for case_id in found:
            self.decide(case_id)

    def decide(self, case_id: str) -> None:
        """Compare the readings of a case if they are all there.

        A reading that is damaged, or of another grid than the newest one, which was compared with the scan as
        it is now, frees its reader's place instead.
        """
        try:
            self._decide(case_id)
        except Exception:  # the readings are kept; the next look of the background compares them again
            logger.exception("Comparing the readings of a case failed; trying again.")

    def _decide(self, case_id: str) -> None:
        with self._database.read() as session:
            case = cases.find(session, case_id)
            given = readings.open_of(session, case_id)
            if case is None or not self._is_due(session, case, given):
                return
        arrays = [self._voxels(found) for found in given]
        usable = [array for array in arrays if array is not None]
        shape = usable[-1].shape if usable else None
        lost = [
            found for found, array in zip(given, arrays, strict=True) if array is None or array.shape != shape
        ]
        if lost:
            self._drop(case_id, lost)
            return
        pairs = compare_pairs(usable, list(self._labels.values()))
        with contextlib.suppress(_Overtaken):  # whoever overtook it compares them anew
            if all_agree(pairs, self._agreement_dice):
                self._choose(case_id, given, pairs)
            else:
                self._database.write(lambda session: self._enter(session, case_id, given, pairs))

    def settle(self, case_id: str, reading: str, settled_by: str, comment: str = "") -> dict[str, Any]:
        """Make a reading the label of a case that waits for adjudication.

        Args:
            case_id: The case.
            reading: The uid of one of its readings.
            settled_by: Who decides.
            comment: Kept with the label; empty: the reading's own.

        Raises:
            Refusal: 404 for an unknown case, 409 if it does not wait, 422 for a reading that is not one of
                its own or a missing name.
        """
        who = reader_name(settled_by)
        if not who:
            raise Refusal(422, 'Say who settles it, as in {"client_id": "reader-1"}.')
        with self._database.read() as session:
            if cases.find(session, case_id) is None:
                raise Refusal(404, f"There is no image {case_id[:200]!r} in this project.")
            given = self._waiting(session, case_id)
        chosen = next((found for found in given if found.uid == reading), None)
        if chosen is None:
            known = ", ".join(found.uid for found in given)
            raise Refusal(422, f"The case {case_id!r} has no reading {reading[:80]!r}; it has {known}.")
        try:
            record = self._save(
                chosen,
                readings.SETTLED,
                {"settled_by": who, **({"comment": comment} if comment else {})},
                lambda session: self._require_waiting(session, case_id, given),
            )
        except _Overtaken:
            raise Refusal(
                409, f"The readings of {case_id!r} have just changed; look at them again."
            ) from None
        return {"id": case_id, "label": record.uid, "reading": reading, "settled_by": who}

    def queue(self, limit: int, after: str = "") -> dict[str, Any]:
        """A page of the cases that wait for adjudication, by id, with their readings and how far they agree.

        Args:
            limit: Cases on the page.
            after: The last case of the page before.

        Returns:
            `adjudications`, `total`, and `next`: what to give as `after` for the next page, or None.
        """
        with self._database.read() as session:
            found = readings.waiting(session, limit + 1, after)
            shown = [self._described(session, case_id) for case_id in found[:limit]]
            total = readings.count_waiting(session)
        return {"adjudications": shown, "total": total, "next": found[limit - 1] if found[limit:] else None}

    def one(self, case_id: str) -> dict[str, Any]:
        """One case of the queue; Refusal 409 if it does not wait."""
        with self._database.read() as session:
            self._waiting(session, case_id)
            return self._described(session, case_id)

    # --- comparing

    @staticmethod
    def _is_due(session: Session, case: Case, given: list[Label]) -> bool:
        return bool(
            given
            and not case.labeled
            and len(given) >= case.readers_wanted
            and not readings.agreements(session, case.id)
        )

    def _voxels(self, reading: Label) -> NDArray[Any] | None:
        """The class values of a reading on its scan's grid; None if they cannot be had any more."""
        if self._store.read(reading.sha256, reading.extension) is None:
            return None
        try:
            array, _ = read_label(self._store.path_of(reading.sha256, reading.extension))
        except UnusableImage:
            return None
        return array

    def _drop(self, case_id: str, lost: list[Label]) -> None:
        uids = {found.uid for found in lost}

        def drop(session: Session) -> None:
            cases.lock(session, [case_id])
            present = readings.open_of(session, case_id)
            readings.drop(session, [found for found in present if found.uid in uids], time.time())

        self._database.write(drop)
        logger.warning("%d readings cannot be used any more; their places are free again.", len(lost))

    def _choose(self, case_id: str, given: list[Label], pairs: list[PairAgreement]) -> None:
        chosen = given[most_agreeing(pairs, len(given))]
        self._save(chosen, readings.AGREED, {}, lambda session: self._enter(session, case_id, given, pairs))

    def _enter(self, session: Session, case_id: str, given: list[Label], pairs: list[PairAgreement]) -> None:
        case = cases.lock(session, [case_id]).get(case_id)
        present = readings.open_of(session, case_id)
        if case is None or _uids(present) != _uids(given) or not self._is_due(session, case, present):
            raise _Overtaken
        rows = [
            readings.Pair(
                given[pair.first].id, given[pair.second].id, dict(zip(self._labels, pair.dice, strict=True))
            )
            for pair in pairs
        ]
        readings.enter_agreements(session, case_id, rows, time.time())

    def _save(self, chosen: Label, source: str, told: dict[str, Any], also: Any) -> LabelRecord:
        """Make a reading its case's label: a version of its own, so that the reading stays what it is."""
        content = self._store.read(chosen.sha256, chosen.extension)
        if content is None:
            raise Refusal(409, f"The reading {chosen.uid} is damaged; choose another one.")
        record = LabelRecord(
            chosen.case_id,
            FINAL,
            source,
            time.time(),
            sha256=chosen.sha256,
            extension=chosen.extension,
            reader=chosen.reader,
            tool=chosen.tool,
            model_version=chosen.model_version,
            comment=told.get("comment", chosen.comment),
            info={**chosen.info, "reading": chosen.uid, **told},
        )
        saved = self._writer.save(record, content, settles=True, also=also)
        self._on_decided()
        return saved

    # --- the queue

    @staticmethod
    def _waiting(session: Session, case_id: str) -> list[Label]:
        if not readings.agreements(session, case_id):
            raise Refusal(
                409, f"The case {case_id[:200]!r} does not wait for adjudication; see GET /adjudications."
            )
        return readings.open_of(session, case_id)

    def _require_waiting(self, session: Session, case_id: str, given: list[Label]) -> None:
        if _uids(self._waiting(session, case_id)) != _uids(given):
            raise _Overtaken

    @staticmethod
    def _described(session: Session, case_id: str) -> dict[str, Any]:
        given = readings.open_of(session, case_id)
        compared: list[Agreement] = readings.agreements(session, case_id)
        uid_of = {found.id: found.uid for found in given}
        return {
            "id": case_id,
            "readings": [
                {"label": found.uid, **{key: getattr(found, key) for key in _SHOWN}} for found in given
            ],
            "pairs": [
                {
                    "first": uid_of.get(pair.first_label),
                    "second": uid_of.get(pair.second_label),
                    "dice": pair.dice,
                }
                for pair in compared
            ],
            "compared_at": max((pair.compared_at for pair in compared), default=None),
        }


def _uids(found: list[Label]) -> set[str]:
    return {label.uid for label in found}
