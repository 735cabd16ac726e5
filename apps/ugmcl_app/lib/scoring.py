"""scoring: keep every unlabeled case scored by the live model, out of the way of training.

One process at a time scores, as a job of the catalogue; the others stand by.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import NamedTuple

from .batches import Batches
from .drafts import DraftStore
from .heartbeat import Heartbeat
from .maps import MapStore
from .pool import scan_version
from .precedence import lock_file
from .registry import ModelRegistry
from .round_job import LabelSource
from .score_jobs import ScoreJobs
from .scores import ScoreBoard
from .settings import AppSettings
from .worker_process import Event, WorkerProcess
from .workspace import Workspace, write_json_atomic

logger = logging.getLogger(__name__)

POLL_S = 5.0  # how soon a new image, or a rollback by another route, is noticed
FIRST_PAUSE_S, LONGEST_PAUSE_S = 600.0, 86400.0
"""Between two attempts at a scan that cannot be scored; doubled each time. Each costs a worker's start."""
NICE = 10  # as training: at 19 the worker, a scheduling group of its own, got 1 % of a busy machine


class _Skipped(NamedTuple):
    """A scan that could not be scored: tried again when it was replaced, or after a while, for it may have
    been the machine's fault.

    Attributes:
        scan: Its `pool.scan_version`.
        until: When it is tried again, of the monotonic clock.
        pause_s: How long that was from the last attempt.
    """

    scan: str
    until: float
    pause_s: float


