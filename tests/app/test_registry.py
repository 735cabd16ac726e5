"""Model versions: kept, published, rolled back, and never half there."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from lib.errors import Refusal
from lib.registry import KEPT_VERSIONS, ModelRegistry
from lib.workspace import Workspace
from tests.app.round_support import tiny_checkpoint
from ugmcl.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / ".ugmcl")


def add(registry: ModelRegistry, number: int = 1) -> str:
    metrics = {"student": {"dice": 0.5, "hd95_mm": float("nan")}}
    return registry.add(tiny_checkpoint(number), f"r{number:04d}", metrics, {"seed": number})


def test_a_candidate_is_a_version_that_is_not_live_until_published(workspace: Workspace) -> None:
    registry = ModelRegistry(workspace)
    version = add(registry)
    assert registry.published() is None
    heard: list[str] = []
    registry.on_published.append(heard.append)
    registry.publish(version)
    assert (registry.published(), heard) == (version, [version])
    entry = registry.list()[0]
    assert set(entry) == {"version", "published", "round", "metrics", "created_at"}
    assert entry["published"] is True
    assert entry["metrics"] == {"student": {"dice": 0.5, "hd95_mm": None}}
    assert registry.record(version)["seed"] == 1
    assert load_checkpoint(registry.path(version)).config == tiny_checkpoint().config


def test_a_version_from_a_file_is_a_copy_of_it(workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "candidate.pt"
    save_checkpoint(file, tiny_checkpoint())
    registry = ModelRegistry(workspace)
    version = registry.add(file, "r0001", None, {})
    assert registry.path(version).read_bytes() == file.read_bytes()


def test_an_unknown_version_is_refused_naming_the_known_ones(workspace: Workspace) -> None:
    registry = ModelRegistry(workspace)
    version = add(registry)
    with pytest.raises(Refusal, match=version) as refusal:
        registry.publish("v9999-nothing")
    assert refusal.value.status_code == 404
    with pytest.raises(Refusal):
        registry.path("../../etc")


def test_the_last_ten_versions_and_the_published_one_are_kept(workspace: Workspace) -> None:
    registry = ModelRegistry(workspace)
    first = add(registry, 1)
    registry.publish(first)
    versions = [add(registry, number) for number in range(2, 15)]
    kept = [entry["version"] for entry in registry.list()]
    assert kept == [first, *versions[-KEPT_VERSIONS:]]
    assert sorted(folder.name for folder in workspace.models.iterdir()) == sorted(kept)
    assert len({*versions, first}) == 14
    registry.publish(versions[-2])
    assert add(registry, 15) not in versions
    assert first not in [entry["version"] for entry in registry.list()]


def test_another_start_sees_the_same_versions(workspace: Workspace) -> None:
    registry = ModelRegistry(workspace)
    for number in range(3):
        add(registry, number)
    registry.publish(registry.list()[1]["version"])
    again = ModelRegistry(workspace)
    assert again.list() == registry.list()
    assert again.published() == registry.list()[1]["version"]


def test_a_lost_list_is_rebuilt_from_the_versions_themselves(workspace: Workspace) -> None:
    registry = ModelRegistry(workspace)
    versions = [add(registry, number) for number in range(3)]
    workspace.models_file.write_text('{"published": "v00')
    again = ModelRegistry(workspace)
    assert [entry["version"] for entry in again.list()] == versions
    assert again.published() == versions[-1]
    assert add(again, 9) not in versions


def test_a_version_cut_off_while_it_was_added_is_not_listed(workspace: Workspace) -> None:
    registry = ModelRegistry(workspace)
    version = add(registry)
    (workspace.models / ".adding-abc").mkdir()
    (workspace.models / "v0002-aaaaaa").mkdir()
    assert [entry["version"] for entry in ModelRegistry(workspace).list()] == [version]


def test_readers_see_one_state_or_the_other_while_versions_go_live(workspace: Workspace) -> None:
    registry = ModelRegistry(workspace)
    versions = [add(registry, number) for number in range(2)]
    registry.publish(versions[0])
    torn: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            state = json.loads(workspace.models_file.read_text())
            if state["published"] not in versions:
                torn.append(state["published"])

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        registry.publish(versions[number % 2])
    done.set()
    reader.join()
    assert torn == []
