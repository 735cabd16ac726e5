"""Fixtures of the viewer journeys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.live_server import LiveServer
from tests.viewers.landmark_project import (
    MODULE_READER,
    PICTURED,
    STOCK_READER,
    TRAINED,
    trained_landmark_server,
)
from tests.viewers.slicer_facts import replies_of

ROOT = Path(__file__).resolve().parents[2]
OUR_MODULE = ROOT / "apps" / "ugmcl_app" / "slicer"
PROGRAM_SECONDS = 900
"""Patience with a program in Slicer's environment; it takes a minute on a quiet machine."""

RunInSlicer = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def slicer_python() -> Path:
    """Python with slicer-core, which `make test-viewers` installs; `UGMCL_SLICER_PYTHON` names another."""
    named = os.environ.get("UGMCL_SLICER_PYTHON")
    found = Path(named) if named else ROOT / "build" / "slicer-venv" / "bin" / "python"
    if not found.is_file():
        pytest.skip(
            f"there is no {found}: `make test-viewers` installs slicer-core there, where it can be had"
        )
    return found


@pytest.fixture(scope="session")
def run_in_slicer(slicer_python: Path, tmp_path_factory: pytest.TempPathFactory) -> RunInSlicer:
    """Runs a program of `slicer_side` and returns its facts, with the folder of its files as `folder`."""

    def run(program: str, *arguments: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(program)
        url, reader, module = arguments
        line = [str(slicer_python), "-m", f"tests.viewers.slicer_side.{program}"]
        # The app's folder `slicer` must not show beside Slicer's own package of that name.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(
            [*line, url, reader, str(folder), module],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROGRAM_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{program} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return {**json.loads((folder / "facts.json").read_text()), "folder": folder}

    return run


@pytest.fixture(scope="session")
def landmark_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with trained_landmark_server(tmp_path_factory.mktemp("landmarks") / "project") as server:
        yield server


@pytest.fixture(scope="session")
def module_facts(run_in_slicer: RunInSlicer, landmark_server: LiveServer) -> dict[str, Any]:
    """What our module's loop through its cases found; `replies` are the server's, by the same model."""
    _roll_back(landmark_server)
    replies = replies_of(landmark_server, [case for case in landmark_server.project.ids if _is_ours(case)])
    facts = run_in_slicer("module_loop", landmark_server.url, MODULE_READER, str(OUR_MODULE))
    return {**facts, "replies": replies}


@pytest.fixture(scope="session")
def stock_facts(run_in_slicer: RunInSlicer, landmark_server: LiveServer) -> dict[str, Any]:
    """What the stock module's loop through its cases found; its code comes with monailabel."""
    stock = Path(sys.prefix) / "monailabel" / "plugins" / "slicer" / "MONAILabel"
    if not stock.is_dir():
        pytest.skip(f"this installer of monailabel left its Slicer module out of {stock}; pip puts it there")
    _roll_back(landmark_server)
    replies = replies_of(landmark_server, [c for c in landmark_server.project.ids if c.startswith("stock_")])
    facts = run_in_slicer("stock_loop", landmark_server.url, STOCK_READER, str(stock))
    return {**facts, "replies": replies}


def _roll_back(server: LiveServer) -> None:
    """To the model that knows planes alone: each loop ends with a round on the ellipsoids that it drew."""
    first = min(model["version"] for model in server.get("/models").json()["models"])
    assert server.post(f"/models/{first}/publish", json={}).status_code == 200


def _is_ours(case: str) -> bool:
    return case not in (*TRAINED, PICTURED) and not case.startswith("stock_")
