"""archive: labels that came by the folder are copied into the store, so that they have versions too."""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy import or_, select

from .database import Database
from .label_store import LabelRecord, LabelStore
from .schema import ACTIVE, Label


def keep_label(store: LabelStore, folder: Path, label: Label) -> bool:
    """Copy the bytes and the record of a label in effect into the store.

    Returns:
        Whether they are there now; False if the label's file is not the one that was entered.
    """
    keys = ("uid", "case_id", "tag", "source", "reader", "tool", "model_version", "comment")
    values = {key: getattr(label, key) for key in (*keys, "created_at", "sha256", "extension", "info")}
    record = LabelRecord(**values)
    if store.is_kept(record):
        return True
    try:
        content = (folder / f"labels/{label.tag}/{label.case_id}{label.extension}").read_bytes()
    except OSError:
        return False
    if store.digest(content) != label.sha256:
        return False
    store.keep(content, label.extension)
    store.settle(record)
    return True


class Archive:
    """Copies labels that came by the folder into the store, a few at a time."""

    def __init__(self, database: Database, store: LabelStore, folder: Path) -> None:
        self._database, self._store, self._folder = database, store, folder
        self._last = 0  # the last row that was looked at
        self._again: set[int] = set()  # rows before it that could not be kept then

    def advance(self, seconds: float) -> None:
        """Go on for some seconds."""
        deadline = time.monotonic() + seconds
        # At most half of a look: files that nobody can read must not keep the others out.
        again = sorted(self._again)[:25]
        wanted = or_(Label.id > self._last, Label.id.in_(again))
        rows = select(Label).where(wanted, Label.state == ACTIVE).order_by(Label.id).limit(50)
        with self._database.read() as session:
            found = list(session.scalars(rows))
        self._again.difference_update(set(again) - {label.id for label in found})  # no longer in effect
        for label in found:
            if time.monotonic() > deadline:
                return
            self._last = max(self._last, label.id)
            self._again.add(label.id)
            if keep_label(self._store, self._folder, label):
                self._again.discard(label.id)
