"""A real project to review: two rounds of a tiny network, two readers, a case of an awful name."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.server.conftest import Server, running_server, write_phantoms
from ugmcl.config import Config, InferConfig, NetworkConfig, PreprocessConfig, TrainConfig

AWFUL = "<b onclick=alert(1)>&'\"#?%20"
"""As a case is called (a file name may be), and a reader: where it is not escaped, markup breaks."""
WAIT_S = 270
OPTIONS = (
    "--conf", "min_labels", "4", "--conf", "debounce_s", "0.2", "--conf", "round_seconds", "5",
    "--conf", "device", "cpu", "--conf", "threads", "1",
)  # fmt: skip


def tiny_config() -> Config:
    """A network that trains in a second."""
    return Config(
        preprocess=PreprocessConfig((1.5, 1.5, 2.0), (16, 16, 16)),
        network=NetworkConfig(1, (4, 8), (1, 1)),
        train=TrainConfig(steps=4, min_steps=4, mc_samples=2, pool_mib=16),
        infer=InferConfig(mc_samples=2),
    )


@contextlib.contextmanager
def reviewed_project(folder: Path) -> Iterator[Server]:
    """A running server after two rounds on four and five labels; three cases, one awful, have no label."""
    studies = folder / "studies"
    write_phantoms(studies, folder / "reference", 7)
    shutil.copy(studies / "case_06.nii.gz", studies / f"{AWFUL}.nii.gz")
    work = studies / ".ugmcl" / "training" / "work"
    work.mkdir(parents=True)
    (work / "config.json").write_text(json.dumps(tiny_config().to_dict()))
    with running_server(folder, 7, *OPTIONS) as server:
        for number in range(4):
            _submit(server, f"case_0{number}", "ann" if number else AWFUL)
        _wait_for(server, lambda: _done(server) == 1)
        _submit(server, "case_04", "ann")
        assert server.post("/train/ugmcl", json={}).status_code == 200
        _wait_for(server, lambda: _done(server) == 2)
        server.versions = [entry["version"] for entry in server.get("/models").json()["models"]]
        _wait_for(server, lambda: _drafted(server) == 3)
        yield server


def live(server: Server) -> str:
    """The live version."""
    listed = server.get("/models").json()["models"]
    return str(next(entry["version"] for entry in listed if entry["published"]))


def _submit(server: Server, case: str, reader: str) -> None:
    answer = server.submit(case, data={"params": json.dumps({"client_id": reader, "comment": AWFUL})})
    assert answer.status_code == 200, answer.text


def _done(server: Server) -> int:
    rounds = server.get("/rounds").json()["rounds"]
    assert not [entry for entry in rounds if entry["status"] == "failed"], rounds
    return sum(entry["status"] == "done" for entry in rounds)


def _drafted(server: Server) -> int:
    """How many of the unlabeled cases the live model has looked at: its drafts follow its scores."""
    return server.get("/review/cases").text.count(f">model {live(server)}<")


def _wait_for(server: Server, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, server.log.read_text()[-3000:]
        time.sleep(0.3)
