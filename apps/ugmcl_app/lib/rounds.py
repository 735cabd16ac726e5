"""rounds: the queue of training rounds; every label leads to a round, one at a time, and none is ever lost.

How no label gets lost: a label is *pending* as long as the final labels differ from those that the last
completed round's worker read. A change of labels makes a waiting round unless the running one has claimed
exactly the present labels. The queue is in the catalogue, so that is so for every process that serves it.
"""

from __future__ import annotations

import atexit
import builtins
import time
from typing import Any, NoReturn

from .errors import Refusal
from .pending_labels import unreadable_labels
from .registry import ModelRegistry
from .roles import RoleSplit
from .round_adoption import adopt_rounds
from .round_job import LabelSource
from .round_record import ENDED, PAUSED, QUEUED, Round
from .round_runner import RoundRunner, WorkerFactory
from .round_service import RoundService
from .round_store import RoundStore
from .scores import ScoreBoard
from .scoring import PoolScoring
from .settings import AppSettings
from .workspace import Workspace

FOLLOWED_KEYS = ("id", "status", "progress", "reason", "model_version", "promoted")


class RoundQueue:
    """At most one running and one waiting round, fed by saved labels and by requests. Thread-safe, in several
    processes too.

    Args:
        datastore: Source of images and final labels; tells of changes through `on_labels_changed`.
        registry: Where candidates go.
        workspace: Where state is kept.
        scores: Filled in the background after each publication.
        settings: `min_labels`, `debounce_s`, `publish_margin` and what the worker needs.
        make_worker: Builds the worker of a job; the real process by default.
        score_pool: False leaves background scoring out.

    Attributes:
        roles: The split.
        service: What runs the rounds in this process.
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
        adopt_rounds(workspace)
        self.roles = RoleSplit(workspace)
        self._runner = RoundRunner(datastore, registry, self.roles, workspace, settings, make_worker)
        self._store = RoundStore(workspace)
        scoring = PoolScoring(datastore, registry, workspace, scores, settings) if score_pool else None
        self.service = RoundService(
            datastore, registry, workspace, self._store, self._runner, settings, scoring, self.notice_labels
        )

    # -- life of the queue

    def start(self) -> None:
        """Serve the stored rounds; labels newer than the last completed round start one."""
        self._datastore.on_labels_changed.append(self.notice_labels)
        self.service.start()
        if self.service.scoring is not None:
            self.service.scoring.start()
        atexit.register(self.stop)
        self.notice_labels()

    def stop(self) -> None:
        """End the running round, keeping its state for the one that follows; labels stay pending."""
        if not self.serving:
            return
        atexit.unregister(self.stop)
        if self.notice_labels in self._datastore.on_labels_changed:
            self._datastore.on_labels_changed.remove(self.notice_labels)
        if self.service.scoring is not None:
            self.service.scoring.stop()
        self.service.stop()

    @property
    def serving(self) -> bool:
        """Whether this process serves the queue."""
        return self.service.serving

    @property
    def repairs(self) -> builtins.list[str]:
        """Sentences on rounds of dead processes that this one has taken over."""
        return self.service.repairs

    # -- what feeds it

    def notice_labels(self) -> None:
        """The final labels may have changed: give new cases their role and see to it that a round follows."""
        labels = self._datastore.final_labels()
        self.roles.assign_all(labels)
        unreadable = unreadable_labels(self._datastore, labels, self._store.learned())
        self._store.postpone(labels, unreadable, self._settings.min_labels)
        self.service.wake()

    def request(self, reason: str = "requested") -> Round:
        """Ask for a round now, even with nothing new to learn from.

        Returns:
            The waiting round; the same one for every request until it starts. One that is paused stays so.

        Raises:
            Refusal: 409 with `labeled` and `labels_needed`, if there is no final label at all.
        """
        labels = self._datastore.final_labels()
        self._refuse_without(labels)
        self.roles.assign_all(labels)
        entry = self._store.request(reason)
        self.service.wake()
        return entry

    def run_now(self) -> Round:
        """Run one round and wait for its end; also in a process that does not serve."""
        entry = self.request()
        return self.wait(entry) if self.serving else self.service.run_until_ended(entry)

    def wait(self, entry: Round, timeout_s: float | None = None) -> Round:
        """Wait until a round has ended or is paused, or `timeout_s` seconds; returns it as it is then."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            found = self._store.find(entry.id) or entry
            left = 0.5 if deadline is None else min(0.5, deadline - time.monotonic())
            if found.status in (*ENDED, PAUSED) or left <= 0:
                return found
            self.service.pause_until_news(left)

    # -- what people do with it

    def cancel(self) -> Round | None:
        """Cancel the running round and the waiting one; their labels stay pending until the next label or
        request.

        Returns:
            The cancelled round, the running one if both were; None if there was nothing to cancel.
        """
        cancelled = self._cancel(None)
        return cancelled[0] if cancelled else None

    def cancel_round(self, round_id: str) -> Round:
        """Cancel one round; Refusal 404 if it is unknown, 409 if it has ended."""
        entry = self.find(round_id)
        cancelled = self._cancel(round_id)
        if not cancelled:
            self._refuse_state(entry, "cancelled", "running, waiting or paused")
        return cancelled[0]

    def pause(self, round_id: str) -> Round:
        """Stop a round, keeping its state, until `resume`; Refusal 404 if it is unknown, 409 if it neither
        runs nor waits."""
        entry = self.find(round_id)
        paused = self._store.pause(round_id)
        if paused is None:
            self._refuse_state(entry, "paused", "running or waiting")
        self.service.drop(round_id)
        self.service.wake()
        return paused

    def resume(self, round_id: str) -> Round:
        """Let a paused round go on; Refusal 404 if it is unknown, 409 if it is not paused."""
        entry = self.find(round_id)
        resumed = self._store.resume(round_id)
        if resumed is None:
            self._refuse_state(entry, "resumed", "paused")
        self.service.wake()
        return resumed

    # -- what it shows

    def current(self) -> Round | None:
        """The running round, else the waiting one, else None."""
        return self._store.current()

    def find(self, round_id: str) -> Round:
        """A round; Refusal 404 if it is unknown."""
        entry = self._store.find(round_id)
        if entry is None:
            raise Refusal(404, f"There is no round {round_id[:80]!r} here; GET /rounds lists them.")
        return entry

    def show(self, round_id: str) -> dict[str, Any]:
        """A round as `GET /rounds/{id}` shows it; Refusal 404 if it is unknown."""
        return self._shown(self.find(round_id))

    def follow(self, round_id: str) -> dict[str, Any]:
        """What changes of a round while it waits and runs, and whether it has `ended`; Refusal 404 if it is
        unknown."""
        entry = self.find(round_id)
        shown = entry.public()
        return {key: shown[key] for key in FOLLOWED_KEYS} | {"ended": entry.status in ENDED}

    def rounds(self) -> builtins.list[Round]:
        """All rounds, oldest first."""
        return self._store.rounds()

    def list(self) -> builtins.list[dict[str, Any]]:
        """All rounds as `GET /rounds` shows them, oldest first; a waiting one with the present labels."""
        return [self._shown(entry) for entry in self._store.rounds()]

    def jobs(self) -> builtins.list[dict[str, Any]]:
        """The jobs of the queue as `GET /jobs` shows them, oldest first."""
        return self._store.jobs()

    def details(self, entry: Round) -> builtins.list[str]:
        """The last 20 lines of a round's progress, for the host's task view."""
        return self._store.lines(entry.id)

    def _shown(self, entry: Round) -> dict[str, Any]:
        shown = entry.public()
        if entry.status in (QUEUED, PAUSED):
            labels = sorted(self._datastore.final_labels())
            pool = set(self._datastore.list_images()) - set(labels)
            shown.update(labeled=len(labels), labeled_ids=labels, unlabeled=len(pool))
        return shown

    # -- rules

    def _cancel(self, round_id: str | None) -> builtins.list[Round]:
        cancelled = self._store.cancel(round_id)
        for entry in cancelled:
            self.service.drop(entry.id)
        self.service.wake()
        return cancelled

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

    @staticmethod
    def _refuse_state(entry: Round, what: str, allowed: str) -> NoReturn:
        raise Refusal(
            409, f"Round {entry.id} is {entry.status} and cannot be {what}; that needs one that is {allowed}."
        )
