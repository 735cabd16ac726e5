"""roles: which labeled cases train and which validate, decided once per case and kept."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from .workspace import Workspace, read_json, write_json_atomic

TRAIN, VALIDATE = "train", "validate"
ALWAYS_TRAINING = 3
VALIDATION_PERIOD = 4


class RoleSplit:
    """The stored split: the first three cases train, then every fourth (the 4th, 8th, ...) validates.

    A case gets its role with its first final label and keeps it when the label is replaced, removed or comes
    back: a validation case that later trained would make today's figures look better than they are.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._file = workspace.split_file
        self._lock = threading.Lock()
        self._roles: dict[str, str] = dict(read_json(self._file, {}).get("roles", {}))

    def assign(self, image_id: str) -> str:
        """The role of a case, deciding it now if this is its first final label: "train" or "validate"."""
        return self.assign_all([image_id])[image_id]

    def assign_all(self, image_ids: Iterable[str]) -> dict[str, str]:
        """The roles of several cases; new ones are decided in sorted order and stored before returning."""
        wanted = sorted(set(image_ids))
        with self._lock:
            new = [image_id for image_id in wanted if image_id not in self._roles]
            if new:
                decided = dict(self._roles)
                for image_id in new:
                    position = len(decided) + 1
                    validates = position > ALWAYS_TRAINING and position % VALIDATION_PERIOD == 0
                    decided[image_id] = VALIDATE if validates else TRAIN
                # Stored first: a role that was used and then forgotten could come back as the other one.
                write_json_atomic(self._file, {"roles": decided})
                self._roles = decided
            return {image_id: self._roles[image_id] for image_id in wanted}

    def roles(self) -> dict[str, str]:
        """All decided roles by image id, in the order in which they were decided."""
        with self._lock:
            return dict(self._roles)
