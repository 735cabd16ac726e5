"""worker_process: run `python -m lib.worker` as a child process and read its JSON lines.

The server must answer while a network trains, so training and scoring live in processes of their own: with
their own memory, a lower priority, and a process group that a signal can reach without touching the server.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

APP_FOLDER = Path(__file__).resolve().parent.parent
STOP_GRACE_S = (
    60.0  # a worker on a busy processor or a slow disk needs this long to write its state after SIGTERM
)

Event = dict[str, Any]


@dataclass
class WorkerOutcome:
    """How a worker ended.

    Attributes:
        result: The worker's last `{"event": "result"}` line, or None when it ended without one.
        error: A sentence naming why there is no result; empty when there is one.
        raised: True when the worker itself reported an error, so that its saved state is suspect.
    """

    result: Event | None = None
    error: str = ""
    raised: bool = False


@dataclass
class WorkerProcess:
    """One worker, from start to exit; `run` blocks, `stop` may come from any thread, before `run` too.

    Attributes:
        arguments: Command line after `python -m lib.worker`.
        nice: Added niceness, 0 to 19.
        threads: Threads each numeric library may use; 0 leaves their own choice.
        on_event: Called on the running thread for every JSON line but the result and the error.
    """

    arguments: list[str]
    nice: int = 10
    threads: int = 0
    on_event: Callable[[Event], None] = lambda event: None
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=20))

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._stopped = False

    def run(self) -> WorkerOutcome:
        """Start the worker and wait for its end; never raises for what happens inside the worker, and stops
        it where `on_event` raises."""
        with self._lock:
            if self._stopped:
                return WorkerOutcome(error="The worker was stopped before it started.")
            self._child = self._spawn()
        child = self._child
        error_reader = threading.Thread(target=self._read_errors, args=(child,), daemon=True)
        error_reader.start()
        outcome = WorkerOutcome()
        assert child.stdout is not None
        try:
            with child.stdout:
                for line in child.stdout:
                    self._take(line, outcome)
        except BaseException:
            self.stop()
            raise
        code = child.wait()
        error_reader.join(timeout=5)
        if outcome.result is None and not outcome.error:
            outcome.error = self._explain(code)
        return outcome

    def stop(self) -> None:
        """Ask the worker to save its state and exit, and kill it if it has not in 60 s. Returns at once."""
        with self._lock:
            first, self._stopped = not self._stopped, True
            child = self._child
        if child is None or not first:
            return
        self._signal(child, signal.SIGTERM)
        timer = threading.Timer(STOP_GRACE_S, self._signal, (child, signal.SIGKILL))
        timer.daemon = True
        timer.start()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def _spawn(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "lib.worker",
                *self.arguments,
                "--nice",
                str(self.nice),
                "--parent",
                str(os.getpid()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=worker_environment(os.environ, self.threads),
            # Away from the server's group: Ctrl-C in the terminal must not kill a round before it saved its
            # state.
            start_new_session=True,
        )

    def _take(self, line: str, outcome: WorkerOutcome) -> None:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            event = None
        if not isinstance(event, dict):  # printed by some library; a number alone is JSON, too
            self.last_lines.append(line.rstrip())
            return
        if event.get("event") == "result":
            outcome.result = event
        elif event.get("event") == "error":
            outcome.error, outcome.raised = str(event.get("sentence")), True
        else:
            self.on_event(event)

    def _read_errors(self, child: subprocess.Popen[str]) -> None:
        assert child.stderr is not None
        with child.stderr:
            for line in child.stderr:
                if line.strip():
                    self.last_lines.append(line.rstrip())
                    logger.debug("worker %d: %s", child.pid, line.rstrip())

    def _explain(self, code: int) -> str:
        last = f" Its last line was: {self.last_lines[-1]}" if self.last_lines else ""
        if code < 0:
            return f"The worker was ended by signal {signal.Signals(-code).name}.{last}"
        return f"The worker exited with code {code} and no result.{last}"

    @staticmethod
    def _signal(child: subprocess.Popen[str], number: signal.Signals) -> None:
        if child.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):  # it ended between the two lines
            os.killpg(child.pid, number)


def worker_environment(inherited: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of a worker: the server's, with the app folder importable and the thread counts set."""
    environment = dict(inherited)
    # Waiting threads sleep instead of spinning. Beside a server that also computes, spinning doubled the CPU
    # seconds of a training step and its duration [M: 0.53-0.78 against 0.25 CPU s, 2 threads on busy cores].
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    paths = [str(APP_FOLDER), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
    environment["PYTHONUNBUFFERED"] = "1"
    if threads > 0:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(threads)
    return environment
