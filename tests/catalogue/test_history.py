"""Every version of a label is kept, with who, when, with what, and what became of it."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lib.catalogue.label_store import LabelStore
from lib.datastore import FolderDatastore
from lib.workspace import Workspace
from tests.catalogue.label_support import final_file, label_file, open_store


@pytest.fixture
def store(scans: Path, workspace: Workspace) -> FolderDatastore:
    return open_store(scans, workspace)


def test_the_history_tells_who_when_with_what_and_what_became_of_it(
    store: FolderDatastore, tmp_path: Path
) -> None:
    first = {"client_id": "ann", "tool": "Slicer", "model_version": "v0001-abc", "comment": "edge unsure"}
    store.save_label("a", str(label_file(tmp_path, 0)), "final", first)
    store.save_label("a", str(label_file(tmp_path, 1)), "final", {"client_id": "bob"})
    store.remove_label("a", "final")
    old, new = store.label_history("a")
    told = {key: old[key] for key in ("reader", "tool", "model_version", "comment")}
    assert told == {"reader": "ann", "tool": "Slicer", "model_version": "v0001-abc", "comment": "edge unsure"}
    assert (old["state"], old["source"]) == ("replaced", "submitted")
    assert (new["reader"], new["state"]) == ("bob", "removed")
    assert old["created_at"] <= old["ended_at"] == new["created_at"] <= new["ended_at"]
    assert old["sha256"] != new["sha256"]


def test_the_bytes_of_a_replaced_label_are_kept(
    store: FolderDatastore, scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    store.save_label("a", str(label_file(tmp_path, 0)), "final", {})
    before = final_file(scans, "a").read_bytes()
    store.save_label("a", str(label_file(tmp_path, 1)), "final", {})
    digest = store.label_history("a")[0]["sha256"]
    assert hashlib.sha256(before).hexdigest() == digest
    assert LabelStore(workspace.labels).read(digest, ".nii.gz") == before


def test_a_submission_sent_twice_is_one_version(store: FolderDatastore, tmp_path: Path) -> None:
    for _ in range(2):  # a client that did not hear the first answer
        store.save_label("a", str(label_file(tmp_path)), "final", {"client_id": "ann"})
    assert len(store.label_history("a")) == 1
    store.save_label("a", str(label_file(tmp_path)), "final", {"client_id": "bob"})
    assert [version["reader"] for version in store.label_history("a")] == ["ann", "bob"]


def test_two_servers_on_one_project_hear_of_each_others_labels(
    store: FolderDatastore, scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    other = open_store(scans, workspace)
    heard: list[set[str]] = []
    other.on_labels_changed.append(lambda: heard.append(set(other.final_labels())))
    store.save_label("a", str(label_file(tmp_path)), "final", {"client_id": "ann"})
    assert other.final_labels() == store.final_labels()
    assert other.get_label_info("a", "final")["client_id"] == "ann"
    assert list(other.unlabeled_in_order("id")) == ["b", "c"]
    other.refresh()
    other.refresh()
    assert heard == [{"a"}]
    assert len(store.label_history("a")) == 1, "found in the folder by the other, but entered once"


def test_a_label_replaced_while_it_is_looked_at_within_one_tick_of_the_clock_is_not_found_again(
    store: FolderDatastore, scans: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, stored = open_store(scans, workspace), final_file(scans, "a")
    sizes: dict[int, tuple[int, bytes]] = {}
    for variant in range(40):  # until two have the same size
        store.save_label("a", str(label_file(tmp_path, variant)), "final", {"client_id": "ann"})
        content = stored.read_bytes()
        if len(content) in sizes:
            break
        sizes[len(content)] = (variant, content)
    older, older_content = sizes[len(content)]
    written = stored.stat().st_mtime_ns + 10**9
    stored.write_bytes(older_content)
    os.utime(stored, ns=(written, written))
    before = len(store.label_history("a"))
    read = store._looker.look

    def replaced_meanwhile(*given: Any) -> Any:
        found = read(*given)
        monkeypatch.undo()
        other.save_label("a", str(label_file(tmp_path, older + 1)), "final", {"client_id": "eve"})
        other.save_label("a", str(label_file(tmp_path, variant)), "final", {"client_id": "bob"})
        os.utime(stored, ns=(written, written))
        return found

    monkeypatch.setattr(store._looker, "look", replaced_meanwhile)
    store.refresh()
    for _ in range(2):
        versions = store.label_history("a")[before:]
        assert [version["reader"] for version in versions] == ["eve", "bob"]
        assert stored.read_bytes() == content
        store.refresh()


def test_many_writers_lose_nothing(
    store: FolderDatastore, scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    files = [label_file(tmp_path, variant) for variant in range(4)]
    stores = [store, open_store(scans, workspace)]
    failures: list[BaseException] = []

    def submit(number: int) -> None:
        try:
            mine = stores[number % 2]
            for step in range(3):
                info = {"client_id": f"reader{number}", "step": step}
                mine.save_label("ab"[step % 2], str(files[number]), "final", info)
                mine.update_image_info("c", {f"{number}-{step}": True})
                mine.refresh()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    told = [v["info"] for case in "ab" for v in store.label_history(case)]
    assert {(i["client_id"], i["step"]) for i in told} == {
        (f"reader{number}", step) for number in range(4) for step in range(3)
    }
    assert len(told) == 12
    info = store.get_image_info("c")
    assert {f"{number}-{step}" for number in range(4) for step in range(3)} <= set(info)
    for case in "ab":
        *former, last = store.label_history(case)
        assert last["state"] == "active"
        assert {version["state"] for version in former} == {"replaced"}
        content = final_file(scans, case).read_bytes()
        assert hashlib.sha256(content).hexdigest() == last["sha256"] == store.final_labels()[case]
