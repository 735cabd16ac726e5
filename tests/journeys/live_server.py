"""Projects of scans with references, and real server processes on them."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests

from tests.server.conftest import APP, command, end, environment, free_port, write_phantoms
from ugmcl.config import replace
from ugmcl.preprocessing import orientation
from ugmcl.presets import preset

START_SECONDS = 180
"""Patience with a start: seconds on a quiet machine, minutes beside other tests."""
ROUND_SECONDS = 240
"""Patience with a round, likewise."""

SMALL = {"filters": (8, 16), "convolutions": (1, 1)}
"""A network that trains in milliseconds a step; what it learns does not matter to most journeys."""

# The stock client leaves its sockets and files to the garbage collector; that is its own business.
leaves_sockets_open = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@dataclass(frozen=True)
class Project:
    """A folder with `studies/` to serve and `reference/` with a label of every case, values 0 and 1."""

    folder: Path
    ids: list[str]

    @property
    def studies(self) -> Path:
        return self.folder / "studies"

    @property
    def workspace(self) -> Path:
        return self.studies / ".ugmcl"

    def image(self, case: str) -> Path:
        return self.studies / f"{case}.nii.gz"

    def reference(self, case: str) -> Path:
        return self.folder / "reference" / f"{case}.nii.gz"

    def put_label(self, case: str) -> None:
        """Lay the reference into the folder of final labels, as a person with a file manager would."""
        target = self.studies / "labels" / "final" / f"{case}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.reference(case), target)

    def set_training(
        self,
        network: dict[str, Any] | None = None,
        patch: tuple[int, int, int] | None = (16, 16, 16),
        labels: tuple[str, ...] = ("foreground",),
        **train: Any,
    ) -> None:
        """Leave the configuration of "an earlier round": a small network unless one is given ({}: the
        preset's own, as with no patch), and these training numbers."""
        header = nib.load(self.image(self.ids[0]))
        axes = orientation(np.asarray(header.affine, float))[0]
        shape = tuple(int(header.shape[axis]) for axis in axes)
        spacing = tuple(float(np.linalg.norm(header.affine[:3, axis])) for axis in axes)
        config = preset("default", labels, [shape], [spacing])
        config = replace(config, network=SMALL if network is None else network, train=train)
        if patch is not None:
            config = replace(config, preprocess={"patch": patch})
        folder = self.workspace / "training" / "work"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config.to_dict()))


def phantom_project(folder: Path, count: int) -> Project:
    """A project of generated scans."""
    return Project(folder, write_phantoms(folder / "studies", folder / "reference", count))


def hippocampus_project(folder: Path, source: Path, count: int, skip: int = 0) -> Project:
    """A project of copies of the first `count` real scans of the pool; both parts as one class."""
    pool = json.loads((source / "split.json").read_text())["pool"][skip : skip + count]
    project = Project(folder, sorted(str(name) for name in pool))
    project.studies.mkdir(parents=True)
    (folder / "reference").mkdir()
    for case in project.ids:
        shutil.copy(source / "images" / f"{case}.nii.gz", project.image(case))
        label = nib.load(source / "labels" / f"{case}.nii.gz")
        merged = (np.asarray(label.dataobj) > 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(merged, label.affine), project.reference(case))
    return project


@dataclass
class LiveServer:
    """A server process on a project."""

    project: Project
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    stopped: bool = field(default=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, self.url + path, timeout=120, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.request("POST", path, **options)

    def submit(self, case: str, params: dict[str, Any] | None = None) -> requests.Response:
        """Submit the reference of a case."""
        with self.project.reference(case).open("rb") as file:
            return self.request(
                "PUT",
                f"/datastore/label?image={case}&tag=final",
                files={"label": (f"{case}.nii.gz", file)},
                data={"params": json.dumps(params or {})},
            )

    def infer(self, case: str, **params: Any) -> requests.Response:
        answer = self.post(f"/infer/ugmcl?image={case}", data={"params": json.dumps(params)})
        assert answer.status_code == 200, answer.text[:1000]
        return answer

    def rounds(self) -> list[dict[str, Any]]:
        answer = self.get("/rounds")
        assert answer.status_code == 200, f"{answer.text}\n{self.said()}"
        found: list[dict[str, Any]] = answer.json()["rounds"]
        return found

    def wait_for_round(
        self, wanted: Callable[[dict[str, Any]], bool], patience_s: float = ROUND_SECONDS
    ) -> dict[str, Any]:
        """The newest round that is as wanted, once there is one."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            found = [entry for entry in self.rounds() if wanted(entry)]
            if found:
                return found[-1]
            time.sleep(0.1)
        raise AssertionError(f"no such round: {json.dumps(self.rounds(), indent=1)}\n{self.said()}")

    def wait_for_labels(self, *cases: str, patience_s: float = ROUND_SECONDS) -> dict[str, Any]:
        """The first finished round with exactly these labels; a failed round fails the test."""

        def finished(entry: dict[str, Any]) -> bool:
            assert entry["status"] != "failed" or "interrupted" in entry["reason"], entry
            return entry["status"] == "done" and set(entry["labeled_ids"]) == set(cases)

        return self.wait_for_round(finished, patience_s)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """Ctrl-C; a server that does not end within 60 s is killed and reported."""
        if self.stopped:
            return
        self.stopped = True
        assert end(self.process, signal.SIGINT), f"the server did not end on Ctrl-C:\n{self.said()}"

    def kill(self) -> None:
        """As a power cut would end it."""
        self.stopped = True
        self.process.kill()
        self.process.wait(30)


CPU = ("--conf", "device", "cpu", "--conf", "threads", "1")


@contextlib.contextmanager
def serving(project: Project, *options: str, pacs: str = "") -> Iterator[LiveServer]:
    """`ugmcl-assist serve` on a project, with one CPU thread a round; on the PACS at this address, if any."""
    port = free_port()
    line = command("serve", "--studies", pacs or str(project.studies), "--port", str(port), *CPU, *options)
    with _running(project, port, line) as server:
        yield server


@contextlib.contextmanager
def stock_serving(project: Project, *options: str) -> Iterator[LiveServer]:
    """`monailabel start_server` in its module form, with this app."""
    port = free_port()
    line = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(APP)]
    line += ["--studies", str(project.studies), "--host", "127.0.0.1", "--port", str(port), *CPU, *options]
    with _running(project, port, line, "/info/") as server:
        yield server


@contextlib.contextmanager
def _running(
    project: Project, port: int, line: Sequence[str], probe: str = "/health"
) -> Iterator[LiveServer]:
    log = project.folder / "server-output.txt"
    with log.open("ab") as output:
        process = subprocess.Popen(
            line,
            cwd=project.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = LiveServer(project, port, process, log)
    try:
        _wait_until_up(server, probe)
        yield server
    finally:
        server.stop()


def _wait_until_up(server: LiveServer, probe: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            if requests.get(server.url + probe, timeout=30).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the server did not start:\n{server.said()}")
