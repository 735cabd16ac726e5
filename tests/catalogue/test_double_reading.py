"""Cases that several readers label: apart until all are in; then they agree, or an adjudicator decides."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lib.catalogue import readings
from lib.catalogue.label_store import LabelStore
from lib.datastore import FolderDatastore
from lib.errors import Refusal
from lib.offers import CaseOffers
from lib.workspace import Workspace
from tests import light_process
from tests.app.scan_support import block, scan, write_nifti
from tests.catalogue.label_support import final_file, label_file, open_store


@pytest.fixture
def store(scans: Path, workspace: Workspace) -> FolderDatastore:
    return open_store(scans, workspace)


@pytest.fixture
def desk(store: FolderDatastore) -> CaseOffers:
    return CaseOffers(store, store._database, lease_s=3600.0)


@pytest.fixture
def alike(tmp_path: Path) -> Path:
    """A label of 26 voxels; it has 25 in common with each other variant of `label_file`."""
    return label_file(tmp_path, 0)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A label that has nothing in common with `alike`."""
    return write_nifti(tmp_path / "other.nii.gz", np.roll(block(), 4, axis=0))


def submit(store: FolderDatastore, reader: str, file: Path, case: str = "a", **told: Any) -> None:
    store.save_label(case, str(file), "final", {"client_id": reader, **told})


def ask(desk: CaseOffers, reader: str) -> str | None:
    found = desk.next(reader, "first", "id")
    return None if found is None else found.id


def states(store: FolderDatastore, case: str = "a") -> list[tuple[str, str, str]]:
    return [(v["reader"], v["state"], v["source"]) for v in store.label_history(case)]


def voxels(path: Path) -> Any:
    return np.asarray(nibabel.load(path).dataobj)


def test_a_case_for_two_is_given_to_two_readers_and_to_nobody_twice(
    desk: CaseOffers, store: FolderDatastore, alike: Path
) -> None:
    planned = {"id": "a", "priority": 0, "assigned_to": None, "readers_wanted": 2}
    assert desk.plan("a", readers_wanted=2) == planned
    assert [ask(desk, reader) for reader in ("ann", "bob", "cleo")] == ["a", "a", "b"]
    submit(store, "ann", alike)
    assert [lease["reader"] for lease in desk.current()] == ["bob", "cleo"]
    assert ask(desk, "ann") == "c", "a is read by her, b is cleo's"
    submit(store, "ann", alike, "c")
    assert ask(desk, "ann") == "b", "shared: of all that is left, a is not hers to read again"
    desk.give_back("a", "bob")
    assert ask(desk, "dora") == "a"
    assert ask(desk, "") != "a"


def test_a_reading_is_no_label_until_the_other_is_in(
    desk: CaseOffers, store: FolderDatastore, scans: Path, tmp_path: Path
) -> None:
    heard: list[dict[str, str]] = []
    store.on_labels_changed.append(lambda: heard.append(store.final_labels()))
    desk.plan("a", readers_wanted=2)
    submit(store, "ann", label_file(tmp_path, 0), comment="edge unsure")
    assert (store.final_labels(), heard, final_file(scans, "a").exists()) == ({}, [], False)
    assert store.status()["completed"] == 0
    assert list(store.unlabeled_in_order("id")) == ["a", "b", "c"]
    store.refresh()
    submit(store, "bob", label_file(tmp_path, 1))
    assert states(store) == [
        ("ann", "reading", "submitted"),
        ("bob", "reading", "submitted"),
        ("ann", "active", "agreed"),
    ]
    ann, _, label = store.label_history("a")
    assert (label["sha256"], label["comment"]) == (ann["sha256"], "edge unsure")
    assert label["info"]["reading"] == ann["uid"]
    assert heard == [{"a": ann["sha256"]}]
    assert LabelStore.digest(final_file(scans, "a").read_bytes()) == ann["sha256"]
    assert store.readings.queue(10)["adjudications"] == []
    assert list(store.unlabeled_in_order("id")) == ["b", "c"]


