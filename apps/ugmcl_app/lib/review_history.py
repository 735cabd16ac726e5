"""review_history: how the project came to where it is: rounds, what the last one changed, who
labeled when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from .catalogue import review_rows
from .catalogue.database import Database
from .registry import ModelRegistry
from .round_record import DONE, Round, finite
from .rounds import RoundQueue

MOST_MOVED = 5
"""Cases named on each side of what a round changed."""


class ReviewHistory:
    """Reads rounds, models and labels for the review page; changes nothing."""

    def __init__(self, rounds: RoundQueue, registry: ModelRegistry, database: Database) -> None:
        self._rounds, self._registry, self._database = rounds, registry, database

    def curve(self) -> list[dict[str, Any]]:
        """Completed rounds, oldest first.

        Returns:
            Of each `round`, `model_version`, `promoted`, `labeled`, `finished_at`; `dice` and `hd95_mm` of
            its candidate, the better of student and teacher, on the validation cases it had (None without
            any); `calibration` of the same, see `ugmcl.reliability` (None for rounds before it was measured).
        """
        return [_point(entry) for entry in self._done()]

    def last_change(self) -> dict[str, Any] | None:
        """What the last completed round changed; None before the first.

        Returns:
            `reason`, `duration_s` and what `curve` says of it; `before`, the `dice` and `hd95_mm` of the
            version it was compared with (`compared_with`) on the same cases, or None; the ids of labels it
            took in that the round before had not (`added`), that are gone (`removed`) or were corrected since
            (`corrected`, None where the record of either version is no longer kept); and `moves`, how the
            scores moved from the version before to this one, a `review_rows.Moves` as a dict, or None.
        """
        done = self._done()
        if not done:
            return None
        last = done[-1]
        previous = done[-2] if len(done) > 1 else None
        now, then = set(last.labeled_ids), set(previous.labeled_ids) if previous else set()
        return {
            **_point(last),
            "reason": last.reason,
            "duration_s": last.duration_s,
            "before": finite((last.metrics or {}).get("published_before")),
            "compared_with": last.compared_with,
            "added": sorted(now - then),
            "removed": sorted(then - now),
            "corrected": self._corrected(last, previous) if previous else [],
            "moves": self._moves(last, done[:-1]),
        }

    def activity(self, days: int) -> dict[str, Any]:
        """Labels per reader and day (UTC), the present day last.

        Returns:
            `days` (ISO dates), `readers`: `reader` (empty: nobody said), `by_day` and `total` since the
            beginning; the most active in these days first.
        """
        today = datetime.now(UTC).date()
        listed = [today - timedelta(days=back) for back in reversed(range(days))]
        since = datetime.combine(listed[0], datetime.min.time(), UTC).timestamp()
        with self._database.read() as session:
            totals = review_rows.submitted_by_reader(session)
            submitted = review_rows.submitted_since(session, since)
        place = {day: index for index, day in enumerate(listed)}
        by_day = {reader: [0] * days for reader in totals}
        for reader, at in submitted:
            # A clock that is ahead, or a label saved since the question: counted today.
            index = place.get(datetime.fromtimestamp(at, UTC).date(), days - 1)
            by_day.setdefault(reader, [0] * days)[index] += 1
        readers: list[dict[str, Any]] = [
            {"reader": reader, "by_day": counts, "total": max(totals.get(reader, 0), sum(counts))}
            for reader, counts in by_day.items()
        ]
        readers.sort(key=lambda row: (-sum(row["by_day"]), -row["total"], row["reader"]))
        return {"days": [day.isoformat() for day in listed], "readers": readers}

    def _done(self) -> list[Round]:
        return [entry for entry in self._rounds.rounds() if entry.status == DONE]

    def _corrected(self, last: Round, previous: Round) -> list[str] | None:
        digests = []
        for version in (last.model_version, previous.model_version):
            kept = {entry["version"] for entry in self._registry.list()}
            if version is None or version not in kept:
                return None
            data = self._registry.record(version).get("data") or []
            digests.append({str(case["id"]): case.get("label_sha256") for case in data})
        now, then = digests
        return sorted(i for i, digest in now.items() if i in then and then[i] != digest)

    def _moves(self, last: Round, before: list[Round]) -> dict[str, Any] | None:
        """Only a published version scores the pool, so only its scores can be compared."""
        older = [entry.model_version for entry in before if entry.promoted and entry.model_version]
        earlier = last.compared_with or (older[-1] if older else None)
        if not last.promoted or earlier is None or last.model_version is None:
            return None
        with self._database.read() as session:
            found = review_rows.moves(session, earlier, last.model_version, MOST_MOVED)
        if found is None:
            return None
        named = {name: [move._asdict() for move in getattr(found, name)] for name in ("fell", "rose")}
        return {**found._asdict(), **named}


def _point(entry: Round) -> dict[str, Any]:
    metrics = entry.metrics or {}
    measured = [found for name in ("student", "teacher") if (found := metrics.get(name)) is not None]
    best: dict[str, Any] = max(measured, key=lambda means: means["dice"], default={})
    return {
        "round": entry.id,
        "model_version": entry.model_version,
        "promoted": entry.promoted,
        "labeled": entry.labeled,
        "finished_at": entry.finished_at,
        "dice": best.get("dice"),
        "hd95_mm": finite(best.get("hd95_mm")),
        "calibration": entry.calibration,
    }
