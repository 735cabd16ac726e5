"""job_queue: all jobs of the project, seen, followed, paused, resumed and cancelled alike, by number."""

from __future__ import annotations

from typing import Any, NoReturn

from .catalogue import jobs
from .catalogue.database import Database
from .catalogue.schema import Job
from .errors import Refusal
from .exports import Exports
from .round_view import shown_job
from .rounds import RoundQueue
from .score_jobs import ScoreJobs

FOLLOWED_KEYS = ("id", "kind", "status", "progress", "reason", "attempts")


class JobQueue:
    """Thread-safe, in several processes too. What is done to a job is done by who owns its kind."""

    def __init__(self, database: Database, rounds: RoundQueue, exports: Exports) -> None:
        self._database, self._rounds, self._exports = database, rounds, exports
        self._scoring = ScoreJobs(database)

    def every(self) -> list[dict[str, Any]]:
        """The jobs that are kept, oldest first."""
        return self._rounds.jobs()

    def show(self, job_id: int) -> dict[str, Any]:
        """One job; Refusal 404 if it is unknown."""
        return shown_job(self._require(job_id))

    def follow(self, job_id: int) -> dict[str, Any]:
        """What changes of a job while it waits and runs, and whether it has `ended`; Refusal 404."""
        shown = self.show(job_id)
        return {key: shown[key] for key in FOLLOWED_KEYS} | {"ended": shown["status"] not in jobs.UNFINISHED}

    def pause(self, job_id: int) -> dict[str, Any]:
        """Let a job rest, over restarts; Refusal 404 if it is unknown, 409 if it neither runs nor waits."""
        job = self._require(job_id)
        if job.kind == jobs.TRAIN:
            self._rounds.pause(job.request["round"])
        elif job.kind == jobs.EXPORT:
            self._exports.pause(job.request["export"])
        elif not self._scoring.pause(job_id):
            self._refuse_state(job, "paused", "running or waiting")
        return self.show(job_id)

    def resume(self, job_id: int) -> dict[str, Any]:
        """Let a paused job go on; Refusal 404 if it is unknown, 409 if it is not paused."""
        job = self._require(job_id)
        if job.kind == jobs.TRAIN:
            self._rounds.resume(job.request["round"])
        elif job.kind == jobs.EXPORT:
            self._exports.resume(job.request["export"])
        elif not self._scoring.resume(job_id):
            self._refuse_state(job, "resumed", "paused")
        return self.show(job_id)

    def cancel(self, job_id: int) -> dict[str, Any]:
        """End a round or an export; Refusal 404 if it is unknown, 409 if it has ended, or scores."""
        job = self._require(job_id)
        if job.kind == jobs.TRAIN:
            self._rounds.cancel_round(job.request["round"])
        elif job.kind == jobs.EXPORT:
            self._exports.cancel(job.request["export"])
        else:
            raise Refusal(
                409,
                f"Job {job_id} scores the unlabeled cases, which begins again by itself as long as one has "
                "no score; pause it instead.",
            )
        return self.show(job_id)

    def _require(self, job_id: int) -> Job:
        with self._database.read() as session:
            job = session.get(Job, job_id)
        if job is None:
            raise Refusal(404, f"There is no job {job_id} here; GET /jobs lists them.")
        return job

    @staticmethod
    def _refuse_state(job: Job, what: str, allowed: str) -> NoReturn:
        raise Refusal(
            409, f"Job {job.id} is {job.status} and cannot be {what}; that needs one that is {allowed}."
        )
