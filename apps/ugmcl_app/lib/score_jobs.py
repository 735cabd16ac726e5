"""score_jobs: the one job of scoring the pool: which process does it, and for which version of the model."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from .catalogue import jobs
from .catalogue.database import Database
from .heartbeat import Watch
from .process_identity import this_process

_KEY = "score"
_OUTDATED = "Another model version went live."


class ScoreJobs:
    """Thread-safe, in several processes too.

    Attributes:
        owner: This process, as the owner of the job.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.owner = this_process()
        self._watch = Watch()

    def take(self, version: str) -> int | None:
        """Begin or go on with the job of a version; None while another process is at it, or a round runs.

        A job of a version that is not live any more ends; one whose process is dead is taken over. One
        that is paused stays so, and so does the one of the next version.
        """

        def step(session: Session) -> int | None:
            jobs.lock(session, jobs.SCORE)
            if jobs.is_running(session, jobs.TRAIN):
                return None
            job = next(iter(jobs.unfinished(session, jobs.SCORE)), None)
            if job is not None and job.status == jobs.RUNNING and not self._is_free(job):
                return None
            paused = job is not None and job.status == jobs.PAUSED
            if job is not None and job.request.get("model_version") != version:
                jobs.end(job, jobs.CANCELLED, _OUTDATED)
                session.flush()
                job = None
            job = job or jobs.add(session, jobs.SCORE, _KEY, {"model_version": version})
            if paused:  # by a person, who has not resumed it
                jobs.wait(job, _KEY, jobs.PAUSED)
                return None
            jobs.start(job, _KEY, self.owner)
            return job.id

        return self.database.write(step)

    def close(self, version: str) -> None:
        """Every case has its score of the live version: end a job, unless it is worked at or paused."""

        def step(session: Session) -> None:
            jobs.lock(session, jobs.SCORE)
            for job in jobs.unfinished(session, jobs.SCORE):
                if job.status == jobs.PAUSED or (job.status == jobs.RUNNING and not self._is_free(job)):
                    continue
                if job.request.get("model_version") == version:
                    jobs.end(job, jobs.DONE, "")
                else:
                    jobs.end(job, jobs.CANCELLED, _OUTDATED)

        with self.database.read() as session:  # mostly there is none
            if not jobs.unfinished(session, jobs.SCORE):
                return
        self.database.write(step)

    def leave(self, job_id: int, progress: dict[str, Any], finished: bool) -> None:
        """The worker has ended: the job is done, or waits for going on, here or elsewhere."""

        def step(session: Session) -> None:
            jobs.lock(session, jobs.SCORE)
            for job in jobs.unfinished(session, jobs.SCORE):
                if job.id != job_id or job.owner != self.owner:
                    continue
                job.progress = dict(progress)
                if finished:
                    jobs.end(job, jobs.DONE, "")
                else:
                    jobs.wait(job, _KEY)

        self.database.write(step)

    def pause(self, job_id: int) -> bool:
        """Let scoring rest until it is resumed, over restarts; False if the job neither runs nor waits."""
        return self._change(job_id, (jobs.RUNNING, jobs.QUEUED), jobs.PAUSED)

    def resume(self, job_id: int) -> bool:
        """Let scoring go on; False if the job is not paused."""
        return self._change(job_id, (jobs.PAUSED,), jobs.QUEUED)

    def training(self) -> bool:
        """Whether any process runs a round."""
        with self.database.read() as session:
            return jobs.is_running(session, jobs.TRAIN)

    def _change(self, job_id: int, states: tuple[str, ...], status: str) -> bool:
        def step(session: Session) -> bool:
            jobs.lock(session, jobs.SCORE)
            for job in jobs.unfinished(session, jobs.SCORE):
                if job.id == job_id and job.status in states:
                    jobs.wait(job, _KEY, status)
                    return True
            return False

        return self.database.write(step)

    def _is_free(self, job: Any) -> bool:
        return job.owner == self.owner or self._watch.is_abandoned(job)
