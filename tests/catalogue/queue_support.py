"""Servers of rounds in this process and in others, for the tests of the queue."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.registry import ModelRegistry
from lib.rounds import RoundQueue
from lib.scores import ScoreBoard
from lib.workspace import Workspace
from tests import light_process
from tests.app.round_support import ReadingWorker, Studies, settings

SERVER = """
import sys, threading
from tests.catalogue.queue_support import open_queue
folder, url, seconds = sys.argv[1:]
queue = open_queue(folder, url, float(seconds))
queue.start()
print("serving", flush=True)
threading.Event().wait()
"""


def open_queue(folder: Path | str, url: str, seconds: float = 0.0, **values: Any) -> RoundQueue:
    """A queue as a server of its own has it, whose workers take some seconds and really read their labels."""
    studies = Studies(Path(folder))
    workspace = Workspace.of(studies.folder, database_url=url)
    return RoundQueue(
        studies, ModelRegistry(workspace), workspace, ScoreBoard(workspace), settings(**values),
        make_worker=lambda job, on_event: ReadingWorker(job, seconds), score_pool=False,
    )  # fmt: skip


def close(queue: RoundQueue) -> None:
    queue.stop()
    queue.service._store.database.close()


def start_server(folder: Path, url: str, seconds: float) -> subprocess.Popen[str]:
    """Another process that serves the rounds; returns when it does."""
    process = subprocess.Popen(
        light_process.command(SERVER, folder, url, seconds),
        env=light_process.environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "serving\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def wait_for(condition: Callable[[], Any], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def statuses(queue: RoundQueue) -> list[str]:
    return [entry["status"] for entry in queue.list()]
