"""scores: how unsure which model version is of which case, for active learning."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .workspace import Workspace, read_json, write_json_atomic

WRITE_PERIOD_S = (
    2.0  # with thousands of cases, rewriting the file at every score would cost more than scoring
)


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
    """The latest score of each case, kept in `scores.json`. Thread-safe; one process writes."""

    def __init__(self, workspace: Workspace) -> None:
        self._file = workspace.scores_file
        self._lock = threading.Lock()
        self._written = 0.0
        self._dirty = False
        stored: dict[str, Any] = read_json(self._file, {}).get("scores", {})
        self._scores = {
            image_id: Score(
                image_id, float(entry["score"]), str(entry["model_version"]), str(entry.get("scan", ""))
            )
            for image_id, entry in stored.items()
        }

    def put(self, image_id: str, score: float, model_version: str, scan: str = "") -> None:
        """Keep a case's score; on disk within 2 s of further scores, or with `flush`."""
        with self._lock:
            self._scores[image_id] = Score(image_id, float(score), model_version, scan)
            self._dirty = True
            if time.monotonic() - self._written >= WRITE_PERIOD_S:
                self._write()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        with self._lock:
            if self._dirty:
                self._write()

    def get(self, image_id: str) -> Score | None:
        """The latest score of a case, or None."""
        with self._lock:
            return self._scores.get(image_id)

    def best(self, image_ids: Iterable[str], version: str | None = None) -> Score | None:
        """The case that a model is least sure of.

        Args:
            image_ids: The candidates.
            version: Scores of this version are preferred; those of older versions count only if it has none
                yet, which is so for the first seconds after a publication.

        Returns:
            The score of that case, ties broken by id; None if no candidate has a score.
        """
        with self._lock:
            known = [self._scores[image_id] for image_id in image_ids if image_id in self._scores]
        current = [score for score in known if score.model_version == version]
        return min(current or known, key=lambda score: (-score.score, score.id), default=None)

    def missing(self, scans: Mapping[str, str], version: str) -> list[str]:
        """The cases without a score of this version of the model for this version of their scan.

        Args:
            scans: Image id -> its `pool.scan_version`; decides the order.
            version: The model's version.
        """
        with self._lock:
            known = {image_id: self._scores.get(image_id) for image_id in scans}
        return [
            image_id
            for image_id, score in known.items()
            if score is None or score.model_version != version or score.scan not in ("", scans[image_id])
        ]

    def _write(self) -> None:
        entries = {
            s.id: {"score": s.score, "model_version": s.model_version, "scan": s.scan}
            for s in self._scores.values()
        }
        write_json_atomic(self._file, {"scores": entries})
        self._written, self._dirty = time.monotonic(), False
