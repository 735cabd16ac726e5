"""Exports: what they hold, that other programs read it, and that a kill neither loses nor doubles one."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.data import load_decathlon_datalist
from monailabel.datastore.local import LocalDatastore

from lib import export_writer
from lib.datastore import FolderDatastore
from lib.errors import Refusal
from lib.export_folders import ExportFolders
from lib.export_jobs import ExportJobs
from lib.export_request import ExportRequest
from lib.exports import Exports
from lib.maps import MapStore
from lib.roles import RoleSplit
from lib.scores import ScoreBoard
from lib.workspace import Workspace
from tests.app.scan_support import OBLIQUE, SHAPE, scan, tree, write_nifti
from tests.catalogue.label_support import ONE, final_file, label_file, open_store
from tests.catalogue.queue_support import end, wait_for

ON_SQLITE = pytest.mark.parametrize("database_url", [""], ids=["sqlite"])
"""For what does not depend on the database."""
SERVER = """
import sys, threading, time
from pathlib import Path
from lib import export_writer
from tests.catalogue.test_exports import open_exports
scans, url, pause = sys.argv[1:]
real = export_writer.ExportWriter._write_case
def slow(*arguments):
    time.sleep(float(pause))
    return real(*arguments)
export_writer.ExportWriter._write_case = slow
exports = open_exports(Path(scans), url)
exports.start()
print("serving", flush=True)
threading.Event().wait()
"""


def open_exports(scans: Path, url: str) -> Exports:
    """The exports of a project as a server of its own has them."""
    workspace = Workspace.of(scans, database_url=url)
    store = FolderDatastore(scans, workspace, ONE)
    return Exports(store, workspace, MapStore(workspace), ScoreBoard(workspace))


def start_server(scans: Path, url: str, pause_s: float) -> subprocess.Popen[str]:
    """Another process that serves exports and takes its time over each case."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(scans), url, str(pause_s)],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "serving\n"
    return process


@pytest.fixture
def store(scans: Path, workspace: Workspace, tmp_path: Path) -> FolderDatastore:
    """a has a second label and a proposal, b one label; c has none."""
    found = open_store(scans, workspace)
    found.set_name("heart")
    found.save_label("a", str(label_file(tmp_path, 0)), "original", {"model": "ugmcl"})
    for variant, reader in ((0, "ann"), (1, "bob")):
        info = {"client_id": reader, "comment": "=thin, wall", "model_version": "v0001-aaaaaa"}
        found.save_label("a", str(label_file(tmp_path, variant)), "final", info)
    found.save_label("b", str(label_file(tmp_path, 2)), "final", {"client_id": "cleo"})
    return found


@pytest.fixture
def exports(store: FolderDatastore) -> Iterator[Exports]:
    workspace = store._workspace
    found = Exports(store, workspace, MapStore(workspace), ScoreBoard(workspace))
    yield found
    found.stop()


def done(exports: Exports, **asked: Any) -> Path:
    found = exports.run_now(asked)
    assert found["status"] == "done", found
    return Path(found["folder"])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def without_digests(stock: dict[str, Any]) -> dict[str, Any]:
    """The objects of a `datastore_v2.json`, without the one thing that we add to it."""
    objects = json.loads(json.dumps(stock["objects"]))
    for found in objects.values():
        for label in found["labels"].values():
            assert len(label["info"].pop("sha256")) == 64
    return dict(objects)


