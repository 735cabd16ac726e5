"""The worklist: every case once, in order, page by page, on both databases."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from lib.catalogue import cases
from lib.datastore import FolderDatastore
from lib.errors import Refusal
from lib.offers import CaseOffers
from lib.scores import ScoreBoard
from lib.worklist import Worklist
from lib.workspace import Workspace
from tests.catalogue.label_support import label_file, open_store

UIDS = {"b": ("1.2.3", "1.2.3.4")}


@pytest.fixture
def store(scans: Path, workspace: Workspace) -> FolderDatastore:
    return open_store(scans, workspace)


@pytest.fixture
def worklist(store: FolderDatastore) -> Worklist:
    board = ScoreBoard(store._workspace)
    for image_id, score in (("a", 0.2), ("b", 0.7)):
        board.put(image_id, score, "v1")
    board.put("a", 0.3, "v2")
    return Worklist(store._database, board, lambda ids: {i: UIDS[i] for i in ids if i in UIDS})


def ids(page: dict[str, Any]) -> list[str]:
    return [case["id"] for case in page["cases"]]


def walked(worklist: Worklist, limit: int, **how: Any) -> list[str]:
    found: list[str] = []
    after = None
    while True:
        page = worklist.page(limit=limit, after=after, **how)
        assert len(page["cases"]) <= limit
        found += ids(page)
        after = page["next"]
        if after is None:
            return found


def test_least_sure_come_first_and_unscored_last(worklist: Worklist) -> None:
    page = worklist.page()
    assert ids(page) == ["b", "a", "c"]
    assert (page["total"], page["next"]) == (3, None)
    assert [case["score"] for case in page["cases"]] == [0.7, 0.3, None]
    assert [case["model_version"] for case in page["cases"]] == ["v1", "v2", None]
    assert page["cases"][0]["series_instance_uid"] == "1.2.3.4"
    assert page["cases"][0]["study_instance_uid"] == "1.2.3"
    assert page["cases"][1]["series_instance_uid"] is None


def test_status_divides_the_cases(worklist: Worklist, store: FolderDatastore, tmp_path: Path) -> None:
    store.save_label("b", str(label_file(tmp_path)), "final", {})
    assert ids(worklist.page("unlabeled")) == ["a", "c"]
    assert worklist.page("unlabeled")["total"] == 2
    assert [(c["id"], c["status"]) for c in worklist.page("labeled")["cases"]] == [("b", "labeled")]
    assert ids(worklist.page("all")) == ["b", "a", "c"]
    assert ids(worklist.page("all", "id")) == ["a", "b", "c"]


def test_priority_set_by_hand_comes_before_the_score(worklist: Worklist, store: FolderDatastore) -> None:
    CaseOffers(store, store._database, 60.0).plan("c", 1, None)
    first = worklist.page()["cases"][0]
    assert (first["id"], first["priority"]) == ("c", 1)


def test_pages_hold_every_case_once(worklist: Worklist) -> None:
    def fill(session: Session) -> None:
        names = [f"n{number:02d}" for number in range(23)]
        cases.add(session, {name: f"{name}.nii.gz" for name in names})
        session.flush()
        for number, found in enumerate(cases.lock(session, names).values()):
            # Ties in every part of the key.
            found.labeled, found.rank_score, found.priority = number % 3 == 0, (number % 4) / 8, number % 2

    worklist._database.write(fill)
    for sort in ("uncertainty", "id"):
        for status, total in (("all", 26), ("labeled", 8), ("unlabeled", 18)):
            whole = worklist.page(status, sort, 500)
            assert len(set(ids(whole))) == len(ids(whole)) == whole["total"] == total
            for limit in (1, 4, 500):
                assert walked(worklist, limit, status=status, sort=sort) == ids(whole), (sort, status, limit)


def test_other_values_are_refused_with_what_is_allowed(worklist: Worklist) -> None:
    for how, said in (
        ({"status": "done"}, "unlabeled, labeled, all"),
        ({"sort": "name"}, "uncertainty, id"),
        ({"limit": 0}, "1 to 500"),
        ({"limit": 501}, "1 to 500"),
        ({"after": "x"}, "leave it out"),
        ({"after": "bm9uZQ"}, "leave it out"),
    ):
        with pytest.raises(Refusal, match=said) as refused:
            worklist.page(**how)  # type: ignore[arg-type]
        assert refused.value.status_code == 422


def test_a_place_made_up_by_a_client_is_refused(worklist: Worklist) -> None:
    for place in (
        '10e999, 0.5, "a"', '1, Infinity, "a"', '1, NaN, "a"', f'{10**30}, 0.5, "a"', r'1, 0.5, "a\u0000"',
        r'1, 0.5, "\ud800"', '[1], 0.5, "a"', "1, 0.5",
    ):  # fmt: skip
        token = base64.urlsafe_b64encode(f'["all", "uncertainty", {place}]'.encode()).decode()
        with pytest.raises(Refusal, match="leave it out") as refused:
            worklist.page(after=token)
        assert refused.value.status_code == 422, place


def test_a_place_in_one_list_is_none_in_another(worklist: Worklist) -> None:
    token = worklist.page(limit=1)["next"]
    with pytest.raises(Refusal, match="sort=uncertainty"):
        worklist.page(sort="id", after=token)
