"""What the module makes of maps, rounds and slow answers, without Slicer."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from UGMCLAssistLib.background import BackgroundWork
from UGMCLAssistLib.color_map import inferno
from UGMCLAssistLib.errors import AssistError
from UGMCLAssistLib.round_status import round_status
from UGMCLAssistLib.slice_order import Place, center_of_doubt, least_sure_first

from tests.slicer_module.conftest import MODULE
from ugmcl.uncertainty import top_slices

SHIPPED_WITH_SLICER = {"numpy", "qt", "requests", "slicer", "vtk"}


@pytest.mark.parametrize("file", sorted(MODULE.rglob("*.py")), ids=lambda file: file.stem)
def test_only_what_slicer_ships_is_imported(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 9))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    assert names - set(sys.stdlib_module_names) <= SHIPPED_WITH_SLICER | {"UGMCLAssistLib"}


def test_colors_are_the_published_table() -> None:
    published = np.asarray(matplotlib.colormaps["inferno"].colors)  # type: ignore[attr-defined]
    np.testing.assert_allclose(inferno(), published, atol=0.5 / 255)


def doubtful_map() -> np.ndarray:
    values = np.random.default_rng(0).uniform(0, 0.1, (12, 14, 10)).astype(np.float32)
    values[4:7, 5:11, 2:4] += 0.8
    return values


def test_slices_of_the_map_are_in_the_servers_own_order() -> None:
    values = doubtful_map()
    named = top_slices(values, 5)
    alone = least_sure_first(values, [])
    assert [(p.axis, p.slice_index) for p in alone[:5]] == [(s["axis"], s["index"]) for s in named]
    assert least_sure_first(values, named)[5:] == alone[5:]


def test_named_slices_outside_the_map_are_left_out() -> None:
    assert least_sure_first(np.zeros((2, 2, 2), np.float32), [{"axis": 2, "index": 2, "score": 1.0}]) == []


def test_the_middle_of_the_doubt_is_a_voxel_of_the_slice() -> None:
    values = np.zeros((8, 9, 10), np.float32)
    values[2, 3, 4] = values[2, 5, 8] = 1.0
    assert center_of_doubt(values, Place(0, 2, 1.0)) == (2, 4, 6)
    assert center_of_doubt(values, Place(1, 0, 1.0)) == (4, 0, 5)  # nothing there: the middle


def entry(**more: Any) -> dict[str, Any]:
    known = {
        "id": "r0001",
        "status": "done",
        "labeled": 4,
        "unlabeled": 20,
        "model_version": "v1",
        "reason": "",
    }
    return {**known, "promoted": True, "metrics": None, "progress": {}, **more}


def test_before_any_label_the_reader_is_told_to_draw() -> None:
    status = round_status([], [])
    assert (status.model_version, status.running, status.text) == (
        "",
        False,
        "No model yet: draw and submit the first label.",
    )


def test_a_running_round_shows_its_progress_beside_the_live_model() -> None:
    metrics = {"student": {"dice": 0.7}, "teacher": {"dice": 0.734}, "published_before": None}
    rounds = [
        entry(metrics=metrics),
        entry(id="r2", status="running", labeled=5, unlabeled=19, model_version=None)
        | {"progress": {"step": 30, "steps": 120, "eta_s": 41.6}},
    ]
    status = round_status(
        rounds, [{"version": "v0", "published": False}, {"version": "v1", "published": True}]
    )
    assert (status.model_version, status.labels, status.running, status.fraction) == ("v1", 4, True, 0.25)
    assert status.text == (
        "Model v1: 4 labels, validation Dice 0.73.\n"
        "Round r2 trains on 5 labels and 19 unlabeled scans: step 30 of 120, 42 s left."
    )


def test_a_round_without_a_plan_yet_and_a_waiting_one_are_said() -> None:
    live = [{"version": "v1", "published": True}]
    planning = entry(id="r2", status="running") | {"progress": {"step": 0, "steps": 0, "eta_s": None}}
    text = round_status([entry(), planning], live).text
    assert text.endswith("Round r2 is being prepared, with 4 labels.")
    assert round_status([entry(), entry(id="r2", status="queued")], live).text.endswith(
        "A round waits to start."
    )


def test_a_model_that_was_not_published_says_why() -> None:
    rounds = [entry(), entry(id="r2", model_version="v2", promoted=False, reason="Not published: worse.")]
    text = round_status(rounds, [{"version": "v1", "published": True}]).text
    assert text.endswith("Last round r2: Not published: worse.")


def run_out(work: BackgroundWork) -> None:
    while work.busy:
        work.tick(1.0)


def test_a_slow_answer_blocks_nobody_and_comes_back_on_the_callers_thread() -> None:
    work, go, seen = BackgroundWork(), threading.Event(), []
    work.start(
        lambda: go.wait(60), lambda value: seen.append((value, threading.current_thread())), seen.append
    )
    assert not work.tick()  # returns although the work has not ended
    assert work.busy
    go.set()
    run_out(work)
    assert seen == [(True, threading.current_thread())]


def test_a_failure_is_handed_over_and_the_next_work_may_start_from_there() -> None:
    work, seen = BackgroundWork(), []

    def fail() -> None:
        raise ValueError("broken")

    def again(error: Exception) -> None:
        seen.append(error)
        work.start(lambda: "second", seen.append, seen.append)

    work.start(fail, seen.append, again)
    run_out(work)
    assert [str(found) for found in seen] == ["broken", "second"]


def test_two_pieces_of_work_at_once_are_refused_and_forgotten_ones_say_nothing() -> None:
    work, go, seen = BackgroundWork(), threading.Event(), []
    started: Callable[[], bool] = lambda: go.wait(60)  # noqa: E731 - one line says it
    work.start(started, seen.append, seen.append)
    with pytest.raises(AssistError, match="still running"):
        work.start(started, seen.append, seen.append)
    work.forget()
    work.start(lambda: "new", seen.append, seen.append)
    go.set()
    run_out(work)
    assert seen == ["new"]
