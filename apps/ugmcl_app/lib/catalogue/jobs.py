"""jobs: the one writer of the table `jobs`: work that outlives the server that runs it.

At most one unfinished job has a key, so the database itself sees to it that nothing runs twice. A running job
belongs to one process, which shows by its heartbeat that it is alive; who finds that it is not takes the job
over. Every change but a heartbeat is made under one lock, which counts the changes on the way.
"""

from __future__ import annotations

import time
from typing import Any, cast

from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.orm import Session

from .database import next_number, number
from .schema import Counter, Job

QUEUED, RUNNING, PAUSED = "queued", "running", "paused"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
UNFINISHED = (QUEUED, RUNNING, PAUSED)
TRAIN, SCORE, EXPORT = "train", "score", "export"
PRIORITY = {TRAIN: 10, EXPORT: 5, SCORE: 0}
"""Training goes before scoring; an interactive inference goes before both and is no job. An export
copies files and shares no device with them."""
KEPT_JOBS = 200
"""Ended jobs of a kind that stay listed."""


def lock(session: Session, kind: str) -> int:
    """Be the only one to change jobs of a kind until the transaction ends; returns the change's number."""
    return next_number(session, f"jobs/{kind}")


def hold(session: Session, kind: str) -> None:
    """As `lock`, for a transaction that changes nothing others have to look at again."""
    session.execute(select(Counter.value).where(Counter.name == f"jobs/{kind}").with_for_update())


def changes(session: Session, kind: str) -> int:
    """The number of the last change."""
    return number(session, f"jobs/{kind}")


def add(session: Session, kind: str, key: str, request: dict[str, Any]) -> Job:
    """A new waiting job; no other unfinished one may have its key."""
    _forget_old(session, kind)
    job = Job(
        kind=kind, status=QUEUED, priority=PRIORITY[kind], dedupe_key=key, request=request, progress={},
        reason="", attempts=0, owner=None, heartbeat_at=None, created_at=time.time(), started_at=None,
        finished_at=None,
    )  # fmt: skip
    session.add(job)
    session.flush()
    return job


def unfinished(session: Session, kind: str) -> list[Job]:
    """Waiting, running and paused jobs of a kind, oldest first."""
    rows = select(Job).where(Job.kind == kind, Job.status.in_(UNFINISHED)).order_by(Job.id)
    return list(session.scalars(rows))


def is_running(session: Session, kind: str) -> bool:
    """Whether any process runs a job of this kind."""
    row = select(Job.id).where(Job.kind == kind, Job.status == RUNNING).limit(1)
    return session.scalar(row) is not None


def start(job: Job, key: str, owner: str) -> None:
    """The job now runs in the process `owner`."""
    now = time.time()
    job.status, job.dedupe_key, job.owner, job.heartbeat_at = RUNNING, key, owner, now
    job.started_at = job.started_at or now
    job.attempts += 1


def wait(job: Job, key: str, status: str = QUEUED) -> None:
    """The job waits, or is paused; it belongs to nobody."""
    job.status, job.dedupe_key, job.owner, job.heartbeat_at = status, key, None, None


def end(job: Job, status: str, reason: str) -> None:
    """The job is done, failed or cancelled."""
    job.status, job.reason, job.finished_at, job.dedupe_key = status, reason, time.time(), None
    job.owner = None


def beat(session: Session, job_id: int, owner: str, progress: dict[str, Any] | None) -> bool:
    """Show that the owner is alive and, unless None, how far it is.

    Returns:
        Whether the job still is the owner's; it may have been cancelled, paused or taken over.
    """
    changed: dict[str, Any] = {"heartbeat_at": time.time()}
    if progress is not None:
        changed["progress"] = progress
    mine = (Job.id == job_id, Job.owner == owner, Job.status == RUNNING)
    statement = update(Job).where(*mine).values(changed).execution_options(synchronize_session=False)
    return cast("CursorResult[Any]", session.execute(statement)).rowcount == 1


def listed(session: Session) -> list[Job]:
    """Every kept job, oldest first."""
    return list(session.scalars(select(Job).order_by(Job.id)))


def _forget_old(session: Session, kind: str) -> None:
    ended = (Job.kind == kind, Job.status.not_in(UNFINISHED))
    kept = select(Job.id).where(*ended).order_by(Job.id.desc()).limit(KEPT_JOBS).subquery()
    oldest = select(func.min(kept.c.id)).scalar_subquery()
    session.execute(delete(Job).where(*ended, Job.id < oldest).execution_options(synchronize_session=False))
