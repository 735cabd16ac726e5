"""Two servers of one project on one PostgreSQL: the same answers from both, and one may die."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.catalogue import postgresql
from tests.journeys.conftest import MakeProject
from tests.journeys.live_server import LiveServer, serving

pytestmark = pytest.mark.timeout(900)


class Follower(threading.Thread):
    """Collects the events of a round, as a browser's EventSource would."""

    def __init__(self, server: LiveServer, round_id: str) -> None:
        super().__init__(daemon=True)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._url = f"{server.url}/rounds/{round_id}/events"
        self.start()

    def run(self) -> None:
        with contextlib.suppress(requests.RequestException):  # its server is killed
            self._collect()

    def _collect(self) -> None:
        with requests.get(self._url, stream=True, timeout=120) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in answer.iter_lines(decode_unicode=True):
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    self.events.append((name, json.loads(line.removeprefix("data: "))))

    def statuses(self) -> list[str]:
        return [found["status"] for name, found in self.events if name == "status"]


def test_two_servers_share_rounds_models_and_labels_and_one_is_killed(
    make_project: MakeProject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("psycopg", reason="the extra `postgresql` is not installed")
    project = make_project("phantoms", 4)
    project.set_training(steps=4000, min_steps=4000, save_every_s=0.5)
    first, second = project.ids[:2]
    with postgresql.running(tmp_path_factory.mktemp("postgresql")) as url:
        conf = ("--conf", "debounce_s", "0.2", "--conf", "database", f"{url}/postgres")
        with serving(project, *conf) as one, serving(project, *conf) as other:
            assert one.submit(first).status_code == 200
            running = other.wait_for_round(lambda entry: entry["progress"]["step"] > 0)
            follower = Follower(other, running["id"])
            assert_steps_that_no_round_allows_are_refused(other)

            assert other.post(f"/rounds/{running['id']}/pause").json()["status"] == "paused"
            assert one.get(f"/rounds/{running['id']}").json()["status"] == "paused"
            other.wait_for_round(lambda _: follower.statuses()[-1:] == ["paused"])
            assert other.submit(second).status_code == 200
            assert [entry["status"] for entry in one.rounds()] == ["paused"]
            assert one.post(f"/rounds/{running['id']}/resume").json()["status"] in ("queued", "running")
            again = one.wait_for_round(
                lambda entry: entry["status"] == "running" and entry["progress"]["step"] > 0
            )
            assert again["labeled_ids"] == [first, second]
            jobs = other.get("/jobs").json()["jobs"]
            assert [(job["kind"], job["status"], job["request"]) for job in jobs] == [
                ("train", "running", {"round": running["id"]})
            ]

            owner = next(server for server in (one, other) if has_a_worker(server))
            survivor = other if owner is one else one
            owner.kill()
            following = survivor.wait_for_round(
                lambda entry: entry["status"] == "running" and entry["id"] != running["id"]
            )
            cut_off = survivor.get(f"/rounds/{running['id']}").json()
            assert (cut_off["status"], cut_off["reason"]) == ("failed", "interrupted: the server stopped")
            assert "cut off with its server" in " ".join(survivor.get("/info/").json()["repairs"])
            if survivor is other:
                follower.join(30)
                assert not follower.is_alive(), "the stream did not end with its round"
                assert follower.statuses()[:2] == ["running", "paused"]
                assert follower.statuses()[-1] == "failed"
            assert survivor.post(f"/rounds/{following['id']}/cancel").json()["status"] == "cancelled"
            assert [entry["status"] for entry in survivor.rounds()][-1] == "cancelled"
            project.set_training(steps=5, min_steps=1)
            asked = survivor.post("/train/ugmcl", json={}).json()["id"]
            done = survivor.wait_for_round(lambda entry: entry["id"] == asked and entry["status"] == "done")
            assert done["labeled_ids"] == [first, second]
            assert survivor.infer(first).status_code == 200


def assert_steps_that_no_round_allows_are_refused(server: LiveServer) -> None:
    for step in ("cancel", "pause", "resume", "events"):
        ask = server.get if step == "events" else server.post
        answer = ask(f"/rounds/r9999/{step}")
        assert answer.status_code == 404
        assert "There is no round 'r9999' here" in answer.json()["detail"]
    answer = server.post("/rounds/r0001/resume")
    assert answer.status_code == 409
    assert answer.json()["detail"] == (
        "Round r0001 is running and cannot be resumed; that needs one that is paused."
    )


def has_a_worker(server: LiveServer) -> bool:
    """Whether this server's process has started the worker that trains."""
    parent = f"--parent\0{server.process.pid}\0".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"lib.worker\0train" in line and parent in line:
            return True
    return False
