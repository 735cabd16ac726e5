"""Which case comes next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib.datastore import FolderDatastore
from lib.scores import ScoreBoard
from lib.strategies import DEFAULT_STRATEGY, make_strategies
from lib.workspace import Workspace
from tests.app.scan_support import SHAPE, block, write_nifti


@pytest.fixture
def store(scans: Path, project: Workspace) -> FolderDatastore:
    return FolderDatastore(scans, project, {"foreground": 1})


@pytest.fixture
def scores(project: Workspace) -> ScoreBoard:
    return ScoreBoard(project)


def label(store: FolderDatastore, tmp_path: Path, image_id: str) -> None:
    store.save_label(image_id, str(write_nifti(tmp_path / "l.nii.gz", block())), "final", {})


def test_the_most_uncertain_case_comes_first_and_says_why(store: FolderDatastore, scores: ScoreBoard) -> None:
    for image_id, score in (("a", 0.2), ("b", 0.7), ("c", 0.5)):
        scores.put(image_id, score, "v2")
    found = make_strategies(scores)[DEFAULT_STRATEGY]({}, store)
    assert found == {"id": "b", "score": 0.7, "model_version": "v2"}


def test_labeled_cases_are_not_offered_and_in_the_end_nothing_is(
    store: FolderDatastore, scores: ScoreBoard, tmp_path: Path
) -> None:
    scores.put("b", 0.9, "v1")
    scores.put("c", 0.3, "v1")
    strategies = make_strategies(scores)
    offered = []
    for _ in range(3):
        offered.append(strategies["most_uncertain"]({}, store)["id"])
        label(store, tmp_path, offered[-1])
    assert offered == ["b", "c", "a"]
    assert [strategy({}, store) for strategy in strategies.values()] == [{}, {}, {}]


def test_before_a_model_the_order_is_that_of_the_names(store: FolderDatastore, scores: ScoreBoard) -> None:
    for name in ("most_uncertain", "first"):
        found = make_strategies(scores)[name]({}, store)
        assert found == {"id": "a", "score": None, "model_version": None}


def test_random_offers_every_case_sooner_or_later(store: FolderDatastore, scores: ScoreBoard) -> None:
    strategy = make_strategies(scores)["random"]
    assert {strategy({}, store)["id"] for _ in range(60)} == {"a", "b", "c"}


def test_a_scan_that_proves_unusable_is_passed_over(
    scans: Path, project: Workspace, scores: ScoreBoard
) -> None:
    write_nifti(scans / "0flat.nii.gz", np.full(SHAPE, 3, np.int16))
    store = FolderDatastore(scans, project, {"foreground": 1}, start_check_s=0.0)
    scores.put("0flat", 0.99, "v1")
    scores.put("b", 0.5, "v1")
    strategies = make_strategies(scores)
    assert strategies["first"]({}, store)["id"] == "a"
    assert strategies["most_uncertain"]({}, store)["id"] == "b"
