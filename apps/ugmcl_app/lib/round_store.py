"""round_store: the rounds of a project in the catalogue, and every step from one state to the next.

Each step is one transaction under the lock of the jobs, so that several processes can take them at any time:
at most one round runs and at most one waits (or is paused), and none is lost or run twice. A running round
belongs to the process that claimed it; what that process does with it later happens only if it still does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from .catalogue import jobs, round_rows
from .catalogue.schema import Job
from .pending_labels import deserve_round
from .process_identity import this_process
from .round_record import CANCELLED, DONE, FAILED, PAUSED, QUEUED, RUNNING, Round
from .round_view import RoundView, learned_labels, round_of, show_progress, slots, touches
from .workspace import Workspace

INTERRUPTED = "interrupted: the server stopped"
MAX_CUT_OFFS = 3
"""A worker that dies as often at the same labels (too little memory?) needs a person or another label."""
_RUNNING_KEY, WAITING_KEY = "train-running", "train-waiting"


class RoundStore(RoundView):
    """The stored rounds, and their steps. Thread-safe, in several processes too.

    Attributes:
        owner: This process, as the owner of the rounds it runs.
    """

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace.database)
        self.owner = this_process()

    # -- what labels and requests do

    def postpone(self, labels: Mapping[str, str], unreadable: set[str], min_labels: int) -> None:
        """The labels changed: see to it that a round waits for them, unless the running one has claimed them.

        Args:
            labels: The present labels, as `Round.claimed`.
            unreadable: Those whose file cannot be opened.
            min_labels: How many must be new to be worth a round.
        """

        def step(session: Session) -> None:
            jobs.lock(session, jobs.TRAIN)
            running, waiting = slots(session)
            claimed = None if running is None else round_of(session, running).claimed
            learned = learned_labels(session)
            if claimed == labels or not deserve_round(labels, learned, unreadable, min_labels):
                return
            if waiting is None:
                waiting = new_round(session)
            waiting.request = {**waiting.request, "touches": touches(waiting) + 1}

        self.database.write(step)

    def request(self, reason: str) -> Round:
        """A waiting round that does not wait for further labels; the same one until it starts."""

        def step(session: Session) -> Round:
            jobs.lock(session, jobs.TRAIN)
            _, waiting = slots(session)
            entry = round_of(session, waiting or new_round(session))
            entry.requested, entry.reason = True, entry.reason if entry.status == PAUSED else reason
            entry.cut_off = 0  # whoever asks does not want to wait
            round_rows.put(session, entry.to_dict())
            return entry

        return self.database.write(step)

    # -- what people do

    def cancel(self, round_id: str | None = None) -> list[Round]:
        """Cancel the running round and the waiting one, or only the one with this id.

        Returns:
            Those that were cancelled, the running one first.
        """

        def step(session: Session) -> list[Round]:
            jobs.lock(session, jobs.TRAIN)
            cancelled = []
            for job in slots(session):
                if job is None or round_id not in (None, job.request["round"]):
                    continue
                reason = (
                    "Cancelled; the next round resumes its training state."
                    if job.status == RUNNING
                    else "Cancelled before it started; its labels stay pending."
                )
                cancelled.append(_end(session, job, round_of(session, job), CANCELLED, reason))
            return cancelled

        return self.database.write(step)

    def pause(self, round_id: str) -> Round | None:
        """Stop a running round, or keep a waiting one from starting; it takes the present labels in when it
        is resumed. A round that waited behind it is withdrawn, as its labels are among those.

        Returns:
            The paused round; None if it neither runs nor waits.
        """

        def step(session: Session) -> Round | None:
            jobs.lock(session, jobs.TRAIN)
            running, waiting = slots(session)
            job = next(
                (j for j in (running, waiting) if j is not None and j.request["round"] == round_id), None
            )
            if job is None or job.status == PAUSED:
                return None
            entry = round_of(session, job)
            if job is running and waiting is not None:
                behind = round_of(session, waiting)
                entry.requested = entry.requested or behind.requested
                reason = f"Withdrawn: the paused round {round_id} takes its labels in when it is resumed."
                _end(session, waiting, behind, CANCELLED, reason)
            entry.status, entry.claimed = PAUSED, {}
            entry.reason = "Paused; resuming it goes on with its training state and the labels of then."
            jobs.wait(job, WAITING_KEY, PAUSED)
            round_rows.put(session, entry.to_dict())
            return entry

        return self.database.write(step)

    def resume(self, round_id: str) -> Round | None:
        """Let a paused round start as soon as none runs; None if it is not paused."""

        def step(session: Session) -> Round | None:
            jobs.lock(session, jobs.TRAIN)
            _, waiting = slots(session)
            if waiting is None or waiting.status != PAUSED or waiting.request["round"] != round_id:
                return None
            entry = round_of(session, waiting)
            entry.status, entry.requested, entry.reason = QUEUED, True, "Resumed."
            jobs.wait(waiting, WAITING_KEY)
            round_rows.put(session, entry.to_dict())
            return entry

        return self.database.write(step)

    # -- what the process does that runs a round

    def claim(
        self, change: int, labels: Mapping[str, str], unreadable: set[str], min_labels: int
    ) -> Round | None:
        """Take the waiting round with these labels, unless anything changed or one runs.

        Args:
            change: `QueueState.change` from before the labels were looked at.
            labels: Image id -> SHA-256, what the round takes in.
            unreadable, min_labels: As of `postpone`; a round that was asked for runs in any case, another one
                is withdrawn if the labels are not worth it any more.

        Returns:
            The running round; None if there is nothing to run now.
        """

        def step(session: Session) -> Round | None:
            running, waiting = (
                slots(session) if jobs.lock(session, jobs.TRAIN) == change + 1 else (None, None)
            )
            if waiting is None or waiting.status != QUEUED or running is not None:
                return None
            entry = round_of(session, waiting)
            if touches(waiting):
                entry.cut_off = 0  # other labels than those at which a worker died
            deserved = deserve_round(labels, learned_labels(session), unreadable, min_labels)
            if not labels or not (entry.requested or deserved):
                read = "an earlier round has already read every label that can be read"
                why = read if labels else "no final label is left"
                _end(session, waiting, entry, CANCELLED, f"Withdrawn: {why}.")
                return None
            jobs.start(waiting, _RUNNING_KEY, self.owner)
            waiting.progress = {}
            entry.claimed, entry.labeled_ids, entry.set_aside = dict(labels), sorted(labels), {}
            entry.begin()
            round_rows.put(session, entry.to_dict())
            return entry

        return self.database.write(step)

    def note(self, entry: Round) -> None:
        """Store what became known of a round that this process runs."""
        self.database.write(lambda s: round_rows.put(s, entry.to_dict()) if self.is_mine(s, entry) else None)

    def is_mine(self, session: Session, entry: Round) -> bool:
        """Whether this process still runs the round: it was not cancelled, paused or taken over."""
        jobs.hold(session, jobs.TRAIN)
        running, _ = slots(session)
        return running is not None and running.request["round"] == entry.id and running.owner == self.owner

    def finish(
        self, session: Session, entry: Round, status: str, reason: str, progress: dict[str, Any]
    ) -> None:
        """End the round that `is_mine`, in the same transaction."""
        running, _ = slots(session)
        assert running is not None
        running.progress = progress
        if status == DONE:
            # Label hashes only where they are still asked for: every round times every label would be much.
            last = round_rows.newest(session, DONE)
            if last is not None:
                round_rows.put(session, {**last, "claimed": {}, "read": {}})
        _end(session, running, entry, status, reason)

    def fail(self, entry: Round, reason: str, progress: dict[str, Any], cut_off: bool = False) -> bool:
        """End the round as failed; False if it is this process's no more.

        Args:
            entry: The round.
            reason: A sentence on why.
            progress: How far it came.
            cut_off: Whether that says nothing against the round itself: another follows that resumes its
                state, up to `MAX_CUT_OFFS` times in a row.
        """

        def step(session: Session) -> bool:
            if not self.is_mine(session, entry):
                return False
            _, waiting = slots(session)
            if not cut_off:
                self.finish(session, entry, FAILED, reason, progress)
            elif entry.cut_off < MAX_CUT_OFFS:
                self.finish(
                    session, entry, FAILED, f"{reason} The next round goes on where it was.", progress
                )
                _let_follow(session, waiting, entry, entry.cut_off + 1)
            else:
                once_more = "Its labels stay pending; a new label or POST /train/ugmcl starts a round."
                self.finish(session, entry, FAILED, f"{reason} {once_more}", progress)
            return True

        return self.database.write(step)

    def interrupt(self, job: Job) -> Round | None:
        """End a running round whose process stops or is dead, and let another follow that resumes its state.

        Args:
            job: As it was when that was found; nothing happens if it has changed.
        """

        def step(session: Session) -> Round | None:
            jobs.lock(session, jobs.TRAIN)
            running, waiting = slots(session)
            if running is None or (running.id, running.owner) != (job.id, job.owner):
                return None
            if running.owner != self.owner and running.heartbeat_at != job.heartbeat_at:
                return None
            running_was_foreign = running.owner != self.owner
            entry = round_of(session, running)
            _end(session, running, entry, FAILED, INTERRUPTED)
            if running_was_foreign:
                entry.duration_s = None  # when it really ended is not known
                round_rows.put(session, entry.to_dict())
            _let_follow(session, waiting, entry)
            return entry

        return self.database.write(step)

    def explain(self, round_id: str, reason: str) -> None:
        """Replace the reason of an ended round."""

        def step(session: Session) -> None:
            record = round_rows.find(session, round_id)
            if record is not None:
                round_rows.put(session, {**record, "reason": reason})

        self.database.write(step)


def new_round(session: Session) -> Job:
    """The job of a new waiting round."""
    round_id, number = round_rows.new_id(session)
    round_rows.add(session, number, Round(id=round_id).to_dict())
    return jobs.add(session, jobs.TRAIN, WAITING_KEY, {"round": round_id, "touches": 0})


def _let_follow(session: Session, waiting: Job | None, entry: Round, cut_off: int = 0) -> None:
    """See to it that a round waits which resumes the state of one that was cut off."""
    next_job = waiting or new_round(session)
    following = round_of(session, next_job)
    if following.status == PAUSED:  # or the round that was cut off would wait for a person
        following.status, following.requested = QUEUED, True
        following.reason = f"Resumed: it goes on where round {entry.id} was cut off."
        jobs.wait(next_job, WAITING_KEY)
    following.requested = following.requested or entry.requested
    following.cut_off = cut_off
    round_rows.put(session, following.to_dict())


def _end(session: Session, job: Job, entry: Round, status: str, reason: str) -> Round:
    show_progress(entry, job.progress)
    entry.end(status, reason)
    if status != DONE:
        entry.claimed = {}
    jobs.end(job, status, reason)
    round_rows.put(session, entry.to_dict())
    return entry
