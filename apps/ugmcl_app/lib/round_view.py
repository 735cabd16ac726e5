"""round_view: what the catalogue says of the rounds, read only."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from .catalogue import jobs, round_rows
from .catalogue.database import Database
from .catalogue.schema import Job
from .round_record import DONE, RUNNING, Round


class QueueState(NamedTuple):
    """What every process sees of the queue.

    Attributes:
        change: Number of the last change; see `jobs.changes`.
        running: The job of the running round.
        waiting: The waiting (or paused) round.
        touches: How often the waiting round was postponed by further labels.
    """

    change: int
    running: Job | None
    waiting: Round | None
    touches: int


class RoundView:
    """The stored rounds. Thread-safe, in several processes too."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def state(self) -> QueueState:
        """The queue as it is now."""
        with self.database.read() as session:
            change = jobs.changes(session, jobs.TRAIN)
            running, waiting = slots(session)
            entry = None if waiting is None else round_of(session, waiting)
            return QueueState(change, running, entry, touches(waiting))

    def change(self) -> int:
        """The number of the last change."""
        with self.database.read() as session:
            return jobs.changes(session, jobs.TRAIN)

    def rounds(self) -> list[Round]:
        """All rounds, oldest first, those that run with their present progress."""
        with self.database.read() as session:
            found = [Round.from_dict(record) for record in round_rows.every(session)]
            progress = {job.request["round"]: job.progress for job in jobs.unfinished(session, jobs.TRAIN)}
        for entry in found:
            show_progress(entry, progress.get(entry.id))
        return found

    def find(self, round_id: str) -> Round | None:
        """One round, with its present progress."""
        with self.database.read() as session:
            record = round_rows.find(session, round_id)
            running = {job.request["round"]: job for job in jobs.unfinished(session, jobs.TRAIN)}
        if record is None:
            return None
        entry = Round.from_dict(record)
        show_progress(entry, running[round_id].progress if round_id in running else None)
        return entry

    def current(self) -> Round | None:
        """The running round, else the waiting one, else None."""
        with self.database.read() as session:
            running, waiting = slots(session)
            job = running or waiting
            entry = None if job is None else round_of(session, job)
            if entry is not None and job is not None:
                show_progress(entry, job.progress)
            return entry

    def lines(self, round_id: str) -> list[str]:
        """The last lines of a running round's progress."""
        with self.database.read() as session:
            for job in jobs.unfinished(session, jobs.TRAIN):
                if job.request["round"] == round_id:
                    return list(job.progress.get("lines", []))
        return []

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, oldest first, as `GET /jobs` shows them."""
        with self.database.read() as session:
            return [shown_job(job) for job in jobs.listed(session)]

    def learned(self) -> dict[str, str]:
        """Image id -> SHA-256 of the labels that the last completed round's worker really read."""
        with self.database.read() as session:
            return learned_labels(session)

    def job_of(self, entry: Round) -> int | None:
        """The id of an unfinished round's job."""
        with self.database.read() as session:
            return next(
                (j.id for j in jobs.unfinished(session, jobs.TRAIN) if j.request["round"] == entry.id), None
            )


def learned_labels(session: Session) -> dict[str, str]:
    """See `RoundView.learned`."""
    last = round_rows.newest(session, DONE)
    return {} if last is None else dict(last.get("read") or {})


def slots(session: Session) -> tuple[Job | None, Job | None]:
    """The job of the running round, and that of the waiting or paused one."""
    unfinished = jobs.unfinished(session, jobs.TRAIN)
    running = next((job for job in unfinished if job.status == RUNNING), None)
    return running, next((job for job in unfinished if job.status != RUNNING), None)


def round_of(session: Session, job: Job) -> Round:
    """The round that a job is."""
    record = round_rows.find(session, job.request["round"])
    assert record is not None
    return Round.from_dict(record)


def touches(job: Job | None) -> int:
    """How often further labels have postponed a waiting round."""
    return 0 if job is None else int(job.request.get("touches", 0))


def show_progress(entry: Round, progress: dict[str, Any] | None) -> None:
    """Let a round tell how far its worker is."""
    if progress:
        entry.progress = {key: progress.get(key) for key in ("step", "steps", "eta_s")}


def shown_job(job: Job) -> dict[str, Any]:
    """A job of any kind as `GET /jobs` shows it."""
    return {
        "id": job.id,
        "kind": job.kind,
        "status": job.status,
        "request": {key: value for key, value in job.request.items() if key not in ("touches", "cases")},
        "progress": {key: value for key, value in job.progress.items() if key != "lines"},
        "reason": job.reason,
        "attempts": job.attempts,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }
