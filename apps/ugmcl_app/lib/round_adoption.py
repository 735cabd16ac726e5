"""round_adoption: the rounds of an earlier version of this program, which kept them in `rounds.json`."""

from __future__ import annotations

from sqlalchemy.orm import Session

from .catalogue import jobs, round_rows
from .catalogue.adoption import retire
from .catalogue.database import next_number
from .round_record import DONE, ENDED, FAILED, QUEUED, RUNNING, Round
from .round_store import INTERRUPTED, WAITING_KEY, new_round
from .round_view import round_of
from .workspace import Workspace, read_json


def adopt_rounds(workspace: Workspace) -> None:
    """Take over the file of an earlier version, once."""
    entries = [Round.from_dict(entry) for entry in read_json(workspace.rounds_file, {}).get("rounds", [])]
    if entries:
        workspace.database.write(lambda session: _enter(session, entries))
    retire(workspace, workspace.rounds_file)


def _enter(session: Session, entries: list[Round]) -> None:
    """Rounds of an earlier version; one found running was cut off with its server."""
    next_number(session, "adoption")
    if round_rows.count(session):
        return
    last = max((i for i, entry in enumerate(entries) if entry.status == DONE), default=-1)
    jobs.lock(session, jobs.TRAIN)
    waits, follows = False, False
    for index, entry in enumerate(entries):
        if entry.number is None:
            continue
        if entry.status == RUNNING:
            entry.end(FAILED, INTERRUPTED)
            entry.duration_s, follows = None, entry.requested  # when it really ended is not known
        if entry.status in ENDED and index != last:
            entry.claimed, entry.read = {}, {}
        round_rows.add(session, entry.number, entry.to_dict())
        if entry.status == QUEUED and not waits:
            waits = True
            jobs.add(session, jobs.TRAIN, WAITING_KEY, {"round": entry.id, "touches": 0})
    if follows and not waits:
        entry = round_of(session, new_round(session))
        entry.requested = True
        round_rows.put(session, entry.to_dict())
