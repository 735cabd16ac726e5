"""The folder of scans: what it serves, what it sets aside, and that no label is lost or half written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.catalogue import case_source
from lib.datastore import FolderDatastore
from lib.errors import Refusal
from lib.maps import MapStore
from lib.volumes import read_header, read_label, write_label
from lib.workspace import Workspace
from tests import light_process
from tests.app.scan_support import OBLIQUE, SHAPE, block, cut, put_bad_files, scan, tree, write_nifti

ONE = {"foreground": 1}


@pytest.fixture
def store(scans: Path, project: Workspace) -> FolderDatastore:
    return FolderDatastore(scans, project, ONE)


@pytest.fixture
def label(tmp_path: Path) -> Path:
    return write_nifti(tmp_path / "submitted.nii.gz", block())


def refused(status: int, action: Any, *arguments: Any) -> str:
    with pytest.raises(Refusal) as caught:
        action(*arguments)
    assert caught.value.status_code == status, caught.value.detail
    return str(caught.value.detail)


def reopen(store: FolderDatastore) -> FolderDatastore:
    store.stop()
    return FolderDatastore(store._folder, store._workspace, store.labels, store.allow_empty)


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


# --- scans


def test_a_folder_of_scans_is_listed_without_any_preparation(store: FolderDatastore, scans: Path) -> None:
    assert store.list_images() == store.get_unlabeled_images() == ["a", "b", "c"]
    assert store.get_image_uri("a") == str(scans / "a.nii.gz")
    assert store.status() == {"total": 3, "completed": 0, "label_tags": {}, "quarantined": []}
    assert store.get_image_info("a")["path"] == str(scans / "a.nii.gz")


def test_unusable_files_are_set_aside_with_a_reason_and_stay_where_they_are(
    scans: Path, project: Workspace
) -> None:
    expected = put_bad_files(scans)
    before = tree(scans)
    store = FolderDatastore(scans, project, ONE)
    assert store.list_images() == ["a", "b", "c"]
    reasons = {entry["file"]: entry["reason"] for entry in store.status()["quarantined"]}
    assert set(reasons) == set(expected)
    for name, word in expected.items():
        assert word in reasons[name], name
    after = tree(scans)
    assert {name: after[name] for name in before} == before
    assert "set aside" in refused(404, store.get_image_info, "flat")
    assert store.get_image_uri("flat") == ""
    json.dumps(store.status())


def test_names_with_dots_and_extensions_inside_keep_their_ids(scans: Path, project: Workspace) -> None:
    write_nifti(scans / "x.nii.v2.nii.gz", scan())
    write_nifti(scans / "1.2.840.113.nii", scan())
    store = FolderDatastore(scans, project, ONE)
    assert {"x.nii.v2", "1.2.840.113"} <= set(store.list_images())
    assert store.get_image_uri("x.nii.v2") == str(scans / "x.nii.v2.nii.gz")


@pytest.mark.parametrize(("given", "meant"), [("SCAN.NII.GZ", "SCAN.nii.gz"), ("x.Nrrd", "x.nrrd")])
def test_an_extension_in_capitals_is_listed_with_the_name_it_should_have(
    scans: Path, project: Workspace, given: str, meant: str
) -> None:
    (scans / "a.nii.gz").rename(scans / given)
    store = FolderDatastore(scans, project, ONE)
    assert store.list_images() == ["b", "c"]
    assert [entry["file"] for entry in store.quarantined()] == [given]
    assert f"rename it to '{meant}'" in store.quarantined()[0]["reason"]
    (scans / given).rename(scans / meant)
    store.refresh()
    assert store.quarantined() == []
    assert meant.split(".")[0] in store.list_images()


def test_an_uploaded_file_with_its_extension_in_capitals_gets_an_id_without_it(
    store: FolderDatastore, tmp_path: Path
) -> None:
    upload = write_nifti(tmp_path / "up.nii.gz", scan(seed=5)).rename(tmp_path / "UP.NII.GZ")
    assert store.add_image("", str(upload), {}) == "UP"
    assert store.get_image_uri("UP").endswith("/UP.nii.gz")


def test_two_files_with_one_id_are_not_confused(scans: Path, project: Workspace) -> None:
    write_nifti(scans / "a.nii", scan(seed=9))
    store = FolderDatastore(scans, project, ONE)
    assert store.list_images().count("a") == 1
    assert "same id" in store.quarantined()[0]["reason"]


def test_a_large_pool_is_read_in_the_background_and_a_bad_scan_is_never_served(
    scans: Path, project: Workspace
) -> None:
    write_nifti(scans / "flat.nii.gz", np.full(SHAPE, 7, np.int16))
    store = FolderDatastore(scans, project, ONE, start_check_s=0.0)
    assert "flat" in store.list_images()  # its header is fine, and there was no time for more
    assert not store.is_usable("flat")
    assert "flat" not in store.list_images()
    assert store.is_usable("a")


def test_the_background_thread_reads_what_a_start_left_out(scans: Path, project: Workspace) -> None:
    write_nifti(scans / "flat.nii.gz", np.full(SHAPE, 7, np.int16))
    store = FolderDatastore(scans, project, ONE, start_check_s=0.0)
    store.start(period_s=0.05)
    try:
        wait_until(lambda: "flat" not in store.list_images())
        write_nifti(scans / "d.nii.gz", scan(seed=4))
        wait_until(lambda: "d" in store.list_images())
        (scans / "d.nii.gz").unlink()
        wait_until(lambda: "d" not in store.list_images())
    finally:
        store.stop()


def test_a_second_start_does_not_read_the_pool_again(
    scans: Path, project: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bad_files(scans)
    first = FolderDatastore(scans, project, ONE)
    monkeypatch.setattr(case_source, "read_image", lambda path, voxels: pytest.fail(f"read {path} again"))
    second = FolderDatastore(scans, project, ONE)
    assert second.quarantined() == first.quarantined()


def test_a_repaired_file_joins_the_pool(scans: Path, project: Workspace) -> None:
    cut(write_nifti(scans / "d.nii.gz", scan()))
    store = FolderDatastore(scans, project, ONE)
    assert "d" not in store.list_images()
    write_nifti(scans / "d.nii.gz", scan())
    store.refresh()
    assert "d" in store.list_images()


def test_a_folder_that_cannot_be_listed_for_a_moment_changes_nothing(
    store: FolderDatastore, scans: Path
) -> None:
    scans.rename(scans.with_name("gone"))
    store.refresh()
    assert store.list_images() == ["a", "b", "c"]
    scans.with_name("gone").rename(scans)


def test_an_added_image_is_checked_first(store: FolderDatastore, scans: Path, tmp_path: Path) -> None:
    upload = write_nifti(tmp_path / "tmpabc.nii.gz", scan(seed=5))
    assert store.add_image("new.case", str(upload), {"user": "x"}) == "new.case"
    assert "new.case" in store.list_images()
    assert store.get_image_info("new.case")["user"] == "x"
    before = tree(scans)
    (tmp_path / "junk.nii.gz").write_bytes(b"no image")
    assert "cannot be used" in refused(422, store.add_image, "bad", str(tmp_path / "junk.nii.gz"), {})
    refused(400, store.add_image, "../bad", str(upload), {})
    refused(422, store.add_image, "bad", str(upload), ["params"])
    assert tree(scans) == before


def test_an_image_with_labels_is_not_replaced(store: FolderDatastore, tmp_path: Path, label: Path) -> None:
    store.save_label("a", str(label), "final", {})
    other = write_nifti(tmp_path / "o.nii.gz", scan(seed=6))
    refused(409, store.add_image, "a", str(other), {})
    store.add_image("a", store.get_image_uri("a"), {})
    assert store.final_labels().keys() == {"a"}


def test_a_removed_image_takes_its_labels_and_map_along(
    store: FolderDatastore, scans: Path, project: Workspace, label: Path
) -> None:
    store.save_label("a", str(label), "final", {})
    summary = {"mc_samples": 8}
    maps, values = MapStore(project), np.zeros(SHAPE, np.float32)
    maps.keep("a", scans / "a.nii.gz", values, np.eye(4), "v1", summary)
    maps.as_nrrd("a")
    store.remove_image("a")
    assert not list(scans.rglob("a.*"))
    write_nifti(scans / "a.nii.gz", scan())
    assert maps.find("a", scans / "a.nii.gz") is None
    (scans / "a.nii.gz").unlink()
    assert reopen(store).list_images() == ["b", "c"]
    refused(404, store.remove_image, "a")
    refused(400, store.remove_image, "../a")


# --- labels


def test_a_saved_label_is_stored_on_the_images_grid(
    store: FolderDatastore, scans: Path, tmp_path: Path
) -> None:
    swap = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, SHAPE[2] - 1], [0, 0, 0, 1.0]])
    affine = read_header(scans / "a.nii.gz").affine
    turned = np.transpose(block(), (1, 0, 2))[:, :, ::-1].astype(np.float32)
    write_label(tmp_path / "l.nrrd", turned, affine @ swap)
    info = {"label_info": [{"name": "My segment", "idx": 1}], "client_id": "reader"}
    assert store.save_label("a", str(tmp_path / "l.nrrd"), "final", info) == "a"
    array, found = read_label(scans / "labels" / "final" / "a.nii.gz")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, block())
    np.testing.assert_array_equal(found, affine)
    kept = store.get_label_info("a", "final")
    assert kept["client_id"] == "reader"
    assert kept["label_info"] == [{"name": "foreground", "idx": 1}]
    assert kept["sha256"] == store.final_labels()["a"]


def test_saved_labels_survive_a_restart_with_all_they_came_with(store: FolderDatastore, label: Path) -> None:
    store.save_label("a", str(label), "final", {"client_id": "reader"})
    empty = write_nifti(label.with_name("e.nii.gz"), np.zeros(SHAPE, np.uint8))
    store.save_label("b", str(empty), "final", {"no_finding": True})
    again = reopen(store)
    assert again.final_labels() == store.final_labels()
    assert again.get_label_info("a", "final") == store.get_label_info("a", "final")
    assert again.get_label_info("b", "final")["no_finding"] is True


def test_refused_labels_change_nothing_on_disk(store: FolderDatastore, scans: Path, tmp_path: Path) -> None:
    other_grid = write_nifti(tmp_path / "g.nii.gz", block((12, 10, 9)))
    unknown_value = write_nifti(tmp_path / "u.nii.gz", block(value=5))
    empty = write_nifti(tmp_path / "e.nii.gz", np.zeros(SHAPE, np.uint8))
    good = write_nifti(tmp_path / "x.nii.gz", block())
    before = tree(scans)
    for path in (other_grid, unknown_value, empty):
        refused(422, store.save_label, "a", str(path), "final", {})
    refused(404, store.save_label, "nobody", str(good), "final", {})
    refused(400, store.save_label, "../a", str(good), "final", {})
    refused(400, store.save_label, "a", str(good), "../../x", {})
    refused(422, store.save_label, "a", str(good), "final", "no object")
    refused(422, store.save_label, "a", str(good), "final", {"no_finding": True})
    assert tree(scans) == before
    assert tree(tmp_path).keys() >= {"x.nii.gz", "e.nii.gz"}


def test_a_label_of_an_unusable_image_is_refused(scans: Path, project: Workspace, label: Path) -> None:
    write_nifti(scans / "flat.nii.gz", np.full(SHAPE, 7, np.int16))
    store = FolderDatastore(scans, project, ONE, start_check_s=0.0)
    assert "set aside" in refused(404, store.save_label, "flat", str(label), "final", {})


def test_labels_dropped_into_the_folder_count_and_bad_ones_do_not(
    store: FolderDatastore, scans: Path
) -> None:
    calls: list[int] = []
    store.on_labels_changed.append(lambda: calls.append(1))
    final = scans / "labels" / "final"
    write_nifti(final / "a.nii.gz", block().astype(np.int16))
    write_nifti(final / "b.nii.gz", block(value=9))
    write_nifti(final / "c.nii.gz", np.zeros(SHAPE, np.uint8))
    write_nifti(final / "nobody.nii.gz", block())
    (final / "._a.nii.gz").write_bytes(b"\0")
    store.refresh()
    assert list(store.final_labels()) == store.get_labeled_images() == ["a"]
    assert calls == [1]
    reasons = {entry["file"]: entry["reason"] for entry in store.quarantined()}
    assert "the value 9" in reasons["labels/final/b.nii.gz"]
    assert "empty" in reasons["labels/final/c.nii.gz"]
    assert "no usable image" in reasons["labels/final/nobody.nii.gz"]
    store.refresh()
    assert calls == [1]


def test_a_label_edited_or_deleted_in_the_folder_is_noticed(
    store: FolderDatastore, scans: Path, label: Path
) -> None:
    store.save_label("a", str(label), "final", {})
    before = store.final_labels()
    path = scans / "labels" / "final" / "a.nii.gz"
    edited = block()
    edited[0, 0, 0] = 1
    write_nifti(path, edited)
    store.refresh()
    assert store.final_labels()["a"] != before["a"]
    cut(path)
    store.refresh()
    assert store.final_labels() == {}
    store.save_label("a", str(label), "final", {})
    assert store.final_labels() == before
    store.refresh()
    assert store.final_labels() == before
    path.unlink()
    store.refresh()
    assert store.final_labels() == {}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("missing", ["labels", "scans"])
def test_a_label_that_is_gone_for_a_moment_keeps_all_that_came_with_it(
    store: FolderDatastore, scans: Path, label: Path, missing: str, restart: bool
) -> None:
    empty = write_nifti(label.with_name("e.nii.gz"), np.zeros(SHAPE, np.uint8))
    store.save_label("a", str(label), "final", {"client_id": "reader"})
    store.save_label("b", str(empty), "final", {"no_finding": True})
    before, info = store.final_labels(), [store.get_label_info(i, "final") for i in "ab"]
    final = scans / "labels" / "final"
    files = [folder / f"{i}.nii.gz" for folder in (final if missing == "labels" else scans,) for i in "ab"]
    for file in files:
        file.rename(file.with_suffix(".away"))
    store.refresh()
    assert store.final_labels() == {}
    if restart:
        store = reopen(store)
        assert store.final_labels() == {}
    for file in files:
        file.with_suffix(".away").rename(file)
    store.refresh()
    assert store.final_labels() == before
    assert [store.get_label_info(i, "final") for i in "ab"] == info
    assert store.quarantined() == []


def test_another_label_in_the_place_of_one_that_had_gone_is_not_taken_for_it(
    store: FolderDatastore, scans: Path, label: Path
) -> None:
    store.save_label("a", str(label), "final", {"client_id": "reader"})
    path = scans / "labels" / "final" / "a.nii.gz"
    kept = path.read_bytes()
    path.unlink()
    store.refresh()
    edited = block()
    edited[0, 0, 0] = 1
    write_nifti(path, edited)
    store.refresh()
    assert "client_id" not in store.get_label_info("a", "final")
    store.remove_label("a", "final")
    path.write_bytes(kept)
    store.refresh()
    assert "client_id" not in store.get_label_info("a", "final"), "removed on purpose, then put back by hand"


@pytest.mark.parametrize("name", ["a.nii.gz", "labels/final/a.nii.gz"])
def test_a_file_that_could_not_be_read_for_a_moment_is_tried_again(
    store: FolderDatastore, scans: Path, label: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_label("a", str(label), "final", {"client_id": "reader"})
    before = store.final_labels()
    os.utime(scans / name)  # touched, so that it is read again
    opened = Path.open

    def fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == scans / name:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return opened(path, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", fail)
        store.refresh(voxels_s=10)
        assert store.final_labels() == {}
    store.refresh(voxels_s=10)
    assert store.final_labels() == before
    assert store.get_label_info("a", "final")["client_id"] == "reader"


def test_listeners_hear_of_final_labels_only(store: FolderDatastore, label: Path) -> None:
    heard: list[dict[str, str]] = []
    store.on_labels_changed.append(lambda: heard.append(store.final_labels()))
    store.save_label("a", str(label), "original", {})
    assert heard == []
    assert store.get_labels_by_image_id("a") == {"original": "a"}
    store.save_label("a", str(label), "final", {})
    store.remove_label("a", "final")
    assert [list(labels) for labels in heard] == [["a"], []]
    refused(404, store.remove_label, "a", "final")


def test_a_failing_listener_loses_no_label(store: FolderDatastore, label: Path) -> None:
    def fail() -> None:
        raise RuntimeError("listener")

    store.on_labels_changed.append(fail)
    store.save_label("a", str(label), "final", {})
    assert list(store.final_labels()) == ["a"]


def test_a_listener_that_failed_is_told_again(store: FolderDatastore, label: Path) -> None:
    heard: list[int] = []

    def listen() -> None:
        heard.append(1)
        if len(heard) == 1:
            raise OSError("the database is away")

    store.on_labels_changed.append(listen)
    store.save_label("a", str(label), "final", {})
    store.refresh()
    store.refresh()
    assert heard == [1, 1], "until it has heard, and then no more"


def test_concurrent_submits_of_one_case_leave_one_whole_label(
    store: FolderDatastore, scans: Path, tmp_path: Path
) -> None:
    store.start(period_s=0.01)
    files = []
    for index in range(6):
        array = block()
        array[index, 0, 0] = 1
        files.append(write_nifti(tmp_path / f"{index}.nii.gz", array))
    threads = [
        threading.Thread(target=store.save_label, args=(case, str(path), "final", {"n": index}))
        for index, path in enumerate(files * 4)
        for case in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.stop()
    again = reopen(store)
    for case in ("a", "b"):
        array, _ = read_label(scans / "labels" / "final" / f"{case}.nii.gz")
        kept = again.get_label_info(case, "final")
        np.testing.assert_array_equal(array, read_label(files[kept["n"] % 6])[0])
    assert again.final_labels() == store.final_labels()


def test_what_another_process_wrote_is_not_lost(store: FolderDatastore, label: Path) -> None:
    other = FolderDatastore(store._folder, store._workspace, ONE)
    store.save_label("a", str(label), "final", {"client_id": "one"})
    other.save_label("b", str(label), "final", {"client_id": "two"})
    store.update_image_info("c", {"note": "seen"})
    again = reopen(store)
    assert again.get_label_info("a", "final")["client_id"] == "one"
    assert again.get_label_info("b", "final")["client_id"] == "two"


# --- the file


@pytest.mark.parametrize("content", [b"", b'{"name": "x", "objects": {"a', b"[]", b"\xff\xfe"])
def test_a_damaged_datastore_file_is_kept_and_rebuilt(
    store: FolderDatastore, scans: Path, label: Path, content: bytes
) -> None:
    store.save_label("a", str(label), "final", {})
    store.export_stock_file().write_bytes(content)
    again = reopen(store)
    assert again.list_images() == ["a", "b", "c"]
    assert again.final_labels() == store.final_labels()
    [kept] = scans.glob("datastore_v2.json.corrupt-*")
    assert kept.read_bytes() == content


def test_an_edited_datastore_file_cannot_point_outside_the_folder(
    store: FolderDatastore, scans: Path
) -> None:
    file = store.export_stock_file()
    content = json.loads(file.read_text())
    content["images_dir"] = "/etc"
    content["objects"]["../../etc/x"] = {"image": {"ext": ".nii.gz"}}
    content["objects"]["a"]["image"]["ext"] = "/../../../etc/passwd"
    file.write_text(json.dumps(content))
    again = reopen(store)
    assert again.list_images() == ["a", "b", "c"]
    assert again.get_image_uri("a") == str(scans / "a.nii.gz")


KILLED = """
import sys
from lib.datastore import FolderDatastore
from lib.workspace import Workspace
store = FolderDatastore(sys.argv[1], Workspace.of(sys.argv[1]), {"foreground": 1})
print("ready", flush=True)
while True:
    for name in sys.argv[2:]:
        store.save_label("a", name, "final", {"file": name})