class PoolScoring:
    """One thread that runs a scoring worker while unlabeled cases lack a score of the live version.

    Whatever stops it, the scores so far are kept, and the next worker gets only the cases still missing.
    """

    def __init__(
        self,
        datastore: LabelSource,
        registry: ModelRegistry,
        workspace: Workspace,
        scores: ScoreBoard,
        settings: AppSettings,
    ) -> None:
        self._datastore, self._registry, self._scores, self._settings = datastore, registry, scores, settings
        self._drafts, self._fresh_drafts = DraftStore(workspace), Path(workspace.training) / "drafts"
        self._maps = MapStore(workspace)
        self._jobs = ScoreJobs(workspace.database)
        size = settings.diverse_batch
        self._batches = Batches(workspace.database, size) if size else None
        self._inference_lock = lock_file(workspace.root)
        self._job_file = Path(workspace.training) / "score.json"
        self._progress = {"scored": 0, "cases": 0}
        self._changed = threading.Condition()
        self._paused = 0
        self._stopping = False
        self._worker: WorkerProcess | None = None
        self._version: str | None = None
        self._skipped: dict[str, _Skipped] = {}  # by case, of the present version
        self._begun: str | None = None  # the case the worker is at
        self._files: dict[str, str] = {}  # of every image, as last looked at
        self._looking_s = 0.0  # how long that took
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Score whenever there is something to score."""
        self._stopping = False
        self._registry.on_published.append(self._published)
        self._thread = threading.Thread(target=self._serve, daemon=True, name="scoring")
        self._thread.start()

    def stop(self) -> None:
        """Stop scoring and end the thread."""
        if self._thread is None:
            return
        self._registry.on_published.remove(self._published)
        with self._changed:
            self._stopping = True
            self._end_worker()
        self._thread.join(timeout=30)
        self._thread = None

    def pause(self) -> None:
        """Leave the processor to a training round, from now until `resume`."""
        with self._changed:
            self._paused += 1
            self._end_worker()

    def resume(self) -> None:
        """Go on scoring where `pause` stopped it."""
        with self._changed:
            self._paused -= 1
            self._changed.notify_all()

    def _published(self, version: str) -> None:
        with self._changed:
            self._end_worker()  # it scores with a version that is no longer live

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                ready = self._paused == 0
            try:
                if ready and self._score_missing():
                    continue
                self._renew_batch(complete=False)
            except Exception:  # e.g. a full disk; scores are a convenience, so say so and try again later
                logger.exception("Scoring the unlabeled cases failed; it is tried again.")
            with self._changed:
                if not self._stopping:
                    # In a very large project looking alone takes long: a twentieth of the time at most.
                    self._changed.wait(max(POLL_S, 20 * self._looking_s))

    def _score_missing(self) -> bool:
        """Run one worker over the missing cases; False when there is nothing to do or it failed."""
        version = self._registry.published()
        if version is None:
            return False
        if version != self._version:
            self._version, self._skipped = version, {}
        labeled = self._datastore.final_labels()
        begun = time.monotonic()
        self._files = self._datastore.image_files()
        scans = {i: scan_version(self._files[i]) for i in sorted(self._files) if i not in labeled}
        pool = {i: scan for i, scan in scans.items() if not self._is_skipped(i, scan)}
        # The stalest first: rounds that follow each other faster than a large pool is scored must not leave
        # its last cases without a score forever.
        missing = self._scores.missing(pool, version)
        if self._batches is not None:
            unseen = self._batches.missing(pool, version).difference(missing)
            missing += sorted(unseen)
        latest = self._scores.latest(missing)
        missing.sort(key=lambda i: latest[i].model_version if i in latest else "")  # versions sort by age
        self._looking_s = time.monotonic() - begun
        if not missing:
            self._jobs.close(version)
            self._renew_batch(complete=True)
            return False
        job_id = self._jobs.take(version)
        if job_id is None:
            return False  # another process scores, or a round runs in one
        worker = self._prepare(version, {image_id: scans[image_id] for image_id in missing})
        self._progress = {"scored": 0, "cases": len(missing)}
        finished = False
        try:
            with self._changed:
                if self._paused or self._stopping or self._registry.published() != version:
                    return False
                self._worker = worker
            with Heartbeat(
                self._jobs.database, job_id, self._jobs.owner, lambda: dict(self._progress), worker.stop,
                lambda: not self._jobs.training() and self._registry.published() == version,
            ):  # fmt: skip
                outcome = worker.run()
            finished = outcome.result is not None
        finally:
            with self._changed:
                self._worker = None
            self._jobs.leave(job_id, self._progress, finished)
        self._scores.flush()
        if finished or worker.stopped:
            return True
        # Not why: the sentence may name a file, and a file may be named after a patient.
        logger.warning("Scoring the unlabeled cases was cut off; it goes on with the next case.")
        if self._begun is not None:
            self._skip(self._begun, scans[self._begun])
        return False

    def _is_skipped(self, image_id: str, scan: str) -> bool:
        known = self._skipped.get(image_id)
        return known is not None and known.scan == scan and time.monotonic() < known.until

    def _skip(self, image_id: str, scan: str) -> None:
        known = self._skipped.get(image_id)
        again = known is not None and known.scan == scan
        pause_s = min(2 * known.pause_s, LONGEST_PAUSE_S) if known and again else FIRST_PAUSE_S
        self._skipped[image_id] = _Skipped(scan, time.monotonic() + pause_s, pause_s)

    def _renew_batch(self, complete: bool) -> None:
        version = self._registry.published()
        if self._batches is not None and version is not None:
            self._batches.renew(version, complete)

    def _prepare(self, version: str, scans: dict[str, str]) -> WorkerProcess:
        cases = [{"id": image_id, "image": self._files[image_id]} for image_id in scans]
        job = {
            "model": str(self._registry.path(version)),
            "version": version,
            "drafts": str(self._fresh_drafts),
            "device": self._settings.device,
            "threads": self._settings.threads,
            "inference_lock": str(self._inference_lock),
            "mc_samples": 8,
            "features": self._batches is not None,
            "seed": 0,  # the same masks for every case, so that the ranking is not the dice's
            "cases": cases,
        }
        shutil.rmtree(self._fresh_drafts, ignore_errors=True)  # of a worker that was ended in the middle
        self._job_file.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(self._job_file, job)

        self._begun = None

        def take(event: Event) -> None:
            self._begun = event["id"] if event["event"] == "begun" else None
            if event["event"] == "score":
                self._scores.put(event["id"], event["score"], version, scans[event["id"]])
                if self._batches is not None and event["features"] is not None:
                    self._batches.put(event["id"], version, scans[event["id"]], event["features"])
                self._progress = {**self._progress, "scored": self._progress["scored"] + 1}
            elif event["event"] == "draft":
                self._take_draft(event, version, scans[event["id"]])
            elif event["event"] == "skipped":
                self._skip(event["id"], scans[event["id"]])

        arguments = ["score", "--job", str(self._job_file)]
        return WorkerProcess(arguments, nice=NICE, threads=self._settings.threads, on_event=take)

    def _take_draft(self, event: Event, version: str, scan: str) -> None:
        """Keep what the worker made of a case: a reader who asks for it need not wait for the model.

        What this model told a reader already stays: another process rounds otherwise, and a viewer would
        show a map that differs from the server's in the sixth digit.
        """
        image, map_file, draft_file = Path(self._files[event["id"]]), Path(event["map"]), Path(event["draft"])
        told = self._drafts.find(event["id"], image), self._maps.find(event["id"], image)
        try:
            if all(kept is not None and kept.model_version == version for kept in told):
                draft_file.unlink(missing_ok=True)
                map_file.unlink(missing_ok=True)
                return
            self._drafts.take(event["id"], draft_file)
            if scan_version(image) == scan:
                self._maps.take(event["id"], image, map_file, version, event["summary"])
            else:  # the scan was replaced meanwhile
                map_file.unlink(missing_ok=True)
        except OSError:  # e.g. a full disk; the model is asked again then, and the score is what is wanted
            logger.warning("What the model said of a case could not be kept.")
