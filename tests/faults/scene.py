"""A project, labels without end, and servers on it that can be killed and started again."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import requests

from lib.catalogue.label_store import LabelStore
from lib.volumes import encode
from tests.faults.ledger import EXTENSION, Ledger
from tests.journeys.live_server import Project, phantom_project
from tests.server.conftest import command, environment, free_port

LABELED_CASES = 12
"""The first cases of the project get labels, again and again; the others stay the unlabeled pool."""
START_SECONDS = 300
OPTIONS = ("--conf", "device", "cpu", "--conf", "threads", "1", "--conf", "debounce_s", "0.3")


class LabelSource:
    """Labels of a project's cases, each with bytes of its own, exactly as the server stores them."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._number = itertools.count(1)
        self._lock = threading.Lock()
        self._known = {case: self._read(case) for case in project.ids[:LABELED_CASES]}

    def next(self, case: str) -> bytes:
        """A label of `case` that was never made before: its number is written into 24 border voxels."""
        with self._lock:
            number = next(self._number)
        array, affine = self._known[case]
        array = array.copy()
        array[0, 0, :12] = [number >> bit & 1 for bit in range(12)]
        array[0, 1, :12] = [number >> bit & 1 for bit in range(12, 24)]
        return encode(array, affine, EXTENSION)

    def _read(self, case: str) -> tuple[np.ndarray, np.ndarray]:
        label = nib.load(self._project.reference(case))
        return np.asarray(label.dataobj).astype(np.uint8), np.asarray(label.affine, float)