def test_a_plain_folder_holds_images_labels_and_what_is_known_of_them(
    exports: Exports, store: FolderDatastore, scans: Path
) -> None:
    workspace = store._workspace
    RoleSplit(workspace).assign_all(store.final_labels())
    ScoreBoard(workspace).put("b", 0.25, "v0001-aaaaaa")
    values = np.full(SHAPE, 0.5, np.float32)
    summary = {"mc_samples": 2}
    kept = MapStore(workspace).keep("b", scans / "b.nii.gz", values, OBLIQUE, "v0001-aaaaaa", summary)
    folder = done(exports, originals=True, maps=True)
    assert folder == workspace.exports / folder.name
    assert set(tree(folder)) == {
        "dataset.json", "history.csv", "images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz",
        "labels/b.nii.gz", "originals/a.nii.gz", "uncertainty/b.nii.gz",
    }  # fmt: skip
    for name in "ab":
        image, label = folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz"
        assert image.read_bytes() == (scans / f"{name}.nii.gz").read_bytes()
        assert label.read_bytes() == final_file(scans, name).read_bytes()
    assert (folder / "uncertainty/b.nii.gz").read_bytes() == kept.path.read_bytes()
    dataset = json.loads((folder / "dataset.json").read_text())
    assert (dataset["name"], dataset["labels"]) == ("heart", {"0": "background", "1": "foreground"})
    assert (dataset["numTraining"], dataset["test"], dataset["left_out"]) == (2, [], {})
    a, b = dataset["training"]
    assert (a["id"], a["reader"], a["comment"], a["role"]) == ("a", "bob", "=thin, wall", "train")
    assert a["sha256"] == hashlib.sha256((folder / a["label"]).read_bytes()).hexdigest()
    assert (b["score"], b["score_model_version"]) == (0.25, "v0001-aaaaaa")
    assert (b["uncertainty"], b["uncertainty_model_version"]) == ("uncertainty/b.nii.gz", "v0001-aaaaaa")
    keys = ("case_id", "tag", "reader", "state", "exported")
    assert [tuple(row[key] for key in keys) for row in rows(folder)] == [
        ("a", "original", "", "active", "True"),
        ("a", "final", "ann", "replaced", "False"),
        ("a", "final", "bob", "active", "True"),
        ("b", "final", "cleo", "active", "True"),
    ]  # fmt: skip


@ON_SQLITE
def test_monai_reads_the_plain_folder_as_a_data_list(exports: Exports) -> None:
    folder = done(exports, unlabeled=True)
    found = load_decathlon_datalist(str(folder / "dataset.json"), True, "training")
    assert [(entry["image"], entry["label"]) for entry in found] == [
        (f"{folder}/images/{name}.nii.gz", f"{folder}/labels/{name}.nii.gz") for name in "ab"
    ]
    assert [entry["id"] for entry in found] == ["a", "b"]
    test = load_decathlon_datalist(str(folder / "dataset.json"), True, "test")
    assert [entry["image"] for entry in test] == [str(folder / "images" / "c.nii.gz")]


@ON_SQLITE
def test_images_can_be_referred_to_or_left_out(exports: Exports, scans: Path) -> None:
    folder = done(exports, images="reference", cases=["b"])
    assert set(tree(folder)) == {"dataset.json", "history.csv", "labels/b.nii.gz"}
    [entry] = load_decathlon_datalist(str(folder / "dataset.json"), True, "training")
    assert entry["image"] == str(scans / "b.nii.gz")
    folder = done(exports, images="none", cases=["b"])
    [entry] = json.loads((folder / "dataset.json").read_text())["training"]
    assert "image" not in entry


def test_the_stock_datastore_opens_an_export_and_ours_opens_it_again(
    exports: Exports, store: FolderDatastore, tmp_path: Path
) -> None:
    store.update_image_info("c", {"comment": "noisy"})
    folder = done(exports, layout="monailabel", originals=True, unlabeled=True)
    stock = LocalDatastore(str(folder), extensions=["*.nii.gz"])
    assert stock.name() == "heart"
    assert stock.json()["objects"] == store.json()["objects"]
    assert stock.get_labeled_images() == ["a", "b"]
    for tag in ("final", "original"):
        assert (
            Path(stock.get_label_uri("a", tag)).read_bytes()
            == Path(store.get_label_uri("a", tag)).read_bytes()
        )
    again = open_store(folder, Workspace(tmp_path / "elsewhere"))
    assert again.name() == "heart"
    assert again.quarantined() == []
    assert again.final_labels() == store.final_labels()
    assert again.json()["objects"] == store.json()["objects"]
    for name, reader in (("a", "bob"), ("b", "cleo")):
        [version] = again.label_history(name)
        assert (version["source"], version["reader"]) == ("imported", reader)
    [proposal] = again.label_history("a", "original")
    assert (proposal["tool"], proposal["state"]) == ("ugmcl", "active")


