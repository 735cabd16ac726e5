"""Requests, kills and stray files in the middle of the work: no label is lost, no round is broken."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import nibabel as nib
import numpy as np
import pytest

from tests.journeys.conftest import MakeProject
from tests.journeys.live_server import LiveServer, phantom_project, serving
from tests.journeys.replies import voxels

pytestmark = pytest.mark.timeout(600)


def test_requests_during_a_round_get_one_waiting_round(make_project: MakeProject) -> None:
    project = make_project("phantoms", 4)
    project.set_training(steps=5000, min_steps=5000, save_every_s=1.0)
    first, second = project.ids[:2]
    with serving(project, "--conf", "debounce_s", "0.2") as server:
        assert server.submit(first).status_code == 200
        running = server.wait_for_round(
            lambda entry: entry["status"] == "running" and entry["progress"]["step"] > 0
        )
        assert server.submit(second).status_code == 200
        answers = [server.post(path, json={}) for path in ("/train/ugmcl", "/train/ugmcl", "/train/")]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        tasks = [answer.json() for answer in answers[:2]]
        assert tasks[0]["id"] == tasks[1]["id"] != running["id"]
        listed = server.rounds()
        assert [entry["status"] for entry in listed] == ["running", "queued"]
        assert listed[1]["id"] == tasks[0]["id"]
        assert listed[1]["labeled_ids"] == [first, second]
        # Progress can be followed step by step by both routes.
        step = server.get("/train/").json()["progress"]["step"]
        assert server.rounds()[0]["progress"]["step"] >= step >= running["progress"]["step"]
        assert server.request("DELETE", "/train/").status_code == 200
        listed = server.rounds()
        assert [entry["status"] for entry in listed] == ["cancelled", "cancelled"]
        assert [entry["promoted"] for entry in listed] == [False, False]


def test_a_round_asked_for_while_one_runs_follows_it_and_both_end_well(make_project: MakeProject) -> None:
    project = make_project("phantoms", 4)
    project.set_training(steps=200, min_steps=200)
    first, second = project.ids[:2]
    with serving(project, "--conf", "debounce_s", "0.2") as server:
        assert server.submit(first).status_code == 200
        running = server.wait_for_round(
            lambda entry: entry["status"] == "running" and entry["progress"]["step"] > 0
        )
        answer = server.post("/train/", json={})
        assert answer.status_code == 200, answer.text
        waiting = server.rounds()[-1]
        assert (waiting["status"], waiting["id"] != running["id"]) == ("queued", True)
        assert waiting["id"] in json.dumps(answer.json())
        assert server.submit(second).status_code == 200
        done = server.wait_for_labels(first, second)
        assert done["id"] == waiting["id"], "the label joined the round that was waiting"
        assert [(entry["status"], entry["labeled_ids"]) for entry in server.rounds()] == [
            ("done", [first]),
            ("done", [first, second]),
        ]


def test_a_server_killed_in_a_round_takes_it_up_again(make_project: MakeProject) -> None:
    """kill -9, restart: no label is lost, the steps made are kept, the next round ends with all labels."""
    project = make_project("phantoms", 5)
    project.set_training(steps=200, min_steps=200, save_every_s=0.2)
    before, during = project.ids[:2], project.ids[2]
    state = project.workspace / "training" / "work" / "state.pt"
    with serving(project, "--conf", "debounce_s", "0.2") as server:
        for case in before:
            assert server.submit(case).status_code == 200
        cut = server.wait_for_round(
            lambda entry: (
                entry["status"] == "running"
                and entry["progress"]["step"] > 100
                and set(entry["labeled_ids"]) == set(before)
            )
        )
        assert server.submit(during).status_code == 200
        server.kill()
    assert state.is_file()
    project.put_label(project.ids[3])  # found at the next start, newer than the last round
    with serving(project, "--conf", "debounce_s", "0.2") as server:
        stored = server.get("/datastore/?output=all").json()["objects"]
        assert {case for case in stored if "final" in stored[case]["labels"]} >= {*before, during}
        for case in (*before, during):
            np.testing.assert_array_equal(
                voxels(project.studies / "labels" / "final" / f"{case}.nii.gz"),
                voxels(project.reference(case)),
            )
        resumed = server.wait_for_round(
            lambda entry: entry["id"] != cut["id"] and entry["progress"]["step"] > 0
        )
        assert resumed["progress"]["step"] > 50, "the round started from its first step again"
        finished = server.wait_for_labels(*before, during, project.ids[3])
        assert finished["status"] == "done"
        interrupted = next(entry for entry in server.rounds() if entry["id"] == cut["id"])
        assert interrupted["status"] == "failed"
        assert "interrupted" in interrupted["reason"]
        assert server.get("/ready").json()["ready"] is True


@pytest.fixture(scope="module")
def untidy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on a folder of three phantoms, a fourth that lies there under another name, four files that
    are no scans, and a label of the first that somebody has laid there."""
    project = phantom_project(tmp_path_factory.mktemp("untidy") / "project", 3)
    project.set_training(steps=5, min_steps=1)
    project.put_label(project.ids[0])
    shutil.copy(project.image(project.ids[0]), project.studies / "unlabeled.nii.gz")
    good = project.image(project.ids[0])
    content, image = good.read_bytes(), nib.load(good)
    for name, damaged in {
        "cut.nii.gz": content[: len(content) // 2],
        "text.nii.gz": b"these are not voxels",
        "._case_00.nii.gz": b"\x00\x05\x16\x07" * 8,
    }.items():
        (project.studies / name).write_bytes(damaged)
    film = np.repeat(np.asarray(image.dataobj)[..., None], 2, axis=3)
    nib.save(nib.Nifti1Image(film, image.affine), project.studies / "film.nii.gz")
    with serving(project, "--conf", "debounce_s", "0.2") as server:
        yield server


def test_a_label_laid_into_the_folder_starts_a_round_at_the_next_start_and_while_serving(
    untidy: LiveServer,
) -> None:
    project = untidy.project
    first = untidy.wait_for_labels(project.ids[0])
    assert first["unlabeled"] == 3, "what cannot be used is not trained on"
    project.put_label(project.ids[1])
    second = untidy.wait_for_labels(*project.ids[:2])
    assert second["id"] != first["id"]


def test_unusable_files_in_the_pool_are_set_aside_and_break_nothing(untidy: LiveServer) -> None:
    listed = untidy.get("/info/").json()["datastore"]["quarantined"]
    reasons = {os.path.basename(entry["file"]): entry["reason"] for entry in listed}
    assert set(reasons) == {"cut.nii.gz", "text.nii.gz", "._case_00.nii.gz", "film.nii.gz"}
    assert all(len(reason) > 10 for reason in reasons.values())
    objects = untidy.get("/datastore/?output=all").json()["objects"]
    usable = {*untidy.project.ids, "unlabeled"}
    assert set(objects) == usable
    offered = {untidy.post("/activelearning/random", json={}).json()["id"] for _ in range(12)}
    assert offered <= usable - {untidy.project.ids[0]}
