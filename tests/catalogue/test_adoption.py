"""A project of an earlier version, or of the stock server, goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from monailabel.datastore.local import LocalDatastore

from lib.catalogue import case_source, cases, look
from lib.catalogue.database import Database
from lib.pool import Signature, scan_version
from lib.scores import ScoreBoard
from lib.workspace import Workspace
from tests.app.scan_support import scan, write_nifti
from tests.catalogue.label_support import ONE, final_file, label_file, open_store

FILES = ("checks.json", "absent_labels.json", "scores.json")


def make_workspace_of_an_earlier_version(scans: Path, workspace: Workspace, tmp_path: Path) -> dict[str, Any]:
    """As `ugmcl-assist` left it before there was a catalogue; returns what it knew."""
    label = final_file(scans, "a")
    label.parent.mkdir(parents=True)
    shutil.copy(label_file(tmp_path), label)
    digest = hashlib.sha256(label.read_bytes()).hexdigest()
    info = {"ts": 1700000000, "name": "a.nii.gz", "sha256": digest, "client_id": "ann"}
    gone = {**info, "sha256": "f" * 64, "client_id": "bob", "no_finding": True}
    stamps = {"most_uncertain": {"ts": 5, "client_id": "ann"}}
    objects = {
        "a": {
            "image": {"ext": ".nii.gz", "info": {"ts": 3, "name": "a.nii.gz", "strategy": stamps}},
            "labels": {"final": {"ext": ".nii.gz", "info": info}},
        },
        "b": {"image": {"ext": ".nii.gz", "info": {"ts": 4, "name": "b.nii.gz"}}, "labels": {}},
    }
    stock = {"name": "heart", "description": "d", "images_dir": ".", "labels_dir": "labels"}
    (scans / "datastore_v2.json").write_text(json.dumps({**stock, "objects": objects}))
    image, signature = Signature.of(scans / "a.nii.gz"), Signature.of(label)
    assert image is not None
    assert signature is not None
    context = repr((image, sorted(ONE.items()), False))
    checks = {
        "a.nii.gz": {**image._asdict(), "reason": None, "voxels": True, "context": "", "sha256": ""},
        "final/a.nii.gz": {**signature._asdict(), "reason": None, "context": context, "sha256": digest},
    }
    (workspace.root / "checks.json").write_text(json.dumps(checks))
    absent = {"final": {"b": {"ext": ".nii.gz", "info": gone}}}
    (workspace.root / "absent_labels.json").write_text(json.dumps(absent))
    scores = {"b": {"score": 0.75, "model_version": "v1", "scan": scan_version(scans / "b.nii.gz")}}
    (workspace.root / "scores.json").write_text(json.dumps({"scores": scores}))
    return {"info": info, "gone": gone, "digest": digest}


def test_a_workspace_of_an_earlier_version_is_taken_over_without_loss(
    scans: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = make_workspace_of_an_earlier_version(scans, workspace, tmp_path)
    read: list[str] = []
    monkeypatch.setattr(case_source, "read_image", lambda path, voxels: pytest.fail(path.name))
    monkeypatch.setattr(look, "read_label_file", lambda path, *_: read.append(path.name))
    (scans / "c.nii.gz").unlink()  # the one scan that checks.json has no finding of
    (scans / "b.nii.gz").rename(scans / "b.away")
    store = open_store(scans, workspace, start_check_s=0.0)
    monkeypatch.undo()
    assert read == [], "what an earlier version has read is not read again"
    assert store.final_labels() == {"a": known["digest"]}
    assert store.get_label_info("a", "final") == known["info"]
    assert store.get_image_info("a")["strategy"]["most_uncertain"]["client_id"] == "ann"
    assert (store.name(), store.description()) == ("heart", "d")
    [version] = store.label_history("a")
    assert (version["reader"], version["source"], version["created_at"]) == ("ann", "imported", 1700000000)
    [absent] = store.label_history("b")
    assert (absent["reader"], absent["state"], absent["info"]) == ("bob", "absent", known["gone"])
    (scans / "b.away").rename(scans / "b.nii.gz")
    store.refresh()
    assert list(store.unlabeled_in_order("rank")) == ["b"]
    scores = ScoreBoard(workspace)
    assert scores.get("b") == ("b", 0.75, "v1", scan_version(scans / "b.nii.gz"))
    assert scores.missing({"b": scan_version(scans / "b.nii.gz")}, "v1") == []
    kept = {path.name for path in (workspace.root / "before_catalogue").iterdir()}
    assert kept == set(FILES)
    assert not [name for name in FILES if (workspace.root / name).exists()]
    again = open_store(scans, workspace)
    assert again.label_history("a") == store.label_history("a")
    assert again.final_labels() == store.final_labels()


def test_the_stock_datastore_reads_what_is_exported(
    scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    store = open_store(scans, workspace)
    store.set_name("heart")
    store.save_label("a", str(label_file(tmp_path)), "final", {"client_id": "ann"})
    store.export_stock_file()
    stock = LocalDatastore(str(scans), extensions=["*.nii.gz"])
    assert stock.name() == "heart"
    assert stock.get_labeled_images() == ["a"]
    assert stock.get_label_info("a", "final") == store.get_label_info("a", "final")
    assert stock.get_label_uri("a", "final") == store.get_label_uri("a", "final")
    assert stock.datalist() == store.datalist()
    assert stock.json()["objects"] == store.json()["objects"]


def test_what_the_stock_server_wrote_in_between_is_taken_over(
    scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    store = open_store(scans, workspace)
    store.save_label("a", str(label_file(tmp_path, 0)), "final", {"client_id": "ann"})
    store.export_stock_file()
    stock = LocalDatastore(str(scans), extensions=["*.nii.gz"])
    label = label_file(tmp_path, 1).rename(tmp_path / "x.nii.gz")
    stock.save_label("b", str(label), "final", {"client_id": "bob"})
    again = open_store(scans, workspace)
    assert set(again.final_labels()) == {"a", "b"}
    assert again.get_label_info("b", "final")["client_id"] == "bob"
    assert [version["reader"] for version in again.label_history("a")] == ["ann"]
    assert [version["reader"] for version in again.label_history("b")] == ["bob"]


def test_a_plain_folder_with_labels_becomes_a_project(
    scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    final_file(scans, "b").parent.mkdir(parents=True)
    shutil.copy(label_file(tmp_path), final_file(scans, "b"))
    store = open_store(scans, workspace)
    assert store.list_images() == ["a", "b", "c"]
    assert list(store.final_labels()) == ["b"]
    [version] = store.label_history("b")
    assert (version["source"], version["reader"]) == ("found", "")


def test_labels_from_the_folder_get_versions_too(scans: Path, project: Workspace, tmp_path: Path) -> None:
    final_file(scans, "b").parent.mkdir(parents=True)
    shutil.copy(label_file(tmp_path), final_file(scans, "b"))
    before = final_file(scans, "b").read_bytes()
    store = open_store(scans, project)
    store.start(period_s=0.01)
    path = store._store.path_of(store.final_labels()["b"], ".nii.gz")
    for _ in range(500):
        if path.exists():
            break
        store._stop.wait(0.02)
    store.stop()
    assert path.read_bytes() == before


def test_a_look_at_the_folder_opens_only_what_changed(
    scans: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(scans, workspace)
    store.save_label("a", str(label_file(tmp_path)), "final", {})
    opened: list[str] = []
    real = Path.open

    def watched(path: Path, *arguments: Any, **options: Any) -> Any:
        if scans in path.parents and ".ugmcl" not in path.parts:
            opened.append(path.name)
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", watched)
    store.refresh(voxels_s=5)
    again = open_store(scans, workspace)
    again.refresh(voxels_s=5)
    assert opened == []
    write_nifti(scans / "d.nii.gz", scan(seed=9))
    opened.clear()
    again.refresh(voxels_s=5)
    assert "d" in again.list_images()
    assert set(opened) <= {"d.nii.gz"}


def test_other_classes_are_a_reason_to_judge_labels_again(
    scans: Path, project: Workspace, tmp_path: Path
) -> None:
    from lib.datastore import FolderDatastore

    store = open_store(scans, project)
    store.save_label("a", str(label_file(tmp_path)), "final", {})
    for labels, expected in (({"wall": 7}, []), (ONE, ["a"])):
        again = FolderDatastore(scans, Workspace(project.root), labels)
        assert list(again.final_labels()) == expected


def test_more_cases_than_a_statement_takes_are_entered_at_once(database: Database) -> None:
    files = {f"case{number}": f"case{number}.nii.gz" for number in range(66_000)}
    database.write(lambda session: cases.add(session, files))
    with database.read() as session:
        assert cases.count(session) == len(files)
