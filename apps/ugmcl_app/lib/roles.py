"""roles: which labeled cases train and which validate, decided once per case and kept."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .catalogue.adoption import retire
from .catalogue.database import insert_new, next_number
from .catalogue.schema import SplitRole
from .model_folders import records
from .round_record import TRAIN, VALIDATE
from .workspace import Workspace, read_json

ALWAYS_TRAINING = 3
VALIDATION_PERIOD = 4


class RoleSplit:
    """The stored split: the first three cases train, then every fourth (the 4th, 8th, ...) validates.

    A case gets its role with its first final label and keeps it when the label is replaced, removed or comes
    back: a validation case that later trained would make today's figures look better than they are. Several
    processes may decide at once. Thread-safe.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._database = workspace.database
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}  # roles never change, so what was read once stays true
        self._adopt(workspace)

    def assign(self, image_id: str) -> str:
        """The role of a case, deciding it now if this is its first final label: "train" or "validate"."""
        return self.assign_all([image_id])[image_id]

    def assign_all(self, image_ids: Iterable[str]) -> dict[str, str]:
        """The roles of several cases; new ones are decided in sorted order and stored before returning."""
        wanted = sorted(set(image_ids))
        with self._lock:
            if any(image_id not in self._known for image_id in wanted):
                # Stored first: a role that was used and then forgotten could come back as the other one.
                self._known = self._database.write(lambda session: _decide(session, wanted))
            return {image_id: self._known[image_id] for image_id in wanted}

    def roles(self) -> dict[str, str]:
        """All decided roles by image id, in the order in which they were decided."""
        with self._database.read() as session:
            return _stored(session)

    def _adopt(self, workspace: Workspace) -> None:
        """Take over the file of an earlier version, or, into an empty catalogue, what the models' records
        say."""
        stored = read_json(workspace.split_file, {}).get("roles", {})
        if not stored:
            with self._database.read() as session:
                if session.scalar(select(SplitRole.position).limit(1)) is not None:
                    return
            stored = {
                case["id"]: case["role"] for r in records(workspace.models) for case in r.get("data", [])
            }
        if stored:
            self._database.write(lambda session: _enter(session, stored))
        retire(workspace, workspace.split_file)


def _stored(session: Session) -> dict[str, str]:
    rows = select(SplitRole.case_id, SplitRole.role).order_by(SplitRole.position)
    return {str(case_id): str(role) for case_id, role in session.execute(rows)}


def _decide(session: Session, wanted: list[str]) -> dict[str, str]:
    next_number(session, "split")  # one process at a time: the order decides
    decided = _stored(session)
    new: dict[str, str] = {}
    for image_id in wanted:
        if image_id not in decided:
            position = len(decided) + len(new) + 1
            validates = position > ALWAYS_TRAINING and position % VALIDATION_PERIOD == 0
            new[image_id] = VALIDATE if validates else TRAIN
    _append(session, new)
    return {**decided, **new}


def _enter(session: Session, stored: dict[str, Any]) -> None:
    next_number(session, "split")
    known = _stored(session)
    _append(session, {i: str(role) for i, role in stored.items() if i not in known})


def _append(session: Session, roles: dict[str, str]) -> None:
    last = int(session.scalar(select(func.max(SplitRole.position))) or 0)
    rows: list[dict[str, Any]] = [
        {"case_id": image_id, "role": role, "position": last + index}
        for index, (image_id, role) in enumerate(roles.items(), start=1)
    ]
    insert_new(session, SplitRole, rows)
