"""The app under the unmodified stock server: tasks, label checks and rounds live in the app, so they work."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable

import nibabel as nib
import numpy as np
import pytest
from monailabel.client.client import MONAILabelClient, MONAILabelClientException

from tests.journeys.conftest import MakeProject
from tests.journeys.live_server import LiveServer, Project, leaves_sockets_open, stock_serving
from tests.journeys.replies import nifti_of, parts_of

Connect = Callable[[LiveServer], MONAILabelClient]


@leaves_sockets_open
@pytest.mark.timeout(600)
def test_the_stock_server_turns_a_label_into_a_model(
    make_project: MakeProject, stock_client: Connect
) -> None:
    project = make_project("phantoms", 4)
    project.set_training(steps=30, min_steps=1)
    first, second, shown = project.ids[0], project.ids[1], project.ids[3]
    with stock_serving(project, "--conf", "debounce_s", "0.5") as server:
        client = stock_client(server)
        info = client.info()
        assert {"ugmcl", "ugmcl_uncertainty"} <= set(info["models"])
        assert set(info["strategies"]) == {"most_uncertain", "random", "first"}
        assert client.next_sample("most_uncertain", {})["id"] == first
        with pytest.raises(MONAILabelClientException, match="409"):
            client.infer("ugmcl", shown, {})

        assert_a_foreign_grid_is_refused(server, first)
        client.save_label(first, str(project.reference(first)), "final")
        assert client.train_status(check_if_running=True), "a label starts a round by itself"
        done = wait_until_trained(server, client)
        assert done["status"] == "DONE", done
        assert "no validation case yet" in done["details"][-1]

        label, params = client.infer("ugmcl", shown, {"mc_samples": 2})
        assert nib.load(label).shape == nib.load(project.image(shown)).shape
        assert params["model_version"] == client.info()["model_version"]
        assert 0 <= params["uncertainty"]["score"] <= 1
        assert voxels_are_not_all_one_value(server, second)

        # The viewer's own request trains too, on every label there is.
        client.save_label(second, str(project.reference(second)), "final")
        task = client.train_start("ugmcl", {"max_epochs": 50})
        assert task["status"] in ("SUBMITTED", "RUNNING")
        assert wait_until_trained(server, client)["status"] == "DONE"
        rounds = catalogue_rounds(project)
        assert rounds[-1]["labeled_ids"] == [first, second]
    assert "Traceback" not in server.log.read_text()


def catalogue_rounds(project: Project) -> list[dict]:
    with contextlib.closing(sqlite3.connect(project.workspace / "catalogue.db")) as connection:
        return [json.loads(row[0]) for row in connection.execute("SELECT record FROM rounds ORDER BY number")]


def assert_a_foreign_grid_is_refused(server: LiveServer, case: str) -> None:
    image = nib.load(server.project.image(case))
    small = nib.Nifti1Image(np.ones((5, 6, 7), np.uint8), image.affine)
    files = {"label": ("label.nii", small.to_bytes())}
    answer = server.request("PUT", f"/datastore/label?image={case}", files=files)
    assert answer.status_code == 422, answer.text[:500]
    assert "5x6x7" in answer.text
    assert not list((server.project.studies / "labels").rglob(f"{case}.*"))


def voxels_are_not_all_one_value(server: LiveServer, case: str) -> bool:
    """A trained model says more than "background": its map varies over the scan."""
    answer = server.post(f"/infer/ugmcl_uncertainty?image={case}")
    assert answer.status_code == 200, answer.text[:500]
    image = next(part for part in parts_of(answer) if part.filename)
    return len(np.unique(np.asarray(nifti_of(image.content).dataobj))) > 1


def wait_until_trained(server: LiveServer, client: MONAILabelClient) -> dict:
    """The last task once none waits or runs."""
    for _ in range(2000):
        if not client.train_status(check_if_running=True):
            task: dict = client.train_status()
            return task
        time.sleep(0.2)
    raise AssertionError(f"the round does not end: {server.said()}")
