"""What the review page asks of the catalogue, on both databases."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lib.catalogue import review_rows
from lib.datastore import FolderDatastore
from lib.scores import ScoreBoard
from lib.workspace import Workspace
from tests.catalogue.label_support import label_file, open_store


@pytest.fixture
def store(scans: Path, workspace: Workspace) -> FolderDatastore:
    return open_store(scans, workspace)


def test_submitted_labels_count_by_reader_and_corrections_too_but_not_the_models(
    store: FolderDatastore, workspace: Workspace, tmp_path: Path
) -> None:
    begun = time.time()
    store.save_label("a", str(label_file(tmp_path, 0)), "final", {"client_id": "ann"})
    store.save_label("a", str(label_file(tmp_path, 1)), "final", {"client_id": "bob"})
    store.save_label("b", str(label_file(tmp_path, 2)), "final", {"client_id": "ann"})
    store.save_label("c", str(label_file(tmp_path, 3)), "original", {"client_id": "ann"})
    with workspace.database.read() as session:
        assert review_rows.submitted_by_reader(session) == {"ann": 2, "bob": 1}
        listed = review_rows.submitted_since(session, begun - 1)
        assert [reader for reader, _ in listed] == ["ann", "bob", "ann"]
        assert all(begun - 1 <= at <= time.time() + 1 for _, at in listed)
        assert review_rows.submitted_since(session, time.time() + 60) == []


def test_scores_that_moved_are_those_of_unlabeled_cases_both_models_have_scored(
    store: FolderDatastore, workspace: Workspace, tmp_path: Path
) -> None:
    scores = ScoreBoard(workspace)
    for case, before, after in (("a", 0.5, 0.2), ("b", 0.1, 0.3), ("c", 0.9, None)):
        scores.put(case, before, "v1")
        if after is not None:
            scores.put(case, after, "v2")
    with workspace.database.read() as session:
        found = review_rows.moves(session, "v1", "v2", most=1)
        assert found is not None
        assert (found.cases, found.surer, found.less_sure) == (2, 1, 1)
        assert (found.before, found.after) == (pytest.approx(0.3), pytest.approx(0.25))
        assert [(move.id, move.before, move.after) for move in found.fell] == [("a", 0.5, 0.2)]
        assert [move.id for move in found.rose] == ["b"]
        assert review_rows.scores_of(session, "a") == [("v1", 0.5), ("v2", 0.2)]
        assert review_rows.moves(session, "v1", "v3", most=1) is None
    store.save_label("a", str(label_file(tmp_path, 0)), "final", {})
    with workspace.database.read() as session:
        found = review_rows.moves(session, "v1", "v2", most=5)
        assert found is not None
        assert (found.cases, found.fell) == (1, [])
