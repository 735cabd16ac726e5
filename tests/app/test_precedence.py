"""A worker rests while an inference runs in any process of the machine, and never for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib import precedence
from lib.precedence import inference, is_wanted, lock_file

WORKER = """
import sys, time
from pathlib import Path
from lib import precedence
precedence.LONGEST_REST_S = float(sys.argv[2])
precedence.Resting(Path(sys.argv[1]), lambda: False)
steps = 0
while True:
    steps += 1
    Path(sys.argv[3]).write_text(str(steps))
    time.sleep(0.005)
"""
INFERENCE = """
import sys, time
from pathlib import Path
from lib.precedence import inference
with inference(Path(sys.argv[1])):
    print("running", flush=True)
    time.sleep(600)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "inference.lock"


@pytest.fixture
def start(lock: Path) -> Iterator[Start]:
    begun: list[subprocess.Popen[str]] = []

    def run(program: str, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-c", program, str(lock), *arguments]
        begun.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    yield run
    for process in begun:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Steps:
    """How far the worker is."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self) -> int:
        try:
            return int(self._file.read_text() or 0)
        except (OSError, ValueError):
            return 0

    def advance(self, seconds: float = 60.0) -> None:
        """Wait until it goes on."""
        before, deadline = self(), time.monotonic() + seconds
        while self() <= before:
            assert time.monotonic() < deadline, "the worker rests"
            time.sleep(0.02)

    def come_to_rest(self, seconds: float = 60.0) -> None:
        """Wait until it makes no step for a moment."""
        deadline = time.monotonic() + seconds
        while True:
            before = self()
            time.sleep(0.5)
            if self() == before:
                return
            assert time.monotonic() < deadline, "the worker works on"


def test_a_worker_rests_during_an_inference_of_any_process_and_goes_on_after_it(
    start: Start, lock: Path, tmp_path: Path
) -> None:
    steps = Steps(tmp_path / "steps")
    worker = start(WORKER, "600", str(tmp_path / "steps"))
    steps.advance()
    with inference(lock), inference(lock):
        steps.come_to_rest()
    steps.advance()
    other = start(INFERENCE)
    assert other.stdout is not None
    assert other.stdout.readline() == "running\n"
    steps.come_to_rest()
    other.kill()  # a server that dies in an inference takes its lock along
    steps.advance()
    assert worker.poll() is None


def test_a_worker_at_rest_still_hears_that_it_is_to_end(start: Start, lock: Path, tmp_path: Path) -> None:
    steps = Steps(tmp_path / "steps")
    worker = start(WORKER, "600", str(tmp_path / "steps"))
    steps.advance()
    with inference(lock):
        steps.come_to_rest()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == -signal.SIGTERM


def test_a_stream_of_inferences_slows_a_worker_down_and_does_not_end_it(
    start: Start, lock: Path, tmp_path: Path
) -> None:
    steps = Steps(tmp_path / "steps")
    start(WORKER, "0.5", str(tmp_path / "steps"))
    steps.advance()
    with inference(lock):
        for _ in range(3):
            steps.advance()


def test_without_a_place_for_the_lock_inferences_are_answered_all_the_same(tmp_path: Path) -> None:
    absent = tmp_path / "absent" / "lock"
    with inference(absent):
        assert not is_wanted(absent)


def test_each_project_has_a_lock_of_its_own_and_inferences_share_it(lock: Path) -> None:
    assert lock_file(Path("/one")) != lock_file(Path("/other"))
    assert not is_wanted(lock)
    with inference(lock), inference(lock):
        assert is_wanted(lock)
    assert not is_wanted(lock)


def test_the_numbers_leave_training_a_share() -> None:
    assert precedence.LOOK_S < precedence.LINGER_S < precedence.LONGEST_REST_S
    assert 0 < precedence.RUN_SHARE < 1
