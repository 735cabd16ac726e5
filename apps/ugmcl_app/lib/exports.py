"""exports: data sets made of the project's labels, as jobs of the queue: asked for, followed, removed."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from .catalogue import cases, export_rows, jobs
from .catalogue.schema import Job
from .checks import safe_id
from .datastore import FolderDatastore
from .errors import Refusal
from .export_folders import ExportFolders
from .export_jobs import ExportJobs, Taken
from .export_request import ExportRequest
from .export_writer import CannotExport, ExportWriter, Interrupted
from .heartbeat import Heartbeat
from .maps import MapStore
from .scores import ScoreBoard
from .workspace import Workspace

logger = logging.getLogger(__name__)

POLL_S = 1.0
JOIN_S = 30.0


class Exports:
    """The exports of one project. Thread-safe, in several processes too."""

    def __init__(
        self, datastore: FolderDatastore, workspace: Workspace, maps: MapStore, scores: ScoreBoard
    ) -> None:
        self._datastore, self._database = datastore, workspace.database
        self._folders = ExportFolders(workspace.exports)
        self._writer = ExportWriter(datastore, workspace, maps, scores)
        self._jobs = ExportJobs(workspace.database)
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # -- life

    def start(self) -> None:
        """Serve the exports in a thread until `stop`."""
        self._stopping.clear()
        self._woken.set()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="exports")
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a running export waits for going on, here or elsewhere."""
        if self._thread is None:
            return
        self._stopping.set()
        self._woken.set()
        self._thread.join(timeout=JOIN_S)
        self._thread = None

    # -- what people do

    def request(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask for an export; the same one for the same request until it starts.

        Args:
            asked: As the attributes of `ExportRequest`; what is left out is as by default.

        Raises:
            Refusal: 400 for an unsafe id, 404 for an unknown case, 409 if there is nothing to export, 422 for
                values that are not allowed.
        """
        request = ExportRequest.of(asked)
        for case_id in request.cases or ():
            safe_id(case_id)  # what no id can be, no database need be asked about
        with self._database.read() as session:
            if request.cases is None:
                found = cases.count(session, labeled=None if request.unlabeled else True)
            else:
                chosen = export_rows.planned(session, request.cases, request.unlabeled, originals=False)
                found = len(chosen)
        if request.cases is not None:
            missing = set(request.cases) - {case.id for case in chosen}
            for case_id in sorted(missing)[:1]:
                self._datastore.get_image_info(case_id)  # says 404, and why
                raise Refusal(
                    409,
                    f"Without a final label: {len(missing)} of the chosen cases, such as {case_id[:200]!r}; "
                    "leave them out, or send `unlabeled` to have their images.",
                )
        if not found:
            raise Refusal(409, "There is nothing to export yet: no image has a final label.")
        job = self._jobs.request(request)
        self._woken.set()
        return self._shown(job)

    def cancel(self, export_id: str) -> dict[str, Any]:
        """End an export and remove what it has written; Refusal 404 or 409."""
        return self._step(export_id, self._jobs.cancel, "cancelled", "running, waiting or paused")

    def pause(self, export_id: str) -> dict[str, Any]:
        """Let an export rest until `resume`; Refusal 404 or 409."""
        return self._step(export_id, self._jobs.pause, "paused", "running or waiting")

    def resume(self, export_id: str) -> dict[str, Any]:
        """Let a paused export go on; Refusal 404 or 409."""
        return self._step(export_id, self._jobs.resume, "resumed", "paused")

    def remove(self, export_id: str) -> None:
        """Remove the files of an export that has ended; Refusal 404 if it is unknown, 409 if it has not."""
        job = self._require(export_id)
        if job.status in jobs.UNFINISHED:
            self._refuse_state(job, "removed", "ended; cancel it first")
        self._folders.drop(export_id)

    def run_now(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask for an export and wait for its end; in a process that does not serve."""
        export_id = self.request(asked)["id"]
        while (found := self.find(export_id))["status"] in (jobs.QUEUED, jobs.RUNNING):
            if not self._work():
                time.sleep(POLL_S)
        return found

    # -- what it shows

    def every(self) -> list[dict[str, Any]]:
        """Every export that is still listed, oldest first."""
        return [self._shown(job) for job in self._jobs.every()]

    def find(self, export_id: str) -> dict[str, Any]:
        """One export; Refusal 404 if it is unknown."""
        return self._shown(self._require(export_id))

    def follow(self, export_id: str) -> dict[str, Any]:
        """What changes of an export while it waits and runs, and whether it has `ended`; Refusal 404."""
        shown = self.find(export_id)
        kept = {key: shown[key] for key in ("id", "status", "progress", "reason", "folder")}
        return {**kept, "ended": shown["status"] not in jobs.UNFINISHED}

    def folder_of(self, export_id: str) -> Path:
        """The folder of a complete export; Refusal 404 if it is unknown or was removed, 409 if it is not
        complete."""
        job = self._require(export_id)
        if job.status != jobs.DONE:
            self._refuse_state(job, "downloaded", "done")
        folder = self._folders.of(export_id)
        if not folder.is_dir():
            raise Refusal(404, f"The files of the export {export_id} were removed; ask for another one.")
        return folder

    def _require(self, export_id: str) -> Job:
        job = self._jobs.find(export_id)
        if job is None:
            raise Refusal(404, f"There is no export {export_id[:80]!r} here; GET /exports lists them.")
        return job

    def _shown(self, job: Job) -> dict[str, Any]:
        folder = self._folders.of(job.request["export"])
        request = ExportRequest.of(job.request).plain()
        return {
            "id": job.request["export"],
            "job": job.id,
            "status": job.status,
            "request": request,
            "progress": job.progress,
            "reason": job.reason,
            "folder": str(folder) if job.status == jobs.DONE and folder.is_dir() else None,
            "created_at": job.created_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
        }

    def _step(self, export_id: str, step: Any, what: str, allowed: str) -> dict[str, Any]:
        job = self._require(export_id)
        if not step(export_id):
            self._refuse_state(job, what, allowed)
        self._woken.set()
        return self.find(export_id)

    @staticmethod
    def _refuse_state(job: Job, what: str, allowed: str) -> NoReturn:
        raise Refusal(
            409,
            f"The export {job.request['export']} is {job.status} and cannot be {what}; that needs one that "
            f"is {allowed}.",
        )

    # -- the thread

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._work():
                    continue
                if self._woken.is_set():
                    self._woken.clear()
                    self._sweep()
            except Exception:  # the queue must outlive anything, or exports would wait forever
                logger.exception("An export could not be begun; the queue goes on.")
                time.sleep(POLL_S)
            self._woken.wait(POLL_S)

    def _work(self) -> bool:
        """Bring one export to its end; False if none is to be done here now."""
        taken = self._jobs.take()
        if taken is None:
            return False
        lost = threading.Event()
        progress = taken.progress
        try:
            with Heartbeat(self._database, taken.job_id, self._jobs.owner, lambda: dict(progress), lost.set):
                reason = self._write(taken, progress, lost)
            ended = self._jobs.end(taken.job_id, jobs.DONE, reason, progress)
            if not ended and self._require(taken.id).status == jobs.CANCELLED:
                self._folders.drop(taken.id)
        except Interrupted:
            if not lost.is_set():
                self._jobs.put_back(taken.job_id)
        except CannotExport as error:
            self._fail(taken, str(error), progress)
        except OSError as error:
            self._fail(taken, f"Writing the export failed: {error.strerror or error}.", progress)
        except Exception as error:
            logger.exception("Export %s failed.", taken.id)
            self._fail(taken, f"The export failed: {type(error).__name__}.", progress)
        self._sweep()
        return True

    def _fail(self, taken: Taken, reason: str, progress: dict[str, Any]) -> None:
        if self._jobs.end(taken.job_id, jobs.FAILED, reason, progress):
            # Not why: the sentence may name a file, and a file may be named after a patient.
            logger.warning("Export %s failed; GET /exports says why.", taken.id)

    def _write(self, taken: Taken, progress: dict[str, Any], lost: threading.Event) -> str:
        """Write what is missing and give the folder its name; returns what is to be said of it."""
        if self._folders.of(taken.id).is_dir():  # it was cut off between this and the end of its job
            return ""
        growing = self._folders.claim(taken.id, taken.attempt)

        def tell(written: int, cases: int) -> None:
            progress.update(written=written, cases=cases)

        left_out = self._writer.write(
            growing, taken.request, tell, lambda: lost.is_set() or self._stopping.is_set()
        )
        if lost.is_set():
            raise Interrupted
        self._folders.complete(growing, taken.id)
        progress["left_out"] = len(left_out)
        if not left_out:
            return ""
        return f"Left out: {len(left_out)}, such as {min(left_out)!r}. {left_out[min(left_out)]}"

    def _sweep(self) -> None:
        def going_on() -> set[str]:
            return {job.request["export"] for job in self._jobs.every() if job.status in jobs.UNFINISHED}

        self._folders.sweep(going_on)