def test_of_three_the_label_nearest_to_the_others_stands(
    desk: CaseOffers, store: FolderDatastore, tmp_path: Path
) -> None:
    desk.plan("a", readers_wanted=3)
    files = []
    for voxels_less, reader in ((3, "ann"), (0, "bob"), (1, "cleo")):
        array = block()
        array.flat[np.flatnonzero(array)[:voxels_less]] = 0
        files.append(write_nifti(tmp_path / f"{reader}.nii.gz", array))
        submit(store, reader, files[-1])
    assert states(store)[-1] == ("cleo", "active", "agreed")


def test_readers_who_differ_wait_for_an_adjudicator(
    desk: CaseOffers, store: FolderDatastore, alike: Path, other: Path, scans: Path
) -> None:
    for case in "ab":
        desk.plan(case, readers_wanted=2)
        submit(store, "ann", alike, case)
        submit(store, "bob", other, case)
    assert store.final_labels() == {}
    page = store.readings.queue(1)
    assert (page["total"], page["next"]) == (2, "a")
    [found] = page["adjudications"]
    assert [reading["reader"] for reading in found["readings"]] == ["ann", "bob"]
    uids = [reading["label"] for reading in found["readings"]]
    assert found["pairs"] == [{"first": uids[0], "second": uids[1], "dice": {"foreground": 0.0}}]
    assert store.readings.one("a") == found
    assert [entry["id"] for entry in store.readings.queue(5, after="a")["adjudications"]] == ["b"]
    assert [ask(desk, reader) for reader in ("ann", "cleo", "dora")] == ["c", "c", "c"], "the rest is decided"
    assert np.array_equal(voxels(store.label_version("a", uids[1])) > 0, voxels(other) > 0)
    settled = store.readings.settle("a", uids[1], "chief", "the tail belongs to it")
    assert (settled["reading"], settled["settled_by"]) == (uids[1], "chief")
    assert states(store)[-1] == ("bob", "active", "settled")
    last = store.label_history("a")[-1]
    assert (last["uid"], last["comment"]) == (settled["label"], "the tail belongs to it")
    assert last["info"]["settled_by"] == "chief"
    assert np.array_equal(voxels(final_file(scans, "a")) > 0, voxels(other) > 0)
    assert [entry["id"] for entry in store.readings.queue(5)["adjudications"]] == ["b"]


def test_what_cannot_be_settled_is_refused_with_what_can(
    desk: CaseOffers, store: FolderDatastore, alike: Path, other: Path
) -> None:
    with pytest.raises(Refusal, match="does not wait for adjudication") as refused:
        store.readings.settle("a", "x", "chief")
    assert refused.value.status_code == 409
    desk.plan("a", readers_wanted=2)
    submit(store, "ann", alike)
    submit(store, "bob", other)
    for case, reading, who, status in (
        ("z", "x", "chief", 404),
        ("a", "x", "chief", 422),
        ("a", "x", " ", 422),
        ("b", "x", "chief", 409),
    ):
        with pytest.raises(Refusal) as refused:
            store.readings.settle(case, reading, who)
        assert refused.value.status_code == status
    with pytest.raises(Refusal, match="no kept label version 'x'"):
        store.label_version("a", "x")


def test_a_label_of_somebody_else_settles_and_a_readers_own_is_a_correction(
    desk: CaseOffers, store: FolderDatastore, alike: Path, other: Path, tmp_path: Path
) -> None:
    for case in "ab":
        desk.plan(case, readers_wanted=2)
        submit(store, "ann", alike, case)
        submit(store, "bob", other, case)
    submit(store, "chief", label_file(tmp_path, 2), "b")
    assert states(store, "b")[-1] == ("chief", "active", "submitted")
    submit(store, "bob", label_file(tmp_path, 1))
    assert states(store) == [
        ("ann", "reading", "submitted"),
        ("bob", "replaced", "submitted"),
        ("bob", "reading", "submitted"),
        ("ann", "active", "agreed"),
    ]
    assert store.readings.queue(5)["adjudications"] == []


def test_a_word_from_anyone_decides_at_once(desk: CaseOffers, store: FolderDatastore, alike: Path) -> None:
    desk.plan("a", readers_wanted=2)
    submit(store, "ann", alike, adjudicate=True)
    assert states(store) == [("ann", "active", "submitted")]
    assert "adjudicate" not in store.get_label_info("a", "final")


