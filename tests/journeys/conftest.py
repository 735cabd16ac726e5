"""Fixtures of the journeys: the stock client, and projects of phantoms or of real scans."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from monailabel.client.client import MONAILabelClient

from tests.journeys.live_server import LiveServer, Project, hippocampus_project, phantom_project

MakeProject = Callable[[str, int], Project]


@pytest.fixture
def stock_client(tmp_path: Path) -> Iterator[Callable[[LiveServer], MONAILabelClient]]:
    """Connects the stock client to a server; its results land in a folder of the test's own."""
    folder = tmp_path / "client"
    folder.mkdir()
    yield lambda server: MONAILabelClient(server.url, tmpdir=str(folder), client_id="reader")
    gc.collect()  # its sockets are closed here, within the test that allows their warnings


@pytest.fixture
def make_project(request: pytest.FixtureRequest, tmp_path: Path) -> MakeProject:
    """Makes a project of `count` cases, "phantoms" or "hippocampus"; the latter skips where it is absent."""

    def make(scans: str, count: int) -> Project:
        folder = tmp_path / "project"
        if scans == "phantoms":
            return phantom_project(folder, count)
        return hippocampus_project(folder, request.getfixturevalue("hippocampus"), count)

    return make
