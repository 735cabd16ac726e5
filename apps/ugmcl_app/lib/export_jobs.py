"""export_jobs: the exports in the queue, and every step of one; at most one runs at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from .catalogue import jobs
from .catalogue.database import Database
from .catalogue.schema import Job
from .export_request import ExportRequest
from .heartbeat import Watch
from .process_identity import this_process

_RUNNING_KEY = "export-running"


class Taken(NamedTuple):
    """An export that this process runs from now on.

    Attributes:
        job_id: Of its job.
        id: Of the export.
        attempt: How often it was taken, this time included.
        request: What it is to hold.
        progress: How far earlier attempts came.
    """

    job_id: int
    id: str
    attempt: int
    request: ExportRequest
    progress: dict[str, Any]


class ExportJobs:
    """Thread-safe, in several processes too.

    Attributes:
        owner: This process, as the owner of the exports it runs.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.owner = this_process()
        self._watch = Watch()

    def request(self, request: ExportRequest) -> Job:
        """A waiting export; the same one for the same request until it starts."""

        def step(session: Session) -> Job:
            jobs.lock(session, jobs.EXPORT)
            for job in jobs.unfinished(session, jobs.EXPORT):
                if job.status == jobs.QUEUED and ExportRequest.of(job.request) == request:
                    return job
            # Told apart from all others for good: a catalogue that is rebuilt counts from 1 again.
            export_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:6]}"
            asked = {"export": export_id, **request.plain()}
            return jobs.add(session, jobs.EXPORT, _waiting_key(export_id), asked)

        return self.database.write(step)

    def take(self) -> Taken | None:
        """Begin the oldest waiting export, or go on with one whose process is dead; None: nothing to do."""
        with self.database.read() as session:
            found = _next(jobs.unfinished(session, jobs.EXPORT))
        if found is None or not self._is_free(found):
            return None

        def step(session: Session) -> Taken | None:
            jobs.lock(session, jobs.EXPORT)
            job = _next(jobs.unfinished(session, jobs.EXPORT))
            seen = (found.id, found.status, found.owner, found.heartbeat_at)
            if job is None or (job.id, job.status, job.owner, job.heartbeat_at) != seen:
                return None
            jobs.start(job, _RUNNING_KEY, self.owner)
            request = ExportRequest.of(job.request)
            return Taken(job.id, job.request["export"], job.attempts, request, dict(job.progress))

        return self.database.write(step)

    def put_back(self, job_id: int) -> None:
        """Let an export of this process wait again: the process stops."""
        self._mine(job_id, lambda job: jobs.wait(job, _waiting_key(job.request["export"])))

    def end(self, job_id: int, status: str, reason: str, progress: dict[str, Any]) -> bool:
        """End an export of this process; False if it is this process's no more."""

        def change(job: Job) -> None:
            job.progress = progress
            jobs.end(job, status, reason)

        return self._mine(job_id, change)

    def cancel(self, export_id: str) -> bool:
        """End an export that runs, waits or is paused; False if it does none of these."""
        reason = "Cancelled; what it had written was removed."
        return self._change(export_id, jobs.UNFINISHED, lambda job: jobs.end(job, jobs.CANCELLED, reason))

    def pause(self, export_id: str) -> bool:
        """Let an export rest, over restarts; False if it neither runs nor waits."""
        return self._change(
            export_id,
            (jobs.QUEUED, jobs.RUNNING),
            lambda job: jobs.wait(job, _waiting_key(export_id), jobs.PAUSED),
        )

    def resume(self, export_id: str) -> bool:
        """Let a paused export go on; False if it is not paused."""
        return self._change(export_id, (jobs.PAUSED,), lambda job: jobs.wait(job, _waiting_key(export_id)))

    def find(self, export_id: str) -> Job | None:
        """The job of an export."""
        return next((job for job in self.every() if job.request["export"] == export_id), None)

    def every(self) -> list[Job]:
        """The jobs of all exports that are still listed, oldest first."""
        with self.database.read() as session:
            return list(session.scalars(select(Job).where(Job.kind == jobs.EXPORT).order_by(Job.id)))

    def _mine(self, job_id: int, change: Any) -> bool:
        def step(session: Session) -> bool:
            jobs.lock(session, jobs.EXPORT)
            job = session.get(Job, job_id)
            mine = job is not None and job.status == jobs.RUNNING and job.owner == self.owner
            if mine:
                change(job)
            return mine

        return self.database.write(step)

    def _change(self, export_id: str, states: tuple[str, ...], change: Any) -> bool:
        def step(session: Session) -> bool:
            jobs.lock(session, jobs.EXPORT)
            for job in jobs.unfinished(session, jobs.EXPORT):
                if job.request["export"] == export_id and job.status in states:
                    change(job)
                    return True
            return False

        return self.database.write(step)

    def _is_free(self, job: Job) -> bool:
        return job.status == jobs.QUEUED or job.owner == self.owner or self._watch.is_abandoned(job)


def _next(unfinished: list[Job]) -> Job | None:
    """The running export, else the one that has waited longest."""
    running = (job for job in unfinished if job.status == jobs.RUNNING)
    waiting = (job for job in unfinished if job.status == jobs.QUEUED)
    return next(running, None) or next(waiting, None)


def _waiting_key(export_id: str) -> str:
    return f"export-{export_id}"
