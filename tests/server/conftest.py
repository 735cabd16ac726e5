"""Real servers on generated studies folders, shared by the journeys; phantoms of a bright ball in noise."""

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

from tests import light_process

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "apps" / "ugmcl_app"
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
    app_before: set[str]
    versions: list[str] = field(default_factory=list)

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
        return {
            str(path.relative_to(self.studies)): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in found
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "server.cli", *arguments]


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("UGMCL_", "MONAI_LABEL_"))}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), str(APP)])}


@contextlib.contextmanager
def running_server(folder: Path, cases: int, *options: str) -> Iterator[Server]:
    """Start a server on `cases` phantoms in `folder`; end it with Ctrl-C."""
    names = write_phantoms(folder / "studies", folder / "reference", cases)
    log, port = folder / "server-output.txt", free_port()
    app_before = set(os.listdir(APP))
    arguments = command("serve", "--studies", str(folder / "studies"), "--port", str(port), *options)
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, cwd=folder, env=environment(), stdout=output, stderr=output, start_new_session=True
        )
    server = Server(
        f"http://127.0.0.1:{port}", folder / "studies", folder / "reference", log, names, process, app_before
    )
    try:
        wait_until_up(server)
        yield server
    finally:
        end(process, signal.SIGINT)


def end(process: subprocess.Popen[bytes], number: signal.Signals, patience_s: float = 60) -> bool:
    """End a process by a signal; False if it did not end by itself in time, and was killed."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)
        return False
    return True


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


def add_models(studies: Path, count: int) -> list[str]:
    """Put `count` small untrained models into the workspace, publish the last; return the versions."""
    # In a process of its own: the server's tests must not load the app's modules into this one.
    program = (
        "import sys\n"
        "from lib.registry import ModelRegistry\n"
        "from lib.workspace import Workspace\n"
        "from ugmcl.checkpoint import Checkpoint\n"
        "from ugmcl.config import Config, NetworkConfig, PreprocessConfig\n"
        "from ugmcl.network import DualTaskVNet\n"
        "import torch\n"
        "network = NetworkConfig(1, (4, 8, 8), (1, 1, 1))\n"
        "config = Config(preprocess=PreprocessConfig((1.5, 1.5, 2.0), (16, 16, 16)), network=network)\n"
        "registry = ModelRegistry(Workspace.of(sys.argv[1]))\n"
        "for seed in range(int(sys.argv[2])):\n"
        "    torch.manual_seed(seed)\n"
        "    checkpoint = Checkpoint.of(DualTaskVNet(network), config)\n"
        "    version = registry.add(checkpoint, f'r{seed}', None, {'seed': seed})\n"
        "    registry.publish(version)\n"
        "    print(version)\n"
    )
    made = subprocess.run(
        light_process.command(program, studies, count),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout.split()


# No round starts by itself: these tests are about the server, and a round would take the processor from them.
QUIET = ("--conf", "min_labels", "100", "--conf", "device", "cpu", "--conf", "threads", "1")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with five phantoms, labels for the first two, two model versions, a body limit of 2 MiB."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "studies").mkdir()
    versions = add_models(folder / "studies", 2)
    with running_server(folder, 5, *QUIET, "--max-body-mib", "2") as running:
        running.versions = versions
        for case in running.cases[:2]:
            answer = running.submit(case)
            assert answer.status_code == 200, answer.text
        yield running


@pytest.fixture(scope="session")
def empty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two phantoms, no label and no model, that a page on `http://viewer.example` may call."""
    folder = tmp_path_factory.mktemp("empty")
    with running_server(folder, 2, *QUIET, "--allow-origin", "http://viewer.example") as running:
        yield running
