"""precedence: an interactive inference goes before training and scoring on the same machine.

While a person waits for an inference, its process holds a shared file lock. A worker looks for that lock and
rests as long as it is held. Nothing can stay at rest by accident: the kernel drops the lock with its process,
however that ends, and it is the worker itself that rests, so it hears its signals, and it goes on by itself
after `LONGEST_REST_S`. Stopping it from outside (SIGSTOP) would be simpler, but a worker whose server is
killed meanwhile would stay stopped for ever, with the lock on the training state.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

LOOK_S = 0.02
LINGER_S = 0.3
"""The next inference often follows at once; a training step in between would only be in its way."""
LONGEST_REST_S = 10.0
RUN_SHARE = 0.1
"""Of the longest rest: how long a worker runs after it before it rests again, so that a steady stream of
inferences slows training down and does not end it."""


def lock_file(workspace: Path) -> Path:
    """The lock of a project on this machine; not in the workspace, which other machines may share."""
    digest = hashlib.sha256(str(workspace).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ugmcl-inference-{os.getuid()}-{digest}.lock"


@contextlib.contextmanager
def inference(lock: Path) -> Iterator[None]:
    """Let workers of the project rest while the block runs."""
    with contextlib.ExitStack() as stack:
        try:
            stack.callback(os.close, _locked(lock, fcntl.LOCK_SH))
        except OSError as error:  # a full or foreign temporary folder must not cost an answer
            logger.warning("Training does not rest during inferences (%s).", error.strerror)
        yield


def is_wanted(lock: Path) -> bool:
    """Whether an inference runs."""
    try:
        os.close(_locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _locked(lock: Path, how: int) -> int:
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, how)
    except OSError:
        os.close(handle)
        raise
    return handle


class Resting:
    """Lets the main thread of a worker rest during inferences, between two operations of whatever it does.

    Args:
        lock: Of the project.
        ended: Whether the worker is to end; it then rests no more.
    """

    def __init__(self, lock: Path, ended: Callable[[], bool]) -> None:
        self._lock, self._ended = lock, ended
        self._resting = False
        self._not_before = 0.0
        self._main = threading.main_thread().ident
        signal.signal(signal.SIGUSR1, self._rest)
        threading.Thread(target=self._look, daemon=True, name="precedence").start()

    def _look(self) -> None:
        assert self._main is not None
        while True:
            time.sleep(LOOK_S)
            if not self._resting and time.monotonic() >= self._not_before and is_wanted(self._lock):
                # Python runs the handler in the main thread as soon as its present operation is done.
                signal.pthread_kill(self._main, signal.SIGUSR1)

    def _rest(self, number: int, frame: object) -> None:
        if self._resting:
            return
        self._resting = True
        begun = wanted = time.monotonic()
        try:
            while not self._ended():
                now = time.monotonic()
                if now - begun > LONGEST_REST_S:
                    self._not_before = now + RUN_SHARE * LONGEST_REST_S
                    return
                if is_wanted(self._lock):
                    wanted = now
                elif now - wanted > LINGER_S:
                    return
                time.sleep(LOOK_S)
        finally:
            self._resting = False
