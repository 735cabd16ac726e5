"""What a killed process, a damaged file or a lost database leaves: no acknowledged label is lost, and the
next start says what it mended."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from lib.catalogue import database, labels
from lib.catalogue.archive import Archive
from lib.catalogue.label_store import LabelRecord, LabelStore
from lib.catalogue.schema import Label
from lib.datastore import FolderDatastore
from lib.workspace import Workspace
from tests import light_process
from tests.app.scan_support import cut, scan, write_nifti
from tests.catalogue.label_support import final_file, label_file, open_store

KILLED_AT = """
import os, sys
from lib.catalogue import labels
from lib.catalogue.database import Database
from lib.catalogue.label_store import LabelStore
from lib.datastore import FolderDatastore
from lib.workspace import Workspace
scans, url, step, *files = sys.argv[1:]
store = FolderDatastore(scans, Workspace.of(scans, database_url=url), {"foreground": 1})
store.save_label("a", files[0], "final", {"client_id": "ann"})
print("acknowledged", flush=True)
die = lambda *_, **__: os._exit(9)
if step == "before the record":
    LabelStore.announce = die
elif step == "before the rename":
    Database.write = die
elif step == "before the commit":
    labels.enter = die
elif step == "after the commit":
    LabelStore.settle = die
store.save_label("a", files[1], "final", {"client_id": "bob"})
"""


def killed_at(step: str, scans: Path, url: str, files: list[Path]) -> None:
    done = subprocess.run(
        light_process.command(KILLED_AT, scans, url, step, *files),
        capture_output=True,
        env=light_process.environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (9, b"acknowledged\n"), done.stderr


@pytest.mark.parametrize(
    ("step", "readers"),
    [
        ("before the record", ["ann"]),
        ("before the rename", ["ann", "bob"]),
        ("before the commit", ["ann", "bob"]),
        ("after the commit", ["ann", "bob"]),
    ],
)
def test_a_kill_at_any_step_of_a_save_loses_and_doubles_nothing(
    scans: Path, workspace: Workspace, tmp_path: Path, step: str, readers: list[str]
) -> None:
    files = [label_file(tmp_path, 0), label_file(tmp_path, 1)]
    killed_at(step, scans, workspace.database_url, files)
    store = open_store(scans, workspace)
    versions = store.label_history("a")
    assert [version["reader"] for version in versions] == readers
    assert versions[-1]["state"] == "active"
    assert store.final_labels() == {"a": versions[-1]["sha256"]}
    assert LabelStore.digest(final_file(scans, "a").read_bytes()) == versions[-1]["sha256"]
    mended = [said for said in store.repairs if "was completed" in said]
    assert len(mended) == (step in ("before the rename", "before the commit"))
    again = open_store(scans, workspace)
    assert again.repairs == []
    assert len(again.label_history("a")) == len(readers)


def test_a_damaged_label_is_replaced_by_its_kept_copy_at_the_start(
    scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    store = open_store(scans, workspace)
    store.save_label("a", str(label_file(tmp_path)), "final", {"client_id": "ann"})
    path = final_file(scans, "a")
    before, damaged = path.read_bytes(), cut(path).read_bytes()
    again = open_store(scans, workspace)
    assert path.read_bytes() == before
    assert again.final_labels() == {"a": LabelStore.digest(before)}
    assert again.get_label_info("a", "final")["client_id"] == "ann"
    [said] = again.repairs
    assert "labels/final/a.nii.gz was damaged and was replaced" in said
    [kept] = workspace.quarantine.iterdir()
    assert kept.read_bytes() == damaged


def test_a_lost_database_is_rebuilt_with_the_history(scans: Path, project: Workspace, tmp_path: Path) -> None:
    store = open_store(scans, project)
    for variant, reader in enumerate(("ann", "bob")):
        store.save_label("a", str(label_file(tmp_path, variant)), "final", {"client_id": reader})
    store.save_label("b", str(label_file(tmp_path)), "final", {"client_id": "ann"})
    store.remove_label("b", "final")
    before = [store.label_history(case) for case in "ab"]
    finals = store.final_labels()
    store._database.close()
    for file in project.root.glob("catalogue.db*"):
        file.write_bytes(b"damaged" * 1000)
    again = open_store(scans, project)
    assert again.final_labels() == finals
    told = ("uid", "state", "reader", "sha256", "created_at")
    assert [[{k: v[k] for k in told} for v in again.label_history(case)] for case in "ab"] == [
        [{k: v[k] for k in told} for v in versions] for versions in before
    ]
    assert any("was damaged" in said for said in again.repairs)
    assert any("3 label versions" in said for said in again.repairs)


def test_what_another_process_is_just_saving_is_not_entered_twice(
    scans: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(scans, workspace)
    enter = store._writer.enter
    started = []

    def slow(*arguments: object) -> None:
        if not started:
            started.append(open_store(scans, workspace))  # a second server starts: it finds the announcement
        enter(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store._writer, "enter", slow)
    store.save_label("a", str(label_file(tmp_path)), "final", {"client_id": "ann"})
    assert [version["reader"] for version in store.label_history("a")] == ["ann"]
    assert list(store.final_labels()) == ["a"]
    assert list(workspace.labels.glob("pending/*")) == []


def test_a_save_that_has_to_be_repeated_puts_its_own_label_there(
    scans: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(scans, workspace)
    enter, failed = labels.enter, []

    def fail_once(session: Session, record: LabelRecord) -> Label:
        if not failed:
            failed.append(1)
            final_file(scans, "a").write_bytes(b"what another process saves before the second attempt")
            raise OperationalError("", None, Exception("database is locked"))
        return enter(session, record)

    monkeypatch.setattr(labels, "enter", fail_once)
    monkeypatch.setattr(database, "_passes", lambda error: True)
    store.save_label("a", str(label_file(tmp_path)), "final", {"client_id": "ann"})
    assert LabelStore.digest(final_file(scans, "a").read_bytes()) == store.final_labels()["a"]


def test_a_cut_off_submission_does_not_replace_a_newer_label(
    scans: Path, project: Workspace, tmp_path: Path
) -> None:
    files = [label_file(tmp_path, 0), label_file(tmp_path, 1)]
    killed_at("before the rename", scans, "", files)
    [pending] = project.labels.glob("pending/*.json")
    kept = pending.read_bytes()
    pending.unlink()
    store = open_store(scans, project)
    time.sleep(0.01)
    store.save_label("a", str(label_file(tmp_path, 2)), "final", {"client_id": "cleo"})
    newest = store.final_labels()
    pending.write_bytes(kept)
    again = open_store(scans, project)
    assert again.final_labels() == newest
    assert {version["reader"] for version in again.label_history("a")} == {"ann", "bob", "cleo"}
    assert any("a newer one stands" in said for said in again.repairs)


class FullDisk(OSError):
    """What a test lets happen."""


def fail_next_commit(store: FolderDatastore) -> None:
    @event.listens_for(store._database._engine, "commit", once=True)
    def fail(_: object) -> None:
        raise FullDisk("disk I/O error")


def refuse_to_save(*_: object, **__: object) -> None:
    raise FullDisk("database or disk is full")


def test_a_label_that_the_database_refuses_leaves_the_one_before_it_in_effect(
    scans: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(scans, workspace)
    store.save_label("a", str(label_file(tmp_path, 0)), "final", {"client_id": "ann"})
    before, content = store.label_history("a"), final_file(scans, "a").read_bytes()
    with monkeypatch.context() as context:
        context.setattr(labels, "enter", refuse_to_save)
        with pytest.raises(FullDisk):
            store.save_label("a", str(label_file(tmp_path, 1)), "final", {"client_id": "bob"})
    assert final_file(scans, "a").read_bytes() == content
    store.refresh()
    assert store.label_history("a") == before
    assert open_store(scans, workspace).label_history("a") == before


@pytest.mark.parametrize("had_label", [True, False])
def test_a_label_whose_commit_fails_gives_its_place_back(
    scans: Path, workspace: Workspace, tmp_path: Path, had_label: bool
) -> None:
    store = open_store(scans, workspace)
    if had_label:
        store.save_label("a", str(label_file(tmp_path, 0)), "final", {"client_id": "ann"})
    before = store.label_history("a")
    content = final_file(scans, "a").read_bytes() if had_label else None

    fail_next_commit(store)
    with pytest.raises(FullDisk):
        store.save_label("a", str(label_file(tmp_path, 1)), "final", {"client_id": "bob"})
    assert (final_file(scans, "a").read_bytes() if final_file(scans, "a").exists() else None) == content
    store.refresh()
    assert store.label_history("a") == before
    assert list(store.final_labels()) == (["a"] if had_label else [])


def test_a_label_that_came_by_the_folder_keeps_its_bytes_when_it_is_replaced_at_once(
    scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    store = open_store(scans, workspace)
    content = label_file(tmp_path, 0).read_bytes()
    final_file(scans, "a").write_bytes(content)
    store.refresh()
    store.save_label("a", str(label_file(tmp_path, 1)), "final", {"client_id": "bob"})
    found, saved = store.label_history("a")
    assert (found["state"], saved["reader"]) == ("replaced", "bob")
    assert store.label_version("a", found["uid"]).read_bytes() == content


@pytest.mark.parametrize("by_folder", [True, False])
def test_a_removal_whose_commit_fails_takes_nothing_away(
    scans: Path, workspace: Workspace, tmp_path: Path, by_folder: bool
) -> None:
    store = open_store(scans, workspace)
    if by_folder:
        final_file(scans, "a").write_bytes(label_file(tmp_path, 0).read_bytes())
        store.refresh()
    else:
        store.save_label("a", str(label_file(tmp_path, 0)), "final", {"client_id": "ann"})
    before, content = store.label_history("a"), final_file(scans, "a").read_bytes()
    fail_next_commit(store)
    with pytest.raises(FullDisk):
        store.remove_label("a", "final")
    assert final_file(scans, "a").read_bytes() == content
    store.refresh()
    assert store.label_history("a") == before
    store.remove_label("a", "final")
    assert store.label_version("a", before[0]["uid"]).read_bytes() == content


def test_a_refused_label_leaves_a_file_alone_that_somebody_else_put_there(
    scans: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(scans, workspace)
    store.save_label("b", str(label_file(tmp_path, 0)), "final", {})
    final_file(scans, "a").write_bytes(final_file(scans, "b").read_bytes())  # no look has seen it yet
    with monkeypatch.context() as context:
        context.setattr(labels, "enter", refuse_to_save)
        with pytest.raises(FullDisk):
            store.save_label("a", str(label_file(tmp_path, 0)), "final", {"client_id": "bob"})
    assert final_file(scans, "a").read_bytes() == final_file(scans, "b").read_bytes()


def test_an_empty_folder_of_labels_that_is_removed_comes_back(scans: Path, workspace: Workspace) -> None:
    store = open_store(scans, workspace)
    (scans / "labels" / "original").rmdir()
    write_nifti(scans / "d.nii.gz", scan(seed=9))
    store.refresh()
    assert store.list_images() == ["a", "b", "c", "d"]
    assert (scans / "labels" / "original").is_dir()


def test_a_folder_that_had_labels_is_missed_and_not_taken_for_empty(
    scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    store = open_store(scans, workspace)
    store.save_label("a", str(label_file(tmp_path)), "final", {})
    (scans / "labels" / "final").rename(tmp_path / "away")
    store.refresh()
    assert list(store.final_labels()) == ["a"]
    assert not (scans / "labels" / "final").exists()


@pytest.mark.parametrize("has_labels", [True, False])
def test_a_share_that_is_away_is_not_taken_for_a_project_without_scans(
    scans: Path, workspace: Workspace, tmp_path: Path, has_labels: bool
) -> None:
    store = open_store(scans, workspace)
    if has_labels:
        store.save_label("a", str(label_file(tmp_path)), "final", {})
    scans.rename(tmp_path / "away")
    scans.mkdir()  # the mount point
    store.refresh()
    assert store.list_images() == ["a", "b", "c"]
    assert list(scans.iterdir()) == []


def test_the_archive_comes_back_to_what_it_could_not_keep(
    scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    store = open_store(scans, workspace)
    files = [final_file(scans, case) for case in "abc"]
    for variant, path in enumerate(files):
        path.write_bytes(label_file(tmp_path, variant).read_bytes())
    store.refresh()
    archive = Archive(store._database, store._store, scans)
    away = [path.rename(tmp_path / f"away-{path.name}") for path in files[:2]]
    archive.advance(60)
    for path, kept in zip(files, away, strict=False):
        kept.rename(path)
    archive.advance(60)
    kept_now = [store.label_version(case, store.label_history(case)[0]["uid"]).exists() for case in "abc"]
    assert kept_now == [True] * 3


def test_old_temporary_files_are_removed_and_young_ones_left(scans: Path, project: Workspace) -> None:
    old, young = scans / ".old.tmp", scans / ".young.tmp"
    inside = [project.labels / "pending", project.drafts, project.maps, project.training, project.root]
    others = [folder / ".other.tmp" for folder in inside]
    for path in (old, young, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    for path in (old, *others):
        os.utime(path, (time.time() - 3600,) * 2)
    store = open_store(scans, project)
    assert [path for path in (old, *others) if path.exists()] == []
    assert young.exists()
    assert store.repairs == ["6 half-written temporary files of an interrupted run were removed."]


def test_a_record_without_its_bytes_is_given_up_with_a_word(scans: Path, project: Workspace) -> None:
    record = {"case_id": "a", "tag": "final", "source": "submitted", "created_at": 1.0, "sha256": "0" * 64}
    pending = project.labels / "pending"
    pending.mkdir(parents=True)
    (pending / "x.json").write_text(json.dumps({**record, "uid": "x", "extension": ".nii.gz"}))
    store = open_store(scans, project)
    assert store.final_labels() == {}
    assert any("send it again" in said for said in store.repairs)
    assert list(pending.iterdir()) == []
