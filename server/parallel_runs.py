"""parallel_runs: the runs of an experiment side by side, each in a process of its own.

Small networks use two threads badly (every layer waits for the slower one); two processes of one thread each
do more steps in the same wall time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

POLL_S = 0.5


def run_side_by_side(
    threads: Mapping[str, int],
    arguments: Sequence[str],
    logs: Path,
    most: int,
    finished: Callable[[str], None],
    stopped: Callable[[], bool],
) -> bool:
    """Run `python -m server.experiments ARGUMENTS --only NAME` for every name, as many as have threads.

    Args:
        threads: Names of runs and the CPU threads of each, in the order in which they start.
        arguments: Of the command that was given; every run gets them, with its own name and figures.
        logs: Folder for the output of each run.
        most: CPU threads of all that run at once; a run that has more runs alone.
        finished: Called in this process after each run that ended well.
        stopped: True asks every run to stop where it can be resumed.

    Returns:
        False when stopped before the end.

    Raises:
        ValueError: When a run fails, naming its log; the others are stopped first.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, active = list(threads), dict[str, subprocess.Popen[bytes]]()
    try:
        while waiting or active:
            free = most - sum(threads[name] for name in active)
            following = [name for name in waiting if threads[name] <= free or not active]
            if following and not stopped():
                waiting.remove(following[0])
                active[following[0]] = _start(following[0], arguments, logs)
                continue
            for name, run in list(active.items()):
                status = run.poll()
                if status is None:
                    continue
                del active[name]
                if status == 0:
                    finished(name)
                elif not stopped():
                    raise ValueError(f"{name} failed; {logs / name}.log says why.")
            if stopped() and not active:
                return False
            if stopped():
                _stop(active)
            time.sleep(POLL_S)
    finally:
        _stop(active)
        for run in active.values():
            run.wait()
    return True


def _start(name: str, arguments: Sequence[str], logs: Path) -> subprocess.Popen[bytes]:
    own = ["--only", name, "--threads", "1", "--out", str(logs / f"{name}.json")]
    command = [sys.executable, "-m", "server.experiments", *arguments, *own]
    # OpenMP's waiting threads spin by default, which two processes on the same cores pay for.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with (logs / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _stop(active: dict[str, subprocess.Popen[bytes]]) -> None:
    for run in active.values():
        if run.poll() is None:
            run.terminate()
