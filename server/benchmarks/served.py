"""A server of a benchmark's own on generated scans, ended with the benchmark."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import requests
from numpy.typing import NDArray

from server.demo_launch import command, free_port
from server.stock_host import app_folder

START_S = 600.0
"""Patience with a start: importing takes most of a minute, and taking in 100,000 new scans a few more."""
STOP_S = 60.0

# In a process of its own: the server must load the app's modules afresh, as the host wants it.
_TINY_MODEL = """
import sys
import torch
from lib.registry import ModelRegistry
from lib.workspace import Workspace
from ugmcl.checkpoint import Checkpoint
from ugmcl.config import Config, NetworkConfig, PreprocessConfig
from ugmcl.network import DualTaskVNet
torch.manual_seed(0)
network = NetworkConfig(1, (4, 8), (1, 1))
config = Config(preprocess=PreprocessConfig((1.0, 1.0, 1.0), (16, 16, 16)), network=network)
registry = ModelRegistry(Workspace.of(sys.argv[1]))
registry.publish(registry.add(Checkpoint.of(DualTaskVNet(network), config), "r0001", None, {}))
"""


class Served(NamedTuple):
    """A running server.

    Attributes:
        url: As in http://127.0.0.1:8000.
        start_s: Seconds from the command to the first answer of `/ready`.
        pid: Its process.
    """

    url: str
    start_s: float
    pid: int

    def cpu_s(self) -> float:
        """Processor seconds that it has used; unlike what a clock says, other programs hardly change that."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_scans(folder: Path, count: int, shape: tuple[int, int, int]) -> list[str]:
    """Write `count` small different scans of noise as `.nii`; returns their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    image = nib.Nifti1Image(noise, np.eye(4))
    image.header.set_xyzt_units("mm")
    content = bytearray(image.to_bytes())
    ids = [f"case_{number:06d}" for number in range(count)]
    for number, case_id in enumerate(ids):
        content[-4:] = number.to_bytes(4, "little")
        (folder / f"{case_id}.nii").write_bytes(content)
    return ids


def write_label(path: Path, shape: tuple[int, int, int], number: int) -> NDArray[np.uint8]:
    """Write a label whose voxels tell `number`, so that no other one can be taken for it; returns them."""
    array = np.zeros(shape, np.uint8)
    array[2:-2, 2:-2, 1:-1] = 1
    array[0, :, :].flat[: min(32, array[0].size)] = [
        number >> bit & 1 for bit in range(min(32, array[0].size))
    ]
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return array


def add_tiny_model(studies: Path) -> None:
    """Publish a small untrained model in the project of a folder."""
    subprocess.run([sys.executable, "-c", _TINY_MODEL, str(studies)], env=app_environment(), check=True)


@contextlib.contextmanager
def serving(studies: Path, log: Path, settings: dict[str, str]) -> Iterator[Served]:
    """`ugmcl-assist serve` on a folder.

    Raises:
        RuntimeError: When it does not come up; with the last lines of its log.
    """
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command(studies, port, settings),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=app_environment(),
            start_new_session=True,  # Ctrl-C reaches the benchmark first, which then ends the server
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url, log)
        yield Served(url, time.monotonic() - begun, process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, int(np.ceil(share * len(ordered))) - 1))]


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/ready", timeout=10).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"The server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def app_environment() -> dict[str, str]:
    """Environment of a process that imports the app."""
    path = os.pathsep.join([str(app_folder()), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}
