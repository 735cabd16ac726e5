"""Webhooks: signed events of labels and models, sent again until taken, none lost by a restart."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lib import webhooks
from lib.datastore import FolderDatastore
from lib.registry import ModelRegistry
from lib.webhooks import Webhooks
from lib.workspace import Workspace
from tests.app.scan_support import block, publish_tiny_model, write_nifti

ONE = {"foreground": 1}
SECRET = "between us"


class Receiver(ThreadingHTTPServer):
    """Keeps what it takes; answers with the next of `answers`, else 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[int] = []
        self.taken: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.taken]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status == 200:
            self.server.taken.append((dict(self.headers), body))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Project:
    def __init__(self, scans: Path, url: str) -> None:
        self.workspace = Workspace.of(scans)
        self.registry = ModelRegistry(self.workspace)
        self.store = FolderDatastore(scans, self.workspace, ONE)
        self.hooks = Webhooks(url, SECRET, self.workspace, self.store, self.registry)

    def close(self) -> None:
        self.hooks.stop()
        self.workspace.database.close()


@pytest.fixture
def opened(
    scans: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Project]]:
    monkeypatch.setattr(webhooks, "FIRST_WAIT_S", 0.05)
    projects: list[Project] = []

    def open_project() -> Project:
        projects.append(Project(scans, receiver.url))
        return projects[-1]

    yield open_project
    for project in projects:
        project.close()


def wait_until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def save(project: Project, image_id: str, folder: Path) -> None:
    label = write_nifti(folder / "label.nii.gz", block())
    project.store.save_label(image_id, str(label), "final", {"client_id": "ann"})


def test_saved_label_is_told_with_a_signature_that_the_receiver_can_check(
    opened: Callable[[], Project], receiver: Receiver, tmp_path: Path
) -> None:
    project = opened()
    project.hooks.start()
    save(project, "a", tmp_path)
    wait_until(lambda: receiver.taken)
    headers, body = receiver.taken[0]
    signed = headers["X-UGMCL-Timestamp"].encode() + b"." + body
    expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["X-UGMCL-Signature"] == f"sha256={expected}"
    assert abs(int(headers["X-UGMCL-Timestamp"]) - time.time()) < 60
    event = json.loads(body)
    assert (event["event"], event["image"], event["reader"]) == ("label_saved", "a", "ann")
    assert headers["X-UGMCL-Delivery"] == event["id"] == event["label"]
    assert SECRET.encode() not in body


def test_published_model_is_told(opened: Callable[[], Project], receiver: Receiver) -> None:
    project = opened()
    project.hooks.start()
    version = publish_tiny_model(project.registry)
    wait_until(lambda: receiver.taken)
    (event,) = receiver.events
    assert (event["event"], event["model_version"], event["round"]) == ("round_published", version, "r0001")


def test_event_is_sent_again_until_it_is_taken_and_in_order(
    opened: Callable[[], Project], receiver: Receiver, tmp_path: Path
) -> None:
    project = opened()
    receiver.answers = [500, 404, 503]
    project.hooks.start()
    for image_id in "abc":
        save(project, image_id, tmp_path)
    wait_until(lambda: len(receiver.taken) == 3)
    assert [event["image"] for event in receiver.events] == ["a", "b", "c"]
    wait_until(lambda: project.hooks.state() == {"waiting": 0, "trouble": None})


def test_what_could_not_be_told_is_told_after_a_restart(
    opened: Callable[[], Project], receiver: Receiver, tmp_path: Path
) -> None:
    first = opened()
    receiver.answers = [500] * 1000
    first.hooks.start()
    save(first, "a", tmp_path)
    wait_until(lambda: first.hooks.state()["waiting"] == 1 and first.hooks.state()["trouble"])
    assert "500" in first.hooks.state()["trouble"]
    first.hooks.stop()
    save(first, "b", tmp_path)  # while nobody tells
    version = publish_tiny_model(first.registry)
    receiver.answers = []
    first.close()
    second = opened()
    second.hooks.start()
    wait_until(lambda: len(receiver.taken) == 3)
    assert sorted(e.get("image") or e["model_version"] for e in receiver.events) == ["a", "b", version]


def test_what_was_before_the_first_start_is_not_told(
    opened: Callable[[], Project], receiver: Receiver, tmp_path: Path
) -> None:
    project = opened()
    save(project, "a", tmp_path)
    publish_tiny_model(project.registry)
    project.hooks.start()
    save(project, "b", tmp_path)
    wait_until(lambda: receiver.taken)
    assert [event["image"] for event in receiver.events] == ["b"]


def test_event_that_is_not_wanted_any_more_is_given_up(
    opened: Callable[[], Project], receiver: Receiver, tmp_path: Path
) -> None:
    project = opened()
    receiver.answers = [410]
    project.hooks.start()
    save(project, "a", tmp_path)
    save(project, "b", tmp_path)
    wait_until(lambda: receiver.taken)
    assert [event["image"] for event in receiver.events] == ["b"]


def test_no_secret_stops_the_start(scans: Path) -> None:
    workspace = Workspace.of(scans)
    store = FolderDatastore(scans, workspace, ONE)
    with pytest.raises(ValueError, match="UGMCL_WEBHOOK_SECRET"):
        Webhooks("http://x.example", "", workspace, store, ModelRegistry(workspace))
    workspace.database.close()


def test_two_servers_tell_each_event_once(
    opened: Callable[[], Project], receiver: Receiver, tmp_path: Path
) -> None:
    servers = [opened(), opened()]
    for server in servers:
        server.hooks.start()
    for image_id, server in zip("abc", [*servers, servers[0]], strict=True):
        save(server, image_id, tmp_path)
    version = publish_tiny_model(servers[1].registry)
    for server in servers:
        server.hooks._news.set()
    wait_until(lambda: len(receiver.taken) >= 4 and servers[0].hooks.state()["waiting"] == 0)
    for server in servers:  # each has looked at all there is once more
        server.hooks._find_events()
        server.hooks.stop()
        assert server.hooks.state()["waiting"] == 0
    told = [event.get("image") or event["model_version"] for event in receiver.events]
    assert sorted(told) == ["a", "b", "c", version]


def test_publications_that_follow_each_other_are_told_in_their_order(
    opened: Callable[[], Project], receiver: Receiver
) -> None:
    project = opened()
    project.hooks.start()
    first, second = publish_tiny_model(project.registry), publish_tiny_model(project.registry, seed=1)
    project.registry.publish(first)
    wait_until(lambda: len(receiver.taken) == 3)
    assert [event["model_version"] for event in receiver.events] == [first, second, first]
    assert len({event["id"] for event in receiver.events}) == 3