@dataclass
class FaultServer:
    """One server process, started anew after each kill, always on the same port."""

    project: Project
    options: tuple[str, ...] = ()
    program: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.project.folder / f"server-{self.port}.txt"

    def start(self, **more_environment: str) -> float:
        """Start, and wait until it is ready; returns the seconds that took."""
        begun = time.monotonic()
        line = command("serve", "--studies", str(self.project.studies), "--port", str(self.port))
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.program, *line, *OPTIONS, *self.options],
                cwd=self.project.folder,
                env={**environment(), **more_environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        while time.monotonic() - begun < START_SECONDS:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(requests.RequestException):
                if requests.get(self.url + "/ready", timeout=10).status_code == 200:
                    return time.monotonic() - begun
            time.sleep(0.1)
        raise AssertionError(f"the server did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def kill(self) -> None:
        """As a power cut of this process would; its workers notice by themselves."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        """Ctrl-C, if it runs."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("the server did not end on Ctrl-C within 90 s") from None

    def get(self, path: str) -> Any:
        answer = requests.get(self.url + path, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def rounds(self) -> list[dict[str, Any]]:
        return list(self.get("/rounds")["rounds"])

    def put_label(self, case: str, content: bytes, timeout_s: float = 60) -> requests.Response:
        return requests.put(
            f"{self.url}/datastore/label?image={case}&tag=final",
            files={"label": (case + EXTENSION, content)},
            data={"params": json.dumps({"client_id": "faults"})},
            timeout=timeout_s,
        )

    def wait_for(self, wanted: Callable[[], Any], what: str, patience_s: float = START_SECONDS) -> Any:
        """Ask again until `wanted()` is truthy; AssertionError with the rounds and the log otherwise."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException):
                if found := wanted():
                    return found
            time.sleep(0.05)
        lines = self.log.read_text(errors="replace").splitlines()
        said = "\n".join([line for line in lines if "INFO server.request_log" not in line][-20:])
        rounds = json.dumps(self.rounds()[-3:], indent=1)
        raise AssertionError(f"waited {patience_s:.0f} s in vain for {what}:\n{rounds}\n{said}")


class Submitter:
    """A thread that submits labels, one after the other, and sends again what was not answered."""

    def __init__(
        self, servers: list[FaultServer], labels: LabelSource, ledger: Ledger, pause_s: float
    ) -> None:
        self._servers, self._labels, self._ledger, self._pause_s = servers, labels, ledger, pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._submit, daemon=True)
        self.refused: list[str] = []

    def __enter__(self) -> Submitter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=START_SECONDS)

    def _submit(self) -> None:
        cases = self._servers[0].project.ids[:LABELED_CASES]
        for turn in itertools.count():
            case = cases[turn % len(cases)]
            content = self._labels.next(case)
            digest = self._ledger.attempt(case, content)
            # To the end even when asked to stop: what may have arrived must be acknowledged by a repetition.
            for attempt in range(10_000):
                server = self._servers[(turn + attempt) % len(self._servers)]
                try:
                    answer = server.put_label(case, content)
                except requests.RequestException:
                    time.sleep(0.1)
                    continue
                if answer.status_code == 200:
                    self._ledger.acknowledge(case, digest)
                    break
                self.refused.append(f"{answer.status_code} {answer.text[:200]}")
                time.sleep(0.5)
            if self._stop.wait(self._pause_s):
                return


def make_project(folder: Path, cases: int) -> Project:
    """A project of tiny phantoms with a network that trains in a second."""
    project = phantom_project(folder, cases)
    project.set_training(steps=60, min_steps=60, save_every_s=0.2)
    return project


def check_all(server: FaultServer, ledger: Ledger) -> None:
    """Every acknowledged label is there once, byte for byte, and every model version loads."""
    from ugmcl.checkpoint import load_checkpoint

    workspace = server.project.workspace
    store = LabelStore(workspace / "labels")
    for case in list(ledger.acknowledged):
        acknowledged = ledger.acknowledged_of(case)
        current = server.project.studies / "labels" / "final" / (case + EXTENSION)
        for again in reversed(range(20)):
            before = current.read_bytes()
            versions = server.get(f"/datastore/label/history?label={case}")["versions"]
            settled = current.read_bytes() == before
            # A label on its way has its file a moment before its row.
            agrees = LabelStore.digest(before) in [v["sha256"] for v in versions if v["state"] == "active"]
            if settled and (agrees or not again):
                ledger.check(case, acknowledged, versions, store, before)
                break
            time.sleep(0.2)
        else:
            raise AssertionError(f"the label of {case} changed 20 times while its history was asked for")
    models = server.get("/models")["models"]
    assert sum(model["published"] for model in models) == bool(models), models
    for model in models:
        files = list((workspace / "models" / model["version"]).glob("*.pt"))
        assert files, f"version {model['version']} has no file"
        for file in files:
            load_checkpoint(file).build()
    running = [entry["id"] for entry in server.rounds() if entry["status"] == "running"]
    assert len(running) <= 1, f"several rounds run at once: {running}"


def wait_until_learned(server: FaultServer, ledger: Ledger) -> None:
    """The queue goes on by itself until a round has learned exactly the labels in effect."""
    project = server.project

    def learned() -> bool:
        rounds = server.rounds()
        done = [entry for entry in rounds if entry["status"] == "done"]
        if not done or any(entry["status"] in ("queued", "running") for entry in rounds):
            return False
        record = project.workspace / "models" / done[-1]["model_version"] / "record.json"
        read = {case["id"]: case["label_sha256"] for case in json.loads(record.read_text())["data"]}
        files = (project.studies / "labels" / "final").glob("*" + EXTENSION)
        in_effect = {
            path.name.removesuffix(EXTENSION): LabelStore.digest(path.read_bytes()) for path in files
        }
        return read == in_effect and set(ledger.acknowledged) <= set(in_effect)

    server.wait_for(learned, "a round that learned every label in effect")
    check_all(server, ledger)


def workers(server: FaultServer, kind: str) -> list[int]:
    """Process ids of the server's `train` or `score` workers."""
    assert server.process is not None
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if {"lib.worker", kind, "--parent", str(server.process.pid)} <= set(line):
                found.append(int(folder.name))
    return found


def kill_worker(pid: int) -> bool:
    """SIGKILL; whether it was still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
