"""One real server on a generated studies folder, shared by the journeys; phantoms of a bright ball in noise."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (24, 20, 16)
START_SECONDS = 120


def phantom(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A noisy scan with a bright ball, the ball's label, and an oblique affine."""
    random = np.random.default_rng(seed)
    center = np.array(SHAPE) / 2 + random.uniform(-2, 2, 3)
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices(SHAPE), center, strict=True)))
    label = (distance < random.uniform(4.5, 6.5)).astype(np.uint8)
    image = (random.normal(100, 12, SHAPE) + 80 * label).astype(np.float32)
    affine = np.diag([1.5, 1.5, 2.0, 1.0])
    turn = 0.2
    affine[:2, :2] = 1.5 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    affine[:3, 3] = [-12.0, 8.0, 3.0]
    return image, label, affine


def write_phantoms(studies: Path, labels: Path, count: int) -> list[str]:
    """Write `case_00.nii.gz` ... and their reference labels; return the ids."""
    labels.mkdir(parents=True, exist_ok=True)
    studies.mkdir(parents=True, exist_ok=True)
    names = [f"case_{seed:02d}" for seed in range(count)]
    for seed, name in enumerate(names):
        image, label, affine = phantom(seed)
        nib.save(nib.Nifti1Image(image, affine), studies / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), labels / f"{name}.nii.gz")
    return names


@dataclass
class Server:
    """A running `ugmcl-assist serve`."""

    url: str
    studies: Path
    labels: Path
    log: Path
    cases: list[str]
    process: subprocess.Popen[bytes]
    before_model: dict[str, requests.Response] = field(default_factory=dict)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=60, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=60, **options)

    def put(self, path: str, **options: Any) -> requests.Response:
        return requests.put(self.url + path, timeout=60, **options)

    def submit(self, case: str, **params: Any) -> requests.Response:
        """Submit the reference label of a case, as the expert would."""
        with (self.labels / f"{case}.nii.gz").open("rb") as file:
            return self.put(
                f"/datastore/label?image={case}", files={"label": (f"{case}.nii.gz", file)}, **params
            )

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file of the project, without the workspace, with size and time of change."""
        found = (path for path in self.studies.rglob("*") if path.is_file() and ".ugmcl" not in path.parts)
        return {str(path.relative_to(self.studies)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "server.cli", *arguments]


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("UGMCL_", "MONAI_LABEL_"))}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "apps" / "ugmcl_app")])}


@contextlib.contextmanager
def running_server(folder: Path, cases: int, *options: str) -> Iterator[Server]:
    """Start a server on `cases` phantoms in `folder`; end it with Ctrl-C."""
    names = write_phantoms(folder / "studies", folder / "reference", cases)
    log, port = folder / "server-output.txt", free_port()
    arguments = command("serve", "--studies", str(folder / "studies"), "--port", str(port), *options)
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, cwd=folder, env=environment(), stdout=output, stderr=output, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{port}", folder / "studies", folder / "reference", log, names, process)
    try:
        wait_until_up(server)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_up(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(requests.ConnectionError):
            if server.get("/health").status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{server.log.read_text()[-3000:]}")


def wait_for_rounds(server: Server, seconds: float = 90) -> list[dict[str, Any]]:
    """Wait until no round is queued or running, and return all of them."""
    deadline = time.monotonic() + seconds
    while True:
        rounds = server.get("/rounds").json()["rounds"]
        if rounds and all(entry["status"] not in ("queued", "running") for entry in rounds):
            return list(rounds)
        assert time.monotonic() < deadline, rounds
        time.sleep(0.3)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with four phantoms that has made one model; what it answered before is in `before_model`."""
    folder = tmp_path_factory.mktemp("served")
    options = ("--conf", "round_seconds", "5", "--conf", "debounce_s", "0.5", "--conf", "threads", "2")
    with running_server(folder, 5, *options, "--max-body-mib", "2") as running:
        case = running.cases[3]
        running.before_model = {
            "ready": running.get("/ready"),
            "info": running.get("/info/"),
            "infer": running.post(f"/infer/ugmcl?image={case}"),
            "uncertainty": running.get(f"/uncertainty/{case}"),
            "next": running.post("/activelearning/most_uncertain", json={}),
            "train": running.post("/train/ugmcl", json={}),
            "idle": running.get("/train/?check_if_running=true"),
        }
        assert running.submit(running.cases[0]).status_code == 200
        assert running.submit(running.cases[1]).status_code == 200
        wait_for_rounds(running)
        yield running