def test_a_folder_of_the_stock_server_is_taken_in_and_exported_as_it_was(
    scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    stock = LocalDatastore(str(scans), extensions=["*.nii.gz"])
    stock.set_name("stock project")
    stock.update_image_info("b", {"strategy": {"random": {"ts": 5, "client_id": "ann"}}})
    for case, tag, variant, info in (
        ("a", "final", 0, {"client_id": "ann", "label_info": [{"name": "foreground", "idx": 1}]}),
        ("a", "original", 1, {"params": {"model": "deepedit", "latencies": {"total": 1.5}}}),
        ("b", "original", 2, {"params": {"model": "deepedit"}}),
    ):
        stock.save_label(case, str(label_file(tmp_path, variant)), tag, info)
    expected = stock.json()["objects"]
    store = open_store(scans, workspace)
    assert without_digests(store.json()) == expected
    assert list(store.final_labels()) == ["a"]
    [version] = store.label_history("a")
    assert (version["reader"], version["created_at"]) == (
        "ann",
        expected["a"]["labels"]["final"]["info"]["ts"],
    )
    assert store.label_history("b", "original")[0]["tool"] == "deepedit"
    exports = Exports(store, store._workspace, MapStore(workspace), ScoreBoard(workspace))
    folder = done(exports, layout="monailabel", originals=True, unlabeled=True)
    again = LocalDatastore(str(folder), extensions=["*.nii.gz"])
    assert without_digests(again.json()) == expected
    for tag in ("final", "original"):
        assert (
            Path(again.get_label_uri("a", tag)).read_bytes()
            == Path(stock.get_label_uri("a", tag)).read_bytes()
        )


def test_an_export_holds_the_labels_of_its_beginning(
    exports: Exports, store: FolderDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.final_labels()
    real = export_writer.ExportWriter._write_case

    def relabel_first(*arguments: Any) -> Any:
        store.save_label("b", str(label_file(tmp_path, 4)), "final", {"client_id": "late"})
        return real(*arguments)

    monkeypatch.setattr(export_writer.ExportWriter, "_write_case", relabel_first)
    folder = done(exports)
    for name, digest in before.items():
        assert hashlib.sha256((folder / f"labels/{name}.nii.gz").read_bytes()).hexdigest() == digest
    assert "late" not in {row["reader"] for row in rows(folder)}
    assert store.final_labels()["b"] != before["b"]


@ON_SQLITE
def test_a_case_that_cannot_be_had_is_left_out_and_said(
    exports: Exports, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports.request({})
    (scans / "a.nii.gz").rename(scans / "a.away")  # between the request and the writing
    found = exports.run_now({})
    assert found["status"] == "done"
    assert found["progress"] == {"written": 2, "cases": 2, "left_out": 1}
    assert "Left out: 1, such as 'a'. Its image cannot be opened" in found["reason"]
    folder = Path(found["folder"])
    assert [path.name for path in (folder / "labels").iterdir()] == ["b.nii.gz"]
    assert list(json.loads((folder / "dataset.json").read_text())["left_out"]) == ["a"]


@ON_SQLITE
def test_a_full_disk_fails_the_export_and_leaves_nothing(
    exports: Exports, store: FolderDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(store._workspace.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=export_writer.RESERVE_BYTES))
    found = exports.run_now({})
    assert (found["status"], found["folder"]) == ("failed", None)
    assert "has 256 MiB left" in found["reason"]
    assert list(store._workspace.exports.iterdir()) == []
    monkeypatch.undo()
    assert exports.run_now({})["status"] == "done"


@ON_SQLITE
@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        ({"layout": "bids"}, 422, "layout 'bids' is not known here; allowed: folder, monailabel"),
        ({"images": "links"}, 422, "allowed: copy, reference, none"),
        ({"layout": "monailabel", "images": "none"}, 422, "together with its images"),
        ({"images": "none", "unlabeled": True}, 422, "images are all there is"),
        ({"cases": ["a", "nobody"]}, 404, "no image 'nobody'"),
        ({"cases": ["a", "\ud800"]}, 400, "not allowed"),
        ({"cases": ["a", "c"]}, 409, "Without a final label: 1 of the chosen cases, such as 'c'"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_there_is_a_job(
    exports: Exports, asked: dict[str, Any], status: int, sentence: str
) -> None:
    with pytest.raises(Refusal, match=sentence) as refusal:
        exports.request(asked)
    assert refusal.value.status_code == status
    assert exports.every() == []


@ON_SQLITE
def test_without_any_label_there_is_nothing_to_export(scans: Path, workspace: Workspace) -> None:
    store = open_store(scans, workspace)
    exports = Exports(store, store._workspace, MapStore(workspace), ScoreBoard(workspace))
    with pytest.raises(Refusal, match="no image has a final label"):
        exports.request({})


def test_one_request_waits_once_and_ends_as_it_was_told(exports: Exports, store: FolderDatastore) -> None:
    first = exports.request({})
    assert exports.request({})["id"] == first["id"]
    other = exports.request({"maps": True})
    assert other["id"] != first["id"]
    assert exports.pause(first["id"])["status"] == "paused"
    assert exports.run_now({"maps": True})["status"] == "done", "it does not wait for the paused one"
    with pytest.raises(Refusal, match=r"is paused and cannot be paused; .* running or waiting"):
        exports.pause(first["id"])
    with pytest.raises(Refusal, match="is paused and cannot be removed"):
        exports.remove(first["id"])
    with pytest.raises(Refusal, match="is paused and cannot be downloaded"):
        exports.folder_of(first["id"])
    assert exports.resume(first["id"])["status"] == "queued"
    assert exports.cancel(first["id"])["status"] == "cancelled"
    with pytest.raises(Refusal, match="is cancelled and cannot be cancelled"):
        exports.cancel(first["id"])
    assert exports.folder_of(other["id"]).is_dir()
    exports.remove(other["id"])
    assert exports.find(other["id"])["folder"] is None
    with pytest.raises(Refusal, match="were removed"):
        exports.folder_of(other["id"])
    with pytest.raises(Refusal, match=r"There is no export '\.\./models' here"):
        exports.find("../models")
    assert list(store._workspace.exports.iterdir()) == []


def test_a_running_export_pauses_goes_on_and_is_cancelled_without_a_trace(
    exports: Exports, store: FolderDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, begun = threading.Event(), threading.Event()
    real = export_writer.ExportWriter._write_case
    written: list[str] = []

    def slow(*arguments: Any) -> Any:
        if written:  # the first case is on disk, the second one waits
            begun.set()
            held.wait(60)
        found = real(*arguments)
        written.append(found.case.id)
        return found

    monkeypatch.setattr(export_writer.ExportWriter, "_write_case", slow)
    exports.start()
    export_id = exports.request({})["id"]
    assert begun.wait(60)
    wait_for(lambda: exports.follow(export_id)["progress"] == {"written": 1, "cases": 2})
    exports.pause(export_id)
    [growing] = store._workspace.exports.iterdir()
    first = (growing / "labels/a.nii.gz").stat().st_mtime_ns
    wait_for(lambda: not held.is_set() and exports.find(export_id)["status"] == "paused")
    held.set()
    exports.stop()
    assert exports.follow(export_id) | {"progress": 0} == {
        "id": export_id, "status": "paused", "progress": 0, "reason": "", "folder": None, "ended": False,
    }  # fmt: skip
    exports.resume(export_id)
    exports.start()
    wait_for(lambda: exports.follow(export_id)["ended"])
    folder = exports.folder_of(export_id)
    assert (folder / "labels/a.nii.gz").stat().st_mtime_ns == first, "it was not written twice"
    assert [path.name for path in store._workspace.exports.iterdir()] == [export_id]

    held.clear()
    begun.clear()
    again = exports.request({})["id"]
    assert begun.wait(60)
    assert exports.cancel(again)["status"] == "cancelled"
    held.set()
    wait_for(lambda: [path.name for path in store._workspace.exports.iterdir()] == [export_id])


def test_a_killed_server_doubles_and_forgets_no_export_and_the_other_goes_on(
    scans: Path, workspace: Workspace, store: FolderDatastore, exports: Exports
) -> None:
    process = start_server(scans, workspace.database_url, 3.0)  # seen written between two heartbeats
    try:
        export_id = exports.request({})["id"]
        wait_for(lambda: exports.find(export_id)["progress"].get("written") == 1)
        [growing] = workspace.exports.iterdir()
        first = (growing / "labels/a.nii.gz").stat().st_mtime_ns
        assert ExportJobs(workspace.database).take() is None, "it belongs to a server that is alive"
    finally:
        end(process)
    exports.start()
    wait_for(lambda: exports.find(export_id)["status"] == "done")
    folder = exports.folder_of(export_id)
    assert set(tree(folder)) == {
        "dataset.json", "history.csv", "images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz",
        "labels/b.nii.gz",
    }  # fmt: skip
    assert (folder / "labels/a.nii.gz").stat().st_mtime_ns == first, "what was written was taken over"
    assert [path.name for path in workspace.exports.iterdir()] == [export_id]
    [job] = exports.every()
    assert job["progress"] == {"written": 2, "cases": 2, "left_out": 0}


@ON_SQLITE
def test_an_export_cut_off_after_its_last_file_is_done_and_not_written_again(
    exports: Exports, workspace: Workspace
) -> None:
    folder = done(exports)
    jobs = ExportJobs(workspace.database)
    export_id = exports.request({})["id"]
    assert jobs.take() is not None
    folder.rename(workspace.exports / export_id)
    exports._jobs.owner = jobs.owner  # as the process that takes it over
    assert exports._work()
    assert exports.find(export_id)["status"] == "done"


@ON_SQLITE
def test_files_whose_plan_is_gone_are_not_mixed_with_newer_labels(
    exports: Exports, store: FolderDatastore, workspace: Workspace
) -> None:
    export_id = exports.request({})["id"]
    growing = exports._folders.claim(export_id, 0)
    (growing / "labels").mkdir()
    (growing / "labels" / "a.nii.gz").write_bytes(b"an older version")
    assert exports._work()
    label = exports.folder_of(export_id) / "labels" / "a.nii.gz"
    assert hashlib.sha256(label.read_bytes()).hexdigest() == store.final_labels()["a"]


@ON_SQLITE
def test_who_lost_the_folder_in_the_middle_completes_nothing(
    exports: Exports, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export_writer.ExportWriter._write_case

    def taken_over(*arguments: Any) -> Any:
        growing = arguments[1]
        if growing.name.endswith(".1") and arguments[3].id == "b":
            growing.rename(growing.with_name(growing.name[:-1] + "2"))
        return real(*arguments)

    monkeypatch.setattr(export_writer.ExportWriter, "_write_case", taken_over)
    export_id = exports.request({})["id"]
    assert exports._work()
    assert exports.find(export_id)["status"] == "failed"
    assert not (workspace.exports / export_id).exists()


def test_a_former_owner_that_is_only_slow_writes_elsewhere_and_ends_nothing(
    exports: Exports, workspace: Workspace, store: FolderDatastore
) -> None:
    exports.request({})
    slow = ExportJobs(workspace.database)
    taken = slow.take()
    assert taken is not None
    growing = exports._folders.claim(taken.id, taken.attempt)
    exports._jobs.owner = slow.owner
    assert exports._work()
    assert not growing.exists()
    assert not slow.end(taken.job_id, "failed", "late", {})
    assert exports.find(taken.id)["status"] == "done"
    assert ExportRequest.of({}) == taken.request


@ON_SQLITE
def test_scans_that_are_no_nifti_and_odd_names_are_exported_too(
    scans: Path, workspace: Workspace, tmp_path: Path
) -> None:
    write_nifti(scans / "d e.ü.nii", scan(seed=7))
    store = open_store(scans, workspace)
    store.save_label("d e.ü", str(label_file(tmp_path)), "final", {})
    exports = Exports(store, store._workspace, MapStore(workspace), ScoreBoard(workspace))
    folder = done(exports)
    assert {"images/d e.ü.nii", "labels/d e.ü.nii.gz"} < set(tree(folder))


def test_what_a_killed_attempt_was_writing_is_no_part_of_the_export(tmp_path: Path) -> None:
    folders = ExportFolders(tmp_path)
    first = folders.claim("e1", 1)
    (first / "images").mkdir()
    (first / "images" / "a.nii.gz").write_bytes(b"whole")
    (first / "images" / ".k3j2.tmp").write_bytes(b"cut sho")
    folders.complete(folders.claim("e1", 2), "e1")
    assert set(tree(folders.of("e1"))) == {"images/a.nii.gz"}
