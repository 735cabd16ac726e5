"""round_store: `rounds.json`, its one writer, and what the rounds in it have learned from."""

from __future__ import annotations

import time
from typing import IO, Any

from .round_record import DONE, ENDED, QUEUED, RUNNING, Round
from .workspace import Workspace, read_json, write_json_atomic

INTERRUPTED = "interrupted: the server stopped"


class RoundStore:
    """The stored rounds of a project. Not thread-safe by itself; the queue calls it under its own lock."""

    def __init__(self, workspace: Workspace) -> None:
        self._file = workspace.rounds_file
        self._lock_file: IO[str] | None = None
        self.rounds: list[Round] = []
        self._count = 0

    def own(self, patience_s: float = 15.0) -> None:
        """Become the one process that writes, and read what is stored.

        A predecessor that is just shutting down is waited for.

        Raises:
            RuntimeError: If another process still has the project after `patience_s` seconds.
        """
        import fcntl

        self._file.parent.mkdir(parents=True, exist_ok=True)
        lock_file = self._file.with_suffix(".lock").open("a")
        deadline = time.monotonic() + patience_s
        while True:
            try:
                # lockf, not flock: the lock must end with this process and never pass to its workers.
                fcntl.lockf(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    lock_file.close()
                    raise RuntimeError(
                        f"Another process already trains the project in {self._file.parent}. "
                        "Stop it, use its own training request, or choose another workspace."
                    ) from None
                time.sleep(0.2)
        self._lock_file = lock_file
        self.load()

    def release(self) -> None:
        """Let another process write."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def load(self) -> None:
        """Read the stored rounds; one found running was cut off with its server, and says so."""
        stored = read_json(self._file, {})
        self.rounds = [Round.from_dict(entry) for entry in stored.get("rounds", [])]
        self._count = max(int(stored.get("count", 0)), len(self.rounds))
        for entry in self.rounds:
            if entry.status == RUNNING:
                entry.end("failed", INTERRUPTED)
                entry.duration_s = None  # when it really ended is not known

    def save(self) -> None:
        """Replace the stored rounds by the present ones, atomically."""
        write_json_atomic(self._file, {"count": self._count, "rounds": self._stored()})

    def _stored(self) -> list[dict[str, Any]]:
        """Label hashes only where they are still asked for: every round times every label would fill the
        file."""
        last = next((entry for entry in reversed(self.rounds) if entry.status == DONE), None)
        stored = [entry.to_dict() for entry in self.rounds]
        for entry, values in zip(self.rounds, stored, strict=True):
            if entry is not last and entry.status in ENDED:
                values |= {"claimed": {}, "read": {}}
        return stored

    def new(self) -> Round:
        """A new waiting round at the end of the list."""
        self._count += 1
        entry = Round(id=f"r{self._count:04d}")
        self.rounds.append(entry)
        return entry

    def waiting(self) -> Round | None:
        """The stored round that still waits, if any; there is never more than one."""
        return next((entry for entry in self.rounds if entry.status == QUEUED), None)

    def learned(self) -> dict[str, str]:
        """Image id -> SHA-256 of the labels that the last completed round's worker really read."""
        return next((dict(entry.read) for entry in reversed(self.rounds) if entry.status == DONE), {})
