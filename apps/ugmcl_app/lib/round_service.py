"""round_service: the thread that takes rounds up, runs them one at a time, and watches those of other
processes.

A label is learned or pending, never lost: a waiting round claims the labels only if nothing changed between
looking at them and starting (`QueueState.change`), and what a round has learned counts only from the
transaction in which it ends, together with its model version.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from .catalogue.schema import Job
from .heartbeat import Heartbeat, Watch
from .pending_labels import unreadable_labels
from .registry import ModelRegistry
from .registry_check import clear_unfinished
from .round_job import LabelSource
from .round_record import CANCELLED, DONE, ENDED, PAUSED, QUEUED, Round
from .round_runner import Candidate, RoundRunner, Worker, read_progress
from .round_store import RoundStore
from .round_view import QueueState
from .scoring import PoolScoring
from .settings import AppSettings
from .worker_process import Event, WorkerOutcome
from .workspace import Workspace

logger = logging.getLogger(__name__)

MAX_DEBOUNCES = 12  # a steady stream of labels delays a round by at most this many debounce periods
POLL_S = 1.0  # how soon what another process did is noticed
JOIN_S = 30.0
CUT_OFF_PAUSES_S = (0.0, 10.0, 60.0)
"""Before a round whose worker died is tried again, by how often that happened: what killed it may pass."""
_LINES = 20  # of a round's progress, for the host's task view


class RoundService:
    """Serves the rounds of the catalogue in this process.

    Attributes:
        running: The round that this process runs now.
        worker: Its worker, as soon as there is one.
        repairs: Sentences on rounds of dead processes that were taken over.
    """

    def __init__(
        self,
        datastore: LabelSource,
        registry: ModelRegistry,
        workspace: Workspace,
        store: RoundStore,
        runner: RoundRunner,
        settings: AppSettings,
        scoring: PoolScoring | None,
        look_at_labels: Callable[[], None],
    ) -> None:
        """`look_at_labels` is called after a round during which labels changed."""
        self._datastore, self._registry, self._models = datastore, registry, workspace.models
        self._store, self._runner, self._settings = store, runner, settings
        self.scoring, self._look_at_labels = scoring, look_at_labels
        self.running: Round | None = None
        self.worker: Worker | None = None
        self.repairs: list[str] = []
        self._changed = threading.Condition(threading.RLock())
        self._woken = False
        self._stopping = False
        self._publishing = False
        self._lost = False  # the running round is not this process's any more
        self._progress: dict[str, Any] = {}
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._watch = Watch()
        self._seen = ("", 0, 0.0, 0.0)  # the waiting round, its touches, and when it and they were first seen
        self._thread: threading.Thread | None = None

    # -- life

    def start(self) -> None:
        """Serve in a thread until `stop`."""
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, daemon=True, name="training-rounds")
        self._thread.start()

    def stop(self) -> None:
        """End the running round, keeping its state for the one that follows, and the thread."""
        if self._thread is None:
            return
        with self._changed:
            self._stopping = True
            interrupting = self.running is not None and not self._publishing
        try:
            if interrupting:
                job = self._store.state().running
                if job is not None and job.owner == self._store.owner:
                    self._store.interrupt(job)
        except Exception:  # the database is away: a later start, or another server, finds the round cut off
            logger.exception("The running round could not be marked as interrupted.")
        finally:
            if interrupting:
                self.drop()
            self.wake()
        self._thread.join(timeout=JOIN_S)
        self._thread = None

    @property
    def serving(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def wake(self) -> None:
        """Something changed: look at once."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def drop(self, round_id: str | None = None) -> None:
        """End the worker of the running round, which was cancelled or paused; any round, or that one."""
        with self._changed:
            if self.running is not None and round_id in (None, self.running.id):
                self._lost = True
                if self.worker is not None:
                    self.worker.stop()

    def pause_until_news(self, seconds: float) -> None:
        """Wait until something changes here, at most some seconds."""
        with self._changed:
            self._changed.wait(seconds)

    def run_until_ended(self, entry: Round) -> Round:
        """Serve in this thread until a round has ended, here or in another process."""
        while True:
            found = self._store.find(entry.id) or entry
            if found.status in (*ENDED, PAUSED):
                return found
            time.sleep(self._step())

    # -- the thread

    def _serve(self) -> None:
        while True:
            try:
                pause_s = self._step()
            except Exception:  # the queue must outlive anything, or labels would wait forever
                logger.exception("A training round could not be started; the queue goes on.")
                pause_s = POLL_S
            with self._changed:
                if not self._stopping and not self._woken and pause_s > 0:
                    self._changed.wait(pause_s)
                self._woken = False
                if self._stopping:
                    return

    def _step(self) -> float:
        """Do what there is to do; returns the seconds until there may be more."""
        state = self._store.state()
        if state.running is not None:
            if state.running.owner == self._store.owner or self._watch.is_abandoned(state.running):
                self._take_over(state.running)
                return 0.0
            return POLL_S
        if state.waiting is None or state.waiting.status != QUEUED:
            return POLL_S
        left = self._debounce(state)
        if left > 0:
            return min(left, POLL_S)
        entry = self._take(state.change)
        if entry is not None:
            self._run(entry)
        return 0.0

    def _debounce(self, state: QueueState) -> float:
        """Seconds until the waiting round starts, from when this process has seen it and its labels come.

        By its own monotonic clock: those of the machines may differ, and may be set.
        """
        assert state.waiting is not None
        now = time.monotonic()
        round_id, touches, first, last = self._seen
        if round_id != state.waiting.id:
            first = last = now
        elif touches != state.touches:
            last = now
        self._seen = (state.waiting.id, state.touches, first, last)
        if state.waiting.cut_off and not state.touches:
            return first + CUT_OFF_PAUSES_S[min(state.waiting.cut_off, len(CUT_OFF_PAUSES_S)) - 1] - now
        period = self._settings.debounce_s
        return 0.0 if state.waiting.requested else min(last + period, first + MAX_DEBOUNCES * period) - now

    def _take(self, change: int) -> Round | None:
        """Start the waiting round with the present labels, unless anything changed since `change`."""
        labels = self._datastore.final_labels()
        unreadable = unreadable_labels(
            self._datastore, labels, self._store.learned(), self._settings.min_labels
        )
        with self._changed:
            if self._stopping:
                return None
            entry = self._store.claim(change, labels, unreadable, self._settings.min_labels)
            self.running, self._lost, self._progress = entry, False, {}
            self._lines.clear()
        self.wake()
        return entry

    def _take_over(self, job: Job) -> None:
        entry = self._store.interrupt(job)
        if entry is None:
            return
        self.repairs.append(f"Round {entry.id} was cut off with its server; the next one resumes its state.")
        self.repairs += clear_unfinished(self._models, self._store.database, entry.id)
        logger.warning("Round %s was cut off with its server; the next one resumes its state.", entry.id)

    # -- one round

    def _run(self, entry: Round) -> None:
        if self.scoring is not None:
            self.scoring.pause()
        change, done = self._store.change(), False
        job_id = self._store.job_of(entry)
        try:
            if job_id is not None:
                store = self._store
                with Heartbeat(store.database, job_id, store.owner, lambda: self._progress, self.drop):
                    done = self._finish(entry, self._work(entry))
        except Exception as error:
            logger.exception("Round %s failed.", entry.id)
            # A full disk passes, and a database that is away; another error would come again.
            passes = isinstance(error, OSError | DBAPIError)
            self._store.fail(entry, f"The round failed: {error}.", self._progress, cut_off=passes)
        finally:
            with self._changed:
                self.running = self.worker = None
                self._publishing = False
            self.wake()
            if self.scoring is not None:
                self.scoring.resume()
        # A label may have changed and changed back while the worker looked: then nobody waits for it yet.
        if done and self._store.change() != change:
            self._look_at_labels()

    def _work(self, entry: Round) -> WorkerOutcome:
        worker, entry.unlabeled = self._runner.prepare(entry, self._take_progress)
        self._store.note(entry)
        with self._changed:
            if self._lost or self._stopping:
                return WorkerOutcome()
            self.worker = worker
        try:
            return worker.run()
        except BaseException:  # Ctrl-C in a process that runs a round itself
            self._store.cancel(entry.id)
            worker.stop()
            raise

    def _finish(self, entry: Round, outcome: WorkerOutcome) -> bool:
        """What comes of a worker's end; whether it is a model version."""
        if outcome.result is None:
            if self._stopping:
                return False  # `stop` ends it as interrupted, with a round to follow
            if self._store.fail(entry, outcome.error, self._progress, cut_off=not outcome.raised):
                # Not why: the sentence may name a file, and a file may be named after a patient.
                logger.warning("Round %s failed; GET /rounds says why.", entry.id)
                if outcome.raised:
                    self._runner.discard_state()
            return False
        with self._changed:
            self._publishing = not self._lost
        while not self._lost:
            candidate = self._runner.candidate(entry, outcome.result)
            settled, surplus = self._store.database.write(
                partial(self._settle, entry=entry, candidate=candidate)
            )
            if settled:
                self._runner.discard_state()
                self._registry.tidy(surplus)
                if candidate.promoted:
                    self._registry.announce(candidate.staged.version)
                if outcome.result.get("late"):
                    self._look_at_labels()  # labels that joined too late to be learned
                return True
            self._registry.discard(candidate.staged)
            if settled is None:
                break
        now = self._store.find(entry.id)
        if now is not None and now.status == CANCELLED:
            why = "Cancelled as it ended: its candidate was dropped, its labels stay pending."
            self._store.explain(entry.id, why)
        return False

    def _settle(self, session: Session, entry: Round, candidate: Candidate) -> tuple[bool | None, list[str]]:
        """In one transaction: the version, whether it is live, and the round's end.

        Returns:
            True when done; False if another version went live since the comparison; None if the round is not
            this process's any more. And the versions whose files are to go.
        """
        if not self._store.is_mine(session, entry):
            # A repeated transaction, whose first end nobody heard of, may find the round done by itself.
            is_done = self._registry.is_entered(session, candidate.staged.version)
            return (True if is_done else None), []
        if candidate.metrics is not None and self._registry.hold_live(session) != candidate.compared_with:
            return False, []
        surplus = self._registry.enter(session, candidate.staged, candidate.promoted)
        entry.labeled_ids, entry.read, entry.set_aside = candidate.used, candidate.read, candidate.set_aside
        entry.model_version, entry.promoted = candidate.staged.version, candidate.promoted
        entry.metrics, entry.compared_with = candidate.metrics, candidate.compared_with
        entry.calibration = candidate.calibration
        progress = {**entry.progress, **self._progress, "eta_s": 0.0}
        self._store.finish(session, entry, DONE, candidate.reason, progress)
        return True, surplus

    def _take_progress(self, event: Event) -> None:
        if event.get("event") == "progress":
            progress, line = read_progress(event)
            self._lines.append(line)
            self._progress = {**progress, "lines": list(self._lines)}
