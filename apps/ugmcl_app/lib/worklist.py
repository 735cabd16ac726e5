"""worklist: the list of cases that a viewer shows, one page at a time."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from .catalogue import cases
from .catalogue.database import Database
from .catalogue.worklist import Place, page
from .errors import Refusal
from .scores import ScoreBoard

STATUSES: Mapping[str, bool | None] = {"unlabeled": False, "labeled": True, "all": None}
SORTS: Mapping[str, bool] = {"uncertainty": True, "id": False}
MOST = 500
"""Cases on one page."""


class Worklist:
    """Pages of the cases of one project.

    A page costs the same wherever it lies. Cases that come, go or change their score between two pages may be
    missed or shown twice; all others are shown once.

    Args:
        database: The catalogue.
        scores: Whose newest scores are shown.
        uids: StudyInstanceUID and SeriesInstanceUID of cases, by id; of cases from a PACS only.
    """

    def __init__(
        self,
        database: Database,
        scores: ScoreBoard,
        uids: Callable[[list[str]], dict[str, tuple[str, str]]],
    ) -> None:
        self._database, self._scores, self._uids = database, scores, uids

    def page(
        self, status: str = "all", sort: str = "uncertainty", limit: int = 50, after: str | None = None
    ) -> dict[str, Any]:
        """One page.

        Args:
            status: One of `STATUSES`.
            sort: One of `SORTS`: as the cases are offered (priority, then the newest score, the unscored
                last), or by id.
            limit: Cases on a page, 1 to `MOST`.
            after: `next` of the page before.

        Returns:
            `cases`, `next` (None on the last page) and `total`, the number of cases on all pages.

        Raises:
            Refusal: 422 for a value that is not allowed.
        """
        labeled, ranked = _allowed("status", status, STATUSES), bool(_allowed("sort", sort, SORTS))
        if not 1 <= limit <= MOST:
            raise Refusal(422, f"The limit is {limit}; allowed is 1 to {MOST}.")
        place = _opened(after, status, sort) if after else None
        with self._database.read() as session:
            total = cases.count(session, labeled)
            rows = page(session, labeled, ranked, limit + 1, place)
        shown = rows[:limit]
        ids = [row.id for row in shown]
        scores, uids = self._scores.latest(ids), self._uids(ids)
        listed = []
        for row in shown:
            score, (study, series) = scores.get(row.id), uids.get(row.id, (None, None))
            listed.append(
                {
                    "id": row.id,
                    "status": "labeled" if row.labeled else "unlabeled",
                    "score": score.score if score else None,
                    "model_version": score.model_version if score else None,
                    "priority": row.priority,
                    "study_instance_uid": study,
                    "series_instance_uid": series,
                }
            )
        more = len(rows) > limit
        return {
            "cases": listed,
            "next": _sealed(shown[-1].place(ranked), status, sort) if more else None,
            "total": total,
        }


def _allowed(name: str, value: str, allowed: Mapping[str, bool | None]) -> bool | None:
    if value not in allowed:
        raise Refusal(422, f"The {name} is {str(value)[:40]!r}; allowed are {', '.join(allowed)}.")
    return allowed[value]


def _sealed(place: Place, status: str, sort: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([status, sort, *place]).encode()).decode().rstrip("=")


def _require_storable(place: Place) -> None:
    """Anybody can make a token: ValueError for a place that no database could be asked for."""
    place.id.encode()  # no half of a surrogate pair
    if "\0" in place.id or not math.isfinite(place.rank_score) or abs(place.priority) > 2**31 - 1:
        raise ValueError("no case stands there")


def _opened(token: str, status: str, sort: str) -> Place:
    try:
        padded = token + "=" * (-len(token) % 4)
        its_status, its_sort, priority, rank, case_id = json.loads(base64.urlsafe_b64decode(padded))
        place = Place(int(priority), float(rank), str(case_id))
        _require_storable(place)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Refusal(
            422, "The value of after is not the `next` of a page; leave it out to begin."
        ) from error
    if (its_status, its_sort) != (status, sort):
        raise Refusal(
            422,
            f"The value of after belongs to a list with status={str(its_status)[:40]} and "
            f"sort={str(its_sort)[:40]}; ask on with these, or leave it out to begin anew.",
        )
    return place