"""


def test_a_killed_server_leaves_whole_files(scans: Path, project: Workspace, tmp_path: Path) -> None:
    files = []
    for index in range(2):
        array = block()
        array[index, 0, 0] = 1
        files.append(str(write_nifti(tmp_path / f"{index}.nii.gz", array)))
    process = subprocess.Popen(
        light_process.command(KILLED, scans, *files),
        stdout=subprocess.PIPE,
        env=light_process.environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = FolderDatastore(scans, project, ONE)
    array, _ = read_label(store.get_label_uri("a", "final"))
    assert any((array == read_label(path)[0]).all() for path in files)
    assert not list(scans.glob("*.corrupt-*"))


def test_the_data_set_can_be_downloaded_once_there_is_a_label(store: FolderDatastore, label: Path) -> None:
    refused(404, store.get_dataset_archive, None)
    store.save_label("a", str(label), "final", {})
    archive = Path(store.get_dataset_archive(None))
    assert archive.stat().st_size > 0
    archive.unlink()
    assert store.datalist() == [
        {"image": store.get_image_uri("a"), "label": store.get_label_uri("a", "final")}
    ]
    assert store.datalist(full_path=False) == [{"image": "a.nii.gz", "label": "labels/final/a.nii.gz"}]


def test_a_data_set_that_cannot_be_packed_leaves_no_half_of_it(
    store: FolderDatastore, scans: Path, label: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for image_id in "ab":
        store.save_label(image_id, str(label), "final", {})
    (scans / "b.nii.gz").unlink()
    packed = tmp_path / "packed"
    packed.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(packed))
    assert "ask again" in refused(409, store.get_dataset_archive, None)
    assert list(packed.iterdir()) == []
    store.refresh()
    with zipfile.ZipFile(store.get_dataset_archive(None)) as archive:
        assert archive.namelist() == ["image/a.nii.gz", "label/a.nii.gz", "metadata.json"]


def test_oblique_labels_made_from_the_scans_geometry_are_accepted(
    store: FolderDatastore, tmp_path: Path
) -> None:
    write_label(
        tmp_path / "o.nrrd", block(), OBLIQUE
    )  # the float64 affine that the scan's header only nearly holds
    store.save_label("a", str(tmp_path / "o.nrrd"), "final", {})
