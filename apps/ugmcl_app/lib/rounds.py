"""rounds: the queue of training rounds; every label leads to a round, one at a time, and none is ever lost.

How no label gets lost: a label is *pending* as long as the final labels differ from those that the last
completed round's worker read. A change of labels makes a waiting round unless the running one has claimed
exactly the present labels; a waiting round claims its labels only if none changed between looking and
starting (`_generation`).
"""

from __future__ import annotations

import atexit
import builtins
import logging
import threading
import time
from collections import deque
from typing import Any

from .errors import Refusal
from .pending_labels import PendingLabels
from .registry import ModelRegistry
from .roles import RoleSplit
from .round_job import LabelSource
from .round_record import CANCELLED, DONE, ENDED, FAILED, QUEUED, RUNNING, Round
from .round_runner import RoundRunner, Worker, WorkerFactory, read_progress
from .round_store import INTERRUPTED, RoundStore
from .scores import ScoreBoard
from .scoring import PoolScoring
from .settings import AppSettings
from .worker_process import Event, WorkerOutcome
from .workspace import Workspace

logger = logging.getLogger(__name__)

MAX_DEBOUNCES = 12  # a steady stream of labels delays a round by at most this many debounce periods


class RoundQueue:
    """At most one running and one waiting round, fed by saved labels and by requests. Thread-safe.

    No method calls the datastore while it holds the queue's lock, because the datastore calls `notice_labels`
    while it holds its own.

    Args:
        datastore: Source of images and final labels; tells of changes through `on_labels_changed`.
        registry: Where candidates go.
        workspace: Where state is kept.
        scores: Filled in the background after each publication.
        settings: `min_labels`, `debounce_s`, `publish_margin` and what the worker needs.
        make_worker: Builds the worker of a job; the real process by default.
        score_pool: False leaves background scoring out.
    """

    def __init__(
        self,
        datastore: LabelSource,
        registry: ModelRegistry,
        workspace: Workspace,
        scores: ScoreBoard,
        settings: AppSettings,
        *,
        make_worker: WorkerFactory | None = None,
        score_pool: bool = True,
    ) -> None:
        self._datastore = datastore
        self._settings = settings
        self._scoring = PoolScoring(datastore, registry, workspace, scores, settings) if score_pool else None
        self.roles = RoleSplit(workspace)
        self._runner = RoundRunner(datastore, registry, self.roles, workspace, settings, make_worker)
        self._store = RoundStore(workspace)
        self._store.load()
        self._changed = threading.Condition(threading.RLock())
        self._waiting: Round | None = None
        self._due = 0.0  # monotonic time at which the waiting round starts
        self._latest = 0.0  # ... and to which further labels can postpone it at most
        self._running: Round | None = None
        self._worker: Worker | None = None
        self._publishing = False
        self._pending = PendingLabels(datastore, settings.min_labels, self._store.learned())
        self._generation = 0  # counts everything that can change what the next round takes in
        self._details: dict[str, deque[str]] = {}
        self._stopping = False
        self._thread: threading.Thread | None = None

    # -- life of the queue
    # ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up the stored rounds and serve; labels newer than the last completed round start one."""
        self._store.own()
        with self._changed:
            self._stopping = False
            self._pending.learned = self._store.learned()
            self._waiting = self._store.waiting()
            if self._waiting is not None:
                self._postpone(first=True)
            self._store.save()
        self._datastore.on_labels_changed.append(self.notice_labels)
        self._thread = threading.Thread(target=self._serve, daemon=True, name="training-rounds")
        self._thread.start()
        if self._scoring is not None:
            self._scoring.start()
        atexit.register(self.stop)
        self.notice_labels()

    def stop(self) -> None:
        """End the running round, keeping its state for the next start, and stop; labels stay pending."""
        if self._thread is None:
            return
        atexit.unregister(self.stop)
        if self.notice_labels in self._datastore.on_labels_changed:
            self._datastore.on_labels_changed.remove(self.notice_labels)
        if self._scoring is not None:
            self._scoring.stop()
        with self._changed:
            self._stopping = True
            if self._running is not None and not self._publishing:
                self._running.end(FAILED, INTERRUPTED)
                if self._worker is not None:
                    self._worker.stop()
            self._store.save()
            self._changed.notify_all()
        self._thread.join(timeout=30)
        self._thread = None
        self._store.release()

    @property
    def serving(self) -> bool:
        """Whether this process serves the queue."""
        return self._thread is not None

    # -- what feeds it
    # ----------------------------------------------------------------------------------------

    def notice_labels(self) -> None:
        """The final labels may have changed: give new cases their role and see to it that a round follows."""
        labels = self._datastore.final_labels()
        self.roles.assign_all(labels)
        unreadable = self._pending.unreadable(labels)
        with self._changed:
            self._generation += 1
            if self._is_claimed(labels) or not self._pending.deserve_round(labels, unreadable):
                return
            first = self._waiting is None
            if first:
                self._waiting = self._store.new()
                self._store.save()
            self._postpone(first)

    def request(self, reason: str = "requested") -> Round:
        """Ask for a round now, even with nothing new to learn from.

        Returns:
            The waiting round; the same one for every request until it starts.

        Raises:
            Refusal: 409 with `labeled` and `labels_needed`, if there is no final label at all.
        """
        labels = self._datastore.final_labels()
        self._refuse_without(labels)
        self.roles.assign_all(labels)
        with self._changed:
            self._generation += 1
            if self._waiting is None:
                self._waiting = self._store.new()
            self._waiting.requested, self._waiting.reason = True, reason
            self._due = time.monotonic()
            self._store.save()
            self._changed.notify_all()
            return self._waiting

    def cancel(self) -> Round | None:
        """Cancel the running round and the waiting one; their labels stay pending until the next label or
        request.

        Returns:
            The cancelled round, the running one if both were; None if there was nothing to cancel.
        """
        with self._changed:
            self._generation += 1
            cancelled = waiting = self._waiting
            if waiting is not None:
                waiting.end(CANCELLED, "Cancelled before it started; its labels stay pending.")
                self._waiting = None
            running = self._running
            if running is not None and running.status == RUNNING and not self._publishing:
                running.end(CANCELLED, "Cancelled; the next round resumes its training state.")
                if self._worker is not None:
                    self._worker.stop()
                cancelled = running
            self._store.save()
            self._changed.notify_all()
            return cancelled

    def run_now(self) -> Round:
        """Run one round and wait for its end; also in a process that does not serve."""
        if self.serving:
            return self.wait(self.request())
        self._store.own()
        try:
            labels = self._datastore.final_labels()
            self._refuse_without(labels)
            with self._changed:
                self._pending.learned = self._store.learned()
                entry = self._store.waiting() or self._store.new()
                self._claim(entry, labels)
            self._run(entry)
            return entry
        finally:
            self._store.release()

    def wait(self, entry: Round, timeout_s: float | None = None) -> Round:
        """Wait until a round has ended, or `timeout_s` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: entry.status in ENDED, timeout_s)
        return entry

    # -- what it shows
    # ----------------------------------------------------------------------------------------

    def current(self) -> Round | None:
        """The running round, else the waiting one, else None."""
        with self._changed:
            running = self._running
            return running if running is not None and running.status == RUNNING else self._waiting

    def rounds(self) -> list[Round]:
        """All rounds, oldest first."""
        with self._changed:
            return list(self._store.rounds)

    def list(self) -> list[dict[str, Any]]:
        """All rounds as `GET /rounds` shows them, oldest first; a waiting one with the present labels."""
        with self._changed:
            shown = [entry.public() for entry in self._store.rounds]
        for entry in shown:
            if entry["status"] == QUEUED:
                labels = sorted(self._datastore.final_labels())
                pool = set(self._datastore.list_images()) - set(labels)
                entry.update(labeled=len(labels), labeled_ids=labels, unlabeled=len(pool))
        return shown

    def details(self, entry: Round) -> builtins.list[str]:
        """The last 20 lines of a round's progress, for the host's task view."""
        with self._changed:
            return list(self._details.get(entry.id, ()))

    # -- rules, called with the lock held
    # ---------------------------------------------------------------------

    def _is_claimed(self, labels: dict[str, str]) -> bool:
        running = self._running
        return running is not None and running.status == RUNNING and running.claimed == labels

    def _postpone(self, first: bool) -> None:
        """Let the waiting round start one debounce period from now; one that was asked for is not delayed."""
        assert self._waiting is not None
        now = time.monotonic()
        if first:
            self._latest = now + MAX_DEBOUNCES * self._settings.debounce_s
        if first or not self._waiting.requested:
            self._due = min(now + self._settings.debounce_s, self._latest)
        self._changed.notify_all()

    def _claim(self, entry: Round, labels: dict[str, str]) -> None:
        entry.claimed = dict(labels)
        entry.labeled_ids = sorted(labels)
        entry.set_aside = {}
        entry.begin()
        self._running = entry
        self._details = {entry.id: deque(maxlen=20)}
        self._store.save()

    def _refuse_without(self, labels: dict[str, str]) -> None:
        if not labels:
            needed = max(1, self._settings.min_labels)
            raise Refusal(
                409,
                f"There is nothing to train on: no image has a final label yet, and a round needs {needed}. "
                "Submit a label first.",
                labeled=0,
                labels_needed=needed,
            )

    # -- the serving thread
    # -----------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and (self._waiting is None or time.monotonic() < self._due):
                    left = None if self._waiting is None else max(0.0, self._due - time.monotonic())
                    self._changed.wait(left)
                if self._stopping:
                    return
                generation = self._generation
            try:
                entry = self._take(generation)
                if entry is not None:
                    self._run(entry)
            except Exception:  # the queue must outlive anything, or labels would wait forever
                logger.exception("A training round could not be started; the queue goes on.")
                time.sleep(1)

    def _take(self, generation: int) -> Round | None:
        """Start the waiting round with the present labels, unless anything changed since `generation`."""
        labels = self._datastore.final_labels()
        unreadable = self._pending.unreadable(labels)
        with self._changed:
            entry = self._waiting
            if generation != self._generation or entry is None or self._stopping:
                return None
            self._waiting = None
            if not labels or not (entry.requested or self._pending.deserve_round(labels, unreadable)):
                why = (
                    "an earlier round has already read every label that can be read"
                    if labels
                    else "no final label is left"
                )
                entry.end(CANCELLED, f"Withdrawn: {why}.")
                self._store.save()
                self._changed.notify_all()
                return None
            self._claim(entry, labels)
            return entry

    def _run(self, entry: Round) -> None:
        if self._scoring is not None:
            self._scoring.pause()
        generation = self._generation
        try:
            self._finish(entry, self._work(entry))
        except Exception as error:
            logger.exception("Round %s failed.", entry.id)
            with self._changed:
                entry.end(FAILED, f"The round failed: {error}")
        finally:
            with self._changed:
                self._running = self._worker = None
                self._publishing = False
                self._store.save()
                self._changed.notify_all()
            if self._scoring is not None:
                self._scoring.resume()
        # A label may have changed and changed back while the worker looked: then nobody waits for it yet.
        if entry.status == DONE and self._generation != generation and self.serving:
            self.notice_labels()

    def _work(self, entry: Round) -> WorkerOutcome:
        worker, pool = self._runner.prepare(entry, lambda event: self._progress(entry, event))
        with self._changed:
            entry.unlabeled = pool
            if entry.status in ENDED:
                return WorkerOutcome()
            self._worker = worker
        try:
            return worker.run()
        except BaseException:  # Ctrl-C in a process that runs a round itself
            self.cancel()
            raise

    def _finish(self, entry: Round, outcome: WorkerOutcome) -> None:
        with self._changed:
            if entry.status in ENDED:
                if entry.status == CANCELLED and outcome.result is not None:
                    entry.reason = (
                        "Cancelled as it ended: its candidate was dropped, its labels stay pending."
                    )
                return
            if outcome.result is None:
                entry.end(FAILED, outcome.error)
                # Not why: the sentence may name a file, and a file may be named after a patient.
                logger.warning("Round %s failed; GET /rounds says why.", entry.id)
                if outcome.raised:
                    self._runner.discard_state()
                return
            self._publishing = True
        kept = self._runner.keep(entry, outcome.result)
        with self._changed:
            entry.labeled_ids, entry.read, entry.set_aside = kept.used, kept.read, kept.set_aside
            entry.model_version, entry.promoted, entry.metrics = kept.version, kept.promoted, kept.metrics
            entry.compared_with, entry.calibration = kept.compared_with, outcome.result.get("calibration")
            entry.progress = {**entry.progress, "eta_s": 0.0}
            entry.end(DONE, kept.reason)
            self._pending.learned = dict(entry.read)
            if outcome.result.get("late"):
                self._generation += 1  # labels that joined too late to be learned: look again at once

    def _progress(self, entry: Round, event: Event) -> None:
        if event.get("event") != "progress":
            return
        with self._changed:
            entry.progress, line = read_progress(event)
            if entry.id in self._details:
                self._details[entry.id].append(line)
