"""Work off the main thread, whose outcome comes back on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .errors import AssistError

PATIENCE_S = 0.01
"""How long `tick` lets the worker have the interpreter. Slicer's event loop may keep the interpreter lock
between two calls of Python; a thread then moves on only while Python code waits. Too short to notice."""


class _Piece:
    """One piece of work: its thread fills in what came of it and touches nothing else."""

    def __init__(
        self, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        self._work, self._done, self._failed = work, done, failed
        self._result: Any = None
        self._error: Exception | None = None
        # A daemon: closing Slicer does not wait for a slow server.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ended(self, patience_s: float) -> bool:
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def hand_over(self) -> None:
        if self._error is not None:
            self._failed(self._error)
        else:
            self._done(self._result)

    def _run(self) -> None:
        try:
            self._result = self._work()
        except Exception as error:  # handed over, so that the main thread can say it
            self._error = error


class BackgroundWork:
    """One piece of work at a time; a timer calls `tick`, which hands over what came of it.

    Nodes and widgets belong to the main thread: `work` must not touch them, `done` and `failed` may.
    """

    def __init__(self) -> None:
        self._piece: _Piece | None = None

    @property
    def busy(self) -> bool:
        """Whether something has been started and its outcome not yet been handed over."""
        return self._piece is not None

    def start(
        self, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        """Run `work` in a thread; `tick` then calls `done` with its result, or `failed` with what it raised.

        Raises:
            AssistError: If the last piece of work is not finished.
        """
        if self.busy:
            raise AssistError("The last request is still running; wait until it is done.")
        self._piece = _Piece(work, done, failed)

    def tick(self, patience_s: float = PATIENCE_S) -> bool:
        """Give the worker a moment; hand over the outcome if there is one.

        Returns:
            Whether an outcome was handed over.
        """
        piece = self._piece
        if piece is None or not piece.ended(patience_s):
            return False
        self._piece = None  # first, so that the receiver may start the next piece of work
        piece.hand_over()
        return True

    def forget(self) -> None:
        """Let what runs run out, and hand nothing over."""
        self._piece = None
