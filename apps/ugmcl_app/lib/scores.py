"""scores: how unsure which model version is of which case, for active learning."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .catalogue import cases
from .catalogue.adoption import retire
from .catalogue.database import upsert
from .catalogue.schema import CaseScore
from .workspace import Workspace, read_json

_BATCH = 500


class Score(NamedTuple):
    """One case's score.

    Attributes:
        id: The image.
        score: In [0, 1]; higher means less sure.
        model_version: The version that gave it.
        scan: The scan's `pool.scan_version` when it was scored; empty in files of an earlier version.
    """

    id: str
    score: float
    model_version: str
    scan: str = ""


class ScoreBoard:
    """The scores of each case by model version, in the catalogue. Thread-safe, in several processes too."""

    def __init__(self, workspace: Workspace) -> None:
        self._database = workspace.database
        self._adopt(workspace)

    def put(self, image_id: str, score: float, model_version: str, scan: str = "") -> None:
        """Keep a case's score; on disk when this returns."""
        self._database.write(lambda s: _enter(s, [Score(image_id, float(score), model_version, scan)]))

    def flush(self) -> None:
        """Nothing is left to write."""

    def get(self, image_id: str) -> Score | None:
        """The latest score of a case, or None."""
        return self.latest([image_id]).get(image_id)

    def best(self, image_ids: Iterable[str], version: str | None = None) -> Score | None:
        """The case that a model is least sure of.

        Args:
            image_ids: The candidates.
            version: Scores of this version are preferred; those of older versions count only if it has none
                yet, which is so for the first seconds after a publication.

        Returns:
            The score of that case, ties broken by id; None if no candidate has a score.
        """
        known = list(self.latest(list(image_ids)).values())
        current = [score for score in known if score.model_version == version]
        return min(current or known, key=lambda score: (-score.score, score.id), default=None)

    def missing(self, scans: Mapping[str, str], version: str) -> list[str]:
        """The cases without a score of this version of the model for this version of their scan.

        Args:
            scans: Image id -> its `pool.scan_version`; decides the order.
            version: The model's version.
        """
        rows = select(CaseScore.case_id, CaseScore.scan).where(CaseScore.model_version == version)
        with self._database.read() as session:
            scored = {str(case_id): str(scan) for case_id, scan in session.execute(rows)}
        return [i for i, scan in scans.items() if i not in scored or scored[i] not in ("", scan)]

    def latest(self, image_ids: list[str]) -> dict[str, Score]:
        """The latest score of each case that has one, by id."""
        found = {}
        with self._database.read() as session:
            for start in range(0, len(image_ids), _BATCH):
                batch = image_ids[start : start + _BATCH]
                rows = (
                    select(CaseScore.case_id, CaseScore.score, CaseScore.model_version, CaseScore.scan)
                    .where(CaseScore.case_id.in_(batch))
                    .order_by(CaseScore.scored_at)
                )
                found.update({row[0]: Score(*row) for row in session.execute(rows)})
        return found

    def _adopt(self, workspace: Workspace) -> None:
        """Take over the file of an earlier version, once."""
        stored = read_json(workspace.scores_file, {}).get("scores", {})
        scores = [
            Score(i, float(entry["score"]), str(entry["model_version"]), str(entry.get("scan", "")))
            for i, entry in stored.items()
        ]
        known = self.latest([score.id for score in scores])
        self._database.write(lambda session: _enter(session, [s for s in scores if s.id not in known]))
        retire(workspace, workspace.scores_file)


def _enter(session: Session, scores: list[Score]) -> None:
    """The newest score is the last entered, whatever the clock says."""
    newest = session.scalar(select(func.max(CaseScore.scored_at))) or 0.0
    now = max(time.time(), newest + 1e-6)
    rows: list[dict[str, Any]] = [
        {
            "case_id": score.id,
            "model_version": score.model_version,
            "score": score.score,
            "scan": score.scan,
            "scored_at": now,
        }
        for score in scores
    ]
    upsert(session, CaseScore, rows, ["case_id", "model_version"])
    cases.rank(session, [(score.id, score.score) for score in scores])