def test_a_reading_sent_twice_is_one_before_and_after_the_decision(
    desk: CaseOffers, store: FolderDatastore, alike: Path, tmp_path: Path
) -> None:
    desk.plan("a", readers_wanted=2)
    for _ in range(2):
        submit(store, "ann", alike)
    assert states(store) == [("ann", "reading", "submitted")]
    for _ in range(2):
        submit(store, "bob", label_file(tmp_path, 1))
    assert states(store)[-1] == ("ann", "active", "agreed")
    assert len(store.label_history("a")) == 3
    store.remove_label("a", "final")
    submit(store, "ann", alike)
    assert states(store)[-1] == ("ann", "reading", "submitted"), "read afresh"


def test_those_who_do_not_say_who_they_are_count_as_one_reader(
    desk: CaseOffers, store: FolderDatastore, alike: Path, tmp_path: Path
) -> None:
    desk.plan("a", readers_wanted=2)
    submit(store, "", alike)
    submit(store, " ", label_file(tmp_path, 1))
    assert states(store) == [("", "replaced", "submitted"), ("", "reading", "submitted")]
    assert "a" not in {ask(desk, "") for _ in range(4)}


def test_fewer_readers_decide_and_more_reopen(
    desk: CaseOffers, store: FolderDatastore, alike: Path, other: Path
) -> None:
    for case in "ab":
        desk.plan(case, readers_wanted=2)
        submit(store, "ann", alike, case)
    desk.plan("a", readers_wanted=1)
    assert states(store)[-1] == ("ann", "active", "agreed")
    submit(store, "bob", other, "b")
    desk.plan("b", readers_wanted=3)
    assert store.readings.queue(5)["adjudications"] == []
    assert ask(desk, "cleo") == "b"
    submit(store, "cleo", other, "b")
    assert len(store.readings.one("b")["pairs"]) == 3
    with pytest.raises(Refusal, match="has its label already"):
        desk.plan("a", readers_wanted=2)
    with pytest.raises(Refusal, match="cannot be for 2 readers and assigned to one"):
        desk.plan("c", assigned_to="ann", readers_wanted=2)


def test_a_reading_that_does_not_fit_its_scan_any_more_frees_its_place(
    desk: CaseOffers, store: FolderDatastore, scans: Path, alike: Path
) -> None:
    desk.plan("a", readers_wanted=2)
    submit(store, "ann", alike)
    array = scan((14, 10, 8))
    write_nifti(scans / "a.nii.gz", array)
    store.refresh()
    submit(store, "bob", write_nifti(scans.parent / "new.nii.gz", block((14, 10, 8))))
    assert states(store) == [("ann", "removed", "submitted"), ("bob", "reading", "submitted")]
    assert ask(desk, "ann") == "a"


def test_a_lost_database_keeps_the_readings_and_how_many_are_wanted(
    scans: Path, project: Workspace, alike: Path, other: Path
) -> None:
    store = open_store(scans, project)
    desk = CaseOffers(store, store._database, 3600.0)
    for case in "ab":
        desk.plan(case, readers_wanted=2)
        submit(store, "ann", alike, case)
    submit(store, "bob", other, "b")
    before = [states(store, case) for case in "ab"]
    store._database.close()
    for file in project.root.glob("catalogue.db*"):
        file.write_bytes(b"damaged" * 1000)
    again = open_store(scans, project)
    assert [states(again, case) for case in "ab"] == before
    assert again.final_labels() == {}
    assert [entry["id"] for entry in again.readings.queue(5)["adjudications"]] == ["b"]
    submit(again, "bob", alike, "a")
    assert states(again)[-1] == ("ann", "active", "agreed")


