"""heartbeat: how a process shows that it still runs a job, and how the others see that it does not.

Nobody compares clocks, which differ between machines and can be set: the owner changes its mark every second,
and whoever sees the mark unchanged for long by its own monotonic clock takes the owner for dead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from .catalogue import jobs
from .catalogue.database import Database
from .catalogue.schema import Job
from .process_identity import has_ended

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
STALE_S = 30.0
"""An owner that is only slow, on a full disk or a busy database, must not be taken for dead."""


class Heartbeat:
    """A thread that beats for one running job until `stop`.

    Args:
        database: The catalogue.
        job_id: The job.
        owner: Whose it is.
        progress: Its present progress, plain data.
        on_lost: Called once when the job is this owner's no more.
        may_go_on: Asked with each beat; False counts as lost.
    """

    def __init__(
        self,
        database: Database,
        job_id: int,
        owner: str,
        progress: Callable[[], dict[str, Any]],
        on_lost: Callable[[], None],
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database, self._job_id, self._owner = database, job_id, owner
        self._progress, self._on_lost, self._may_go_on = progress, on_lost, may_go_on
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"heartbeat-{job_id}")

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        told: dict[str, Any] | None = None
        while not self._ended.wait(PERIOD_S):
            progress = self._progress()
            news = None if progress == told else progress
            try:
                beat = partial(jobs.beat, job_id=self._job_id, owner=self._owner, progress=news)
                mine = self._database.write(beat)
                going_on = mine and self._may_go_on()
            except Exception:
                # The database is away: the work goes on, and its end finds out whether it still is ours.
                logger.exception("The heartbeat of job %d failed; trying again.", self._job_id)
                continue
            told = progress
            if not going_on:
                self._on_lost()
                return


class Watch:
    """What one process has seen of the heartbeats of others."""

    def __init__(self, stale_s: float = STALE_S) -> None:
        self._stale_s = stale_s
        self._seen: dict[int, tuple[str | None, float | None, float]] = {}

    def is_abandoned(self, job: Job) -> bool:
        """Whether a running job's owner is dead, or has shown no sign of life for `stale_s` seconds."""
        if job.owner is None or has_ended(job.owner):
            return True
        now = time.monotonic()
        owner, beat, since = self._seen.get(job.id, (None, None, now))
        if (owner, beat) != (job.owner, job.heartbeat_at):
            since = now
        self._seen = {job.id: (job.owner, job.heartbeat_at, since)}
        return now - since > self._stale_s
