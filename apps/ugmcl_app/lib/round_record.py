"""round_record: what is known of one training round, as stored and as shown by `GET /rounds`."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger(__name__)

QUEUED, RUNNING, PAUSED = "queued", "running", "paused"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)
TRAIN, VALIDATE = "train", "validate"
"""What a labeled case is for."""

PUBLIC_KEYS = (
    "id",
    "status",
    "labeled",
    "labeled_ids",
    "unlabeled",
    "model_version",
    "promoted",
    "reason",
    "metrics",
    "progress",
    "started_at",
    "finished_at",
    "duration_s",
)


def now_iso() -> str:
    """The present moment in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def finite(value: Any) -> Any:
    """The same nested data with every NaN or infinite number replaced by None, which JSON can carry."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@dataclass
class Round:
    """One train-validate-publish round.

    Attributes:
        id: Unique in the project.
        status: "queued", "running", "paused", "done", "failed" or "cancelled".
        labeled_ids: Distinct final labels taken in, training and validation, sorted.
        unlabeled: Images of the pool without a final label, as used by the round.
        model_version: The registry's version of the candidate, or None.
        promoted: Whether that version was published.
        reason: A sentence on what came out, with its numbers.
        metrics: `student`, `teacher`, `published_before`, each `{"dice", "hd95_mm"}` or None; None altogether
            before the first validation case.
        compared_with: The version that `published_before` was measured of, live when the round ended; None
            without validation or without a live version.
        calibration: How reliable the candidate's probabilities are on the validation cases, as of
            `ugmcl.reliability.Reliability.to_dict`; None without validation cases.
        progress: `step`, `steps`, `eta_s` in seconds (None while unknown).
        requested: Whether someone asked for it; such a round runs even with nothing new to learn from.
        claimed: Image id -> SHA-256 of its final label when the round started.
        read: Image id -> SHA-256 of the label file that the worker really read.
        set_aside: Image id -> why the round went on without it.
        cut_off: How many rounds in a row just before it, with the same labels, ended as their worker died.
    """

    id: str
    status: str = QUEUED
    labeled_ids: list[str] = field(default_factory=list)
    unlabeled: int = 0
    model_version: str | None = None
    promoted: bool = False
    reason: str = ""
    metrics: dict[str, Any] | None = None
    compared_with: str | None = None
    calibration: dict[str, Any] | None = None
    progress: dict[str, Any] = field(default_factory=lambda: {"step": 0, "steps": 0, "eta_s": None})
    created_at: str = field(default_factory=now_iso)
    started_at: str | None = None
    finished_at: str | None = None
    duration_s: float | None = None
    requested: bool = False
    claimed: dict[str, str] = field(default_factory=dict)
    read: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    cut_off: int = 0

    @property
    def number(self) -> int | None:
        """The number that the id counts up; None for an id of another form."""
        digits = self.id[1:]
        return int(digits) if self.id.startswith("r") and digits.isdigit() else None

    @property
    def labeled(self) -> int:
        """Number of distinct final labels taken in."""
        return len(self.labeled_ids)

    def begin(self) -> None:
        """Mark the round as running from now."""
        self.status, self.started_at, self.reason = RUNNING, now_iso(), ""
        logger.info("Round %s runs, on %d label(s).", self.id, self.labeled)

    def end(self, status: str, reason: str) -> None:
        """Mark the round as ended now, unless it has ended already (a cancelled round stays cancelled)."""
        if self.status in ENDED:
            return
        self.status, self.reason, self.finished_at = status, reason, now_iso()
        if self.started_at is not None:
            begun = datetime.fromisoformat(self.started_at)
            self.duration_s = round((datetime.fromisoformat(self.finished_at) - begun).total_seconds(), 3)
        # Not the reason: it may name cases, and a case may be named after a patient.
        logger.info("Round %s is %s%s; GET /rounds says more.", self.id, status, self._outcome())

    def _outcome(self) -> str:
        if self.model_version is None:
            return ""
        return f": model {self.model_version} {'is live' if self.promoted else 'is kept, not published'}"

    def public(self) -> dict[str, Any]:
        """The round as `GET /rounds` shows it."""
        return {key: finite(getattr(self, key)) for key in PUBLIC_KEYS}

    def to_dict(self) -> dict[str, Any]:
        """Everything, as stored."""
        stored: dict[str, Any] = finite(dataclasses.asdict(self))
        return stored

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Round:
        """The inverse of `to_dict`; keys of another version of this program are left out."""
        known = {entry.name for entry in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in stored.items() if key in known})

    @classmethod
    def of_model(cls, record: dict[str, Any]) -> Round:
        """The completed round behind a model version, as far as the version's own record tells."""
        data = [case for case in record.get("data", []) if "label_sha256" in case]
        step = int(record.get("steps") or 0)
        return cls(
            id=str(record.get("round", "")), status=DONE, labeled_ids=sorted(case["id"] for case in data),
            unlabeled=int(record.get("unlabeled") or 0), model_version=record.get("version"),
            reason=str(record.get("reason") or ""), metrics=record.get("metrics"),
            compared_with=record.get("compared_with"), calibration=record.get("calibration"),
            progress={"step": step, "steps": step, "eta_s": 0.0},
            finished_at=record.get("created_at"), duration_s=record.get("seconds"),
            read={case["id"]: case["label_sha256"] for case in data},
        )  # fmt: skip
