"""Model versions: kept, published, rolled back, and never half there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from lib import model_folders
from lib.catalogue import round_rows
from lib.errors import Refusal
from lib.registry import KEPT_VERSIONS, ModelRegistry
from lib.round_record import Round
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
    workspace.database.close()
    workspace.catalogue_file.unlink()
    again = ModelRegistry(Workspace(workspace.root))
    assert "read again from the model folder" in again.repairs[0]
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
    torn: list[Any] = []
    done = threading.Event()

    def read() -> None:
        other = ModelRegistry(Workspace(workspace.root))
        while not done.is_set():
            live = [entry["version"] for entry in other.list() if entry["published"]]
            if len(live) != 1 or other.published() not in versions:
                torn.append(live)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        registry.publish(versions[number % 2])
    done.set()
    reader.join()
    assert torn == []


def test_a_publication_of_another_process_counts_at_once(workspace: Workspace) -> None:
    one, other = ModelRegistry(workspace), ModelRegistry(Workspace(workspace.root))
    version = add(one)
    one.publish(version)
    assert other.published() == version
    assert other.list() == one.list()
    assert other.path(version).is_file()


def test_a_version_without_its_files_is_not_offered_and_the_newest_sound_one_is_live(
    workspace: Workspace,
) -> None:
    registry = ModelRegistry(workspace)
    first, gone, damaged = (add(registry, number) for number in range(1, 4))
    for version in (gone, first, damaged):
        registry.publish(version)
    away = workspace.models / gone
    away.rename(workspace.root / "away")
    content = bytearray((workspace.models / damaged / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (workspace.models / damaged / "model.pt").write_bytes(content)
    again = ModelRegistry(workspace)
    assert [entry["version"] for entry in again.list()] == [first]
    assert again.published() == first
    assert again.repairs == [
        f"The model version {gone} cannot be used: its files are gone.",
        f"The model version {damaged} cannot be used: its model file is damaged.",
        f"It was live; the newest sound one, {first}, is now.",
    ]
    with pytest.raises(Refusal, match=first):
        again.publish(damaged)
    assert ModelRegistry(workspace).repairs == []
    (workspace.root / "away").rename(away)
    back = ModelRegistry(workspace)
    assert back.repairs == [f"The model version {gone} can be used again."]
    assert [entry["version"] for entry in back.list()] == [first, gone]
    assert back.published() == first


def test_sound_files_are_not_hashed_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ModelRegistry(workspace)
    add(registry)
    ModelRegistry(workspace)
    monkeypatch.setattr(model_folders, "why_unusable", lambda *_: pytest.fail("hashed again"))
    ModelRegistry(workspace)


@pytest.mark.parametrize(
    ("status", "kept", "said"),
    [
        ("failed", False, "was cut off; its files were removed, and round r0009 runs again."),
        ("running", True, None),
        ("done", False, None),
        (None, True, "was found in the model folder and is kept."),
    ],
)
def test_a_folder_that_the_catalogue_does_not_name_is_judged_by_its_round(
    workspace: Workspace, status: str | None, kept: bool, said: str | None
) -> None:
    registry = ModelRegistry(workspace)
    first = add(registry)
    if status is not None:
        record = Round("r0009", status).to_dict()
        workspace.database.write(lambda session: round_rows.add(session, 9, record))
    staged = registry.stage(tiny_checkpoint(5), "r0009", None, {})  # ... and then the process was killed
    again = ModelRegistry(workspace)
    assert (workspace.models / staged.version).exists() is kept
    assert [sentence.removeprefix(f"The publication of {staged.version} ") for sentence in again.repairs] == (
        [] if said is None else [said if status else f"The model version {staged.version} {said}"]
    )
    listed = [entry["version"] for entry in again.list()]
    assert listed == ([first, staged.version] if status is None else [first])


def test_a_failing_listener_takes_nothing_from_a_publication(workspace: Workspace) -> None:
    registry = ModelRegistry(workspace)
    version, heard = add(registry), list[str]()

    def fail(version: str) -> None:
        raise OSError("no space left on device")

    registry.on_published += [fail, heard.append]
    registry.publish(version)
    assert registry.published() == version
    assert heard == [version]


def test_who_has_seen_another_version_live_does_not_replace_this_one(workspace: Workspace) -> None:
    registry = ModelRegistry(workspace)
    first, second = add(registry, 1), add(registry, 2)
    registry.publish(first, instead_of="")
    for seen in ("", second):
        with pytest.raises(Refusal, match="Another model") as refusal:
            registry.publish(second, instead_of=seen)
        assert refusal.value.status_code == 409
    assert registry.published() == first
    registry.publish(second, instead_of=first)
    assert registry.published() == second