KILLED_AT = """
import os, sys
from lib.catalogue import labels, readings
from lib.catalogue.label_store import LabelStore
from lib.datastore import FolderDatastore
from lib.double_reading import DoubleReading
from lib.offers import CaseOffers
from lib.workspace import Workspace
scans, url, step, *files = sys.argv[1:]
store = FolderDatastore(scans, Workspace.of(scans, database_url=url), {"foreground": 1})
CaseOffers(store, store._database, 100.0).plan("a", readers_wanted=2)
store.save_label("a", files[0], "final", {"client_id": "ann"})
print("acknowledged", flush=True)
die = lambda *_, **__: os._exit(9)
if step == "before the reading is entered":
    labels.enter_reading = die
elif step == "before the comparison":
    DoubleReading._decide = die
elif step == "before the label is entered":
    labels.enter = die
elif step == "after the label is entered":
    settle = LabelStore.settle
    LabelStore.settle = lambda self, record: die() if record.source == "agreed" else settle(self, record)
store.save_label("a", files[1], "final", {"client_id": "bob"})
"""


@pytest.mark.parametrize(
    "step",
    [
        "before the reading is entered",
        "before the comparison",
        "before the label is entered",
        "after the label is entered",
    ],
)
def test_a_kill_at_any_step_loses_no_reading_and_no_decision(
    scans: Path, workspace: Workspace, tmp_path: Path, step: str
) -> None:
    files = [str(label_file(tmp_path, variant)) for variant in range(2)]
    done = subprocess.run(
        light_process.command(KILLED_AT, scans, workspace.database_url, step, *files),
        capture_output=True,
        env=light_process.environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (9, b"acknowledged\n"), done.stderr
    store = open_store(scans, workspace)
    assert states(store) == [
        ("ann", "reading", "submitted"),
        ("bob", "reading", "submitted"),
        ("ann", "active", "agreed"),
    ]
    assert LabelStore.digest(final_file(scans, "a").read_bytes()) == store.final_labels()["a"]
    assert list(workspace.labels.glob("pending/*")) == []
    again = open_store(scans, workspace)
    assert (again.repairs, len(again.label_history("a"))) == ([], 3)


def test_two_servers_that_compare_at_once_decide_once(
    desk: CaseOffers, store: FolderDatastore, scans: Path, workspace: Workspace, alike: Path, tmp_path: Path
) -> None:
    second = open_store(scans, workspace)
    desk.plan("a", readers_wanted=2)
    submit(store, "ann", alike)
    compare = store.readings._choose

    def slow(*arguments: Any) -> None:
        second.readings.decide_all()
        compare(*arguments)

    store.readings._choose = slow  # type: ignore[method-assign]
    submit(store, "bob", label_file(tmp_path, 1))
    assert [state[1:] for state in states(store)].count(("active", "agreed")) == 1
    assert len(store.label_history("a")) == 3
    with store._database.read() as session:
        assert readings.dice_by_reader(session) == {
            reader: [pytest.approx(50 / 52)] for reader in ("ann", "bob")
        }


def test_the_statistics_tell_what_each_reader_did(
    desk: CaseOffers, store: FolderDatastore, alike: Path, other: Path
) -> None:
    desk.plan("a", readers_wanted=2)
    assert [ask(desk, reader) for reader in ("ann", "bob", "cleo")] == ["a", "a", "b"]
    submit(store, "ann", alike)
    submit(store, "bob", other)
    store.save_label("c", str(alike), "original", {"model": "ugmcl"})
    submit(store, "ann", alike, "c")
    desk.give_back("b", "cleo", skipped=True, reason="motion")
    assert ask(desk, "bob") == "b"
    ann, bob, cleo = desk.readers()
    assert (ann["reader"], ann["labels_saved"], ann["unchanged_proposals"]) == ("ann", 2, 1)
    assert list(ann["labels_by_day"].values()) == [2]
    assert ann["labels_per_day"] == 2.0
    assert 0 < ann["mean_seconds"] < 60
    assert (ann["mean_dice"], ann["comparisons"], ann["open_lease"]) == (0.0, 1, None)
    assert (bob["labels_saved"], bob["open_lease"]["case_id"]) == (1, "b")
    assert (cleo["labels_saved"], cleo["skipped"], cleo["mean_seconds"]) == (0, 1, None)
    assert (cleo["labels_per_day"], cleo["mean_dice"]) == (None, None)
