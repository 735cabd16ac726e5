"""Batches that are unsure and unlike each other, from hand-made features, as several readers get them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lib.batches import Batches
from lib.catalogue import batch_rows
from lib.datastore import FolderDatastore
from lib.offers import CaseOffers
from lib.scores import ScoreBoard
from lib.workspace import Workspace
from tests.app.scan_support import scan, write_nifti
from tests.catalogue.label_support import label_file, open_store

SCORES = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6, "e": 0.5, "f": 0.4}
LINE = {"a": 0.0, "b": 0.1, "c": 4.0, "d": 10.0, "e": 9.5, "f": 100.0}
"""a and b are copies of one problem, d and e of another; f is far away, but the model is sure of it."""


@pytest.fixture
def store(scans: Path, workspace: Workspace) -> FolderDatastore:
    for index, name in enumerate("def"):
        write_nifti(scans / f"{name}.nii.gz", scan(seed=10 + index))
    found = open_store(scans, workspace)
    scores = ScoreBoard(found._workspace)
    for case, score in SCORES.items():
        scores.put(case, score, "v1")
    return found


def look(batches: Batches, version: str = "v1", cases: str = "abcdef") -> None:
    """Let a model see in each case what `LINE` says."""
    for case in cases:
        batches.put(case, version, "scan", [LINE[case], 1.0])


@pytest.fixture
def batches(store: FolderDatastore) -> Batches:
    found = Batches(store._database, 2)
    look(found)
    return found


def desk_of(store: FolderDatastore, batch: int = 2) -> CaseOffers:
    return CaseOffers(store, store._database, 3600.0, batch)


def ask(desk: CaseOffers, reader: str, order: str = "rank") -> str | None:
    found = desk.next(reader, "most_uncertain", order)
    return None if found is None else found.id


def test_readers_side_by_side_get_unlike_cases_batch_after_batch(
    store: FolderDatastore, batches: Batches
) -> None:
    desk = desk_of(store)
    assert batches.renew("v1", complete=True)
    # Two places, so within a, b, c, d: a is the least sure, d the farthest from it.
    assert [ask(desk, "ann"), ask(desk, "bob"), ask(desk, "ann")] == ["a", "d", "a"]
    assert batches.renew("v1", complete=False), "nothing of the batch is free"
    # Within b, c, e, f: away from a = 0 and d = 10 and each other: f, then c.
    assert [ask(desk, "cleo"), ask(desk, "dan")] == ["f", "c"]


def test_without_the_setting_the_score_alone_decides(store: FolderDatastore, batches: Batches) -> None:
    batches.renew("v1", complete=True)
    desk = desk_of(store, batch=0)
    assert [ask(desk, "ann"), ask(desk, "bob")] == ["a", "b"]
    assert ask(desk_of(store), "cleo", order="id") == "c", "other strategies have their own order"


def test_a_batch_stands_until_none_of_it_is_free_and_then_the_order_is_by_score(
    store: FolderDatastore, batches: Batches, tmp_path: Path
) -> None:
    desk = desk_of(store)
    assert batches.renew("v1", complete=True)
    assert not batches.renew("v1", complete=True)
    assert ask(desk, "ann") == "a"
    store.save_label("a", str(label_file(tmp_path)), "final", {"client_id": "ann"})
    assert not batches.renew("v1", complete=True), "d is free"
    assert [ask(desk, "ann"), ask(desk, "bob"), ask(desk, "cleo")] == ["d", "b", "c"]


def test_what_is_set_by_hand_comes_before_a_batch_and_stays_out_of_it(
    store: FolderDatastore, batches: Batches
) -> None:
    desk = desk_of(store)
    desk.plan("e", priority=2)
    desk.plan("a", priority=-1)
    desk.plan("d", assigned_to="bob")
    batches.renew("v1", complete=True)
    # Left: b, c, f.
    assert [ask(desk, "ann"), ask(desk, "bob"), ask(desk, "cleo"), ask(desk, "dan")] == ["e", "d", "b", "f"]


def test_a_skipped_case_does_not_keep_the_next_batch_waiting(
    store: FolderDatastore, batches: Batches
) -> None:
    desk = desk_of(store)
    batches.renew("v1", complete=True)
    assert ask(desk, "ann") == "a"
    desk.give_back("a", "ann", skipped=True, reason="motion")
    assert ask(desk, "ann") == "d"
    assert batches.renew("v1", complete=False)
    assert ask(desk, "bob") == "f"


def test_a_case_that_was_given_back_is_chosen_again(store: FolderDatastore, batches: Batches) -> None:
    desk = desk_of(store)
    readers = ["ann", "bob", "cleo", "dan", "eve", "fay"]
    given = []
    for reader in readers:
        batches.renew("v1", complete=True)
        given.append(ask(desk, reader))
    assert sorted(map(str, given)) == sorted(SCORES)
    assert not batches.renew("v1", complete=True)
    desk.give_back("a", "ann")
    assert batches.renew("v1", complete=True)
    assert not batches.renew("v1", complete=True), "it is free, and chosen"
    assert ask(desk, "gil") == "a"


def test_a_new_model_begins_its_batches_when_it_has_seen_every_case(
    store: FolderDatastore, batches: Batches
) -> None:
    batches.renew("v1", complete=True)
    assert not batches.renew("v2", complete=True), "it has seen none"
    look(batches, "v2", cases="bcef")
    assert not batches.renew("v2", complete=False)
    assert batches.missing({"a": "scan", "b": "scan", "e": "another"}, "v2") == {"a", "e"}
    desk = desk_of(store)
    assert ask(desk, "ann") == "a", "until then the batch of the model before stands"
    assert batches.renew("v2", complete=True)
    assert [ask(desk, "bob"), ask(desk, "cleo")] == ["b", "e"], "f is not among the four least sure"
    with store._database.read() as session:
        assert batch_rows.chosen(session) == ("v2", ["b", "e"])


def test_processes_that_choose_at_once_choose_one_batch(store: FolderDatastore, batches: Batches) -> None:
    threads = [
        threading.Thread(target=Batches(store._database, 2).renew, args=("v1", True)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store._database.read() as session:
        assert batch_rows.chosen(session) == ("v1", ["a", "d"])


def test_features_that_are_no_numbers_are_kept_as_some(store: FolderDatastore, batches: Batches) -> None:
    batches.put("a", "v1", "scan", [float("nan"), 1.0])
    with store._database.read() as session:
        known, features = batch_rows.features_of(session, ["b", "x", "a"], "v1")
    assert known == ["b", "a"]
    assert features.tolist() == [[pytest.approx(0.1), 1.0], [0.0, 1.0]]
