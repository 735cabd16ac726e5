"""What 3D Slicer and OHIF do to a server, and what must come of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
from monailabel.client.client import MONAILabelClient

from tests.journeys.conftest import MakeProject
from tests.journeys.live_server import LiveServer, Project, leaves_sockets_open, phantom_project, serving
from tests.journeys.replies import nifti_of, nrrd_of, parts_of, voxels

Connect = Callable[[LiveServer], MONAILabelClient]
pytestmark = pytest.mark.timeout(600)

OHIF = {
    "result_extension": ".nrrd",
    "result_dtype": "uint8",
    "result_compress": False,
    "restore_label_idx": False,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with one trained label and its model; further labels start no round."""
    project = phantom_project(tmp_path_factory.mktemp("trained") / "project", 6)
    project.set_training(steps=20, min_steps=1)
    options = ("--conf", "debounce_s", "0", "--conf", "round_seconds", "8", "--conf", "min_labels", "50")
    with serving(project, *options) as server:
        server.submit(project.ids[0])
        assert server.post("/train/ugmcl", json={}).status_code == 200
        server.wait_for_labels(project.ids[0])
        yield server


def slicer_submit(client: MONAILabelClient, project: Project, case: str) -> None:
    """What 3D Slicer does on "Submit Label" with "Auto-Update Model" ticked: save, stop, ask for a round."""
    client.save_label(
        case, str(project.reference(case)), params={"label_info": [{"name": "foreground", "idx": 1}]}
    )
    if client.train_status(check_if_running=True):
        client.train_stop()
    client.train_start("ugmcl", {"model": "ugmcl", "max_epochs": 50, "name": "train_01"})


def reached_or_done(entry: dict[str, Any], seen: set[str], goal: int) -> bool:
    """Whether one of these rounds has ended, or runs and has made `goal` steps."""
    goes_on = entry["status"] == "running" and entry["progress"]["step"] >= goal
    return entry["id"] in seen and (goes_on or entry["status"] == "done")


@leaves_sockets_open
def test_slicers_auto_update_does_not_starve_the_rounds(
    make_project: MakeProject, stock_client: Connect
) -> None:
    """Every submit stops the round after another quarter of its steps: it ends with the fourth or fifth."""
    project = make_project("phantoms", 10)
    project.set_training(steps=200, min_steps=200)
    with serving(project, "--conf", "debounce_s", "2") as server:
        client = stock_client(server)
        reached, submitted, seen = 0, [], set()
        for case in project.ids[:8]:
            slicer_submit(client, project, case)
            submitted.append(case)
            if any(entry["status"] == "done" for entry in server.rounds()):
                break
            entry = server.wait_for_round(
                lambda entry: (
                    entry["id"] not in seen
                    and entry["status"] in ("running", "done")
                    and entry["progress"]["step"] > 0
                )
            )
            if any(other["status"] == "done" for other in server.rounds()):
                break  # the submit came too late to stop it, and this is a round after it
            assert entry["progress"]["step"] >= reached, "the round lost the steps it had made"
            seen.add(entry["id"])
            entry = server.wait_for_round(lambda entry, goal=reached + 50: reached_or_done(entry, seen, goal))
            if entry["status"] == "done":
                break
            reached = entry["progress"]["step"]
        else:
            raise AssertionError(f"eight submits, and no round finished: {server.rounds()}")
        assert len(submitted) <= 5
        finished = server.wait_for_labels(*submitted)
        assert finished["promoted"] is True or finished["metrics"] is not None
        states = {entry["status"] for entry in server.rounds()}
        assert states <= {"done", "cancelled"}


def test_ohif_gets_a_plain_nrrd_of_bytes(trained: LiveServer) -> None:
    """OHIF's request: only the label, as NRRD with 8-bit voxels, named in the form as it names them."""
    case = trained.project.ids[3]
    for model in ("ugmcl", "ugmcl_uncertainty"):
        answer = trained.post(
            f"/infer/{model}?image={case}&output=image",
            files={"params": (None, json.dumps(OHIF))},
            headers={"accept": "application/json,multipart/form-data"},
        )
        assert answer.status_code == 200, answer.text[:500]
        assert answer.content.startswith(b"NRRD")
        array, affine, header = nrrd_of(answer.content)
        assert header["type"] in ("uint8", "unsigned char", "uchar")
        assert array.dtype == np.uint8
        source = nib.load(trained.project.image(case))
        assert array.shape == source.shape
        np.testing.assert_allclose(affine, source.affine, atol=1e-4)


@leaves_sockets_open
def test_slicer_keeps_the_label_of_a_reply_with_a_map(trained: LiveServer, stock_client: Connect) -> None:
    """The stock client keeps the first file of a reply: that must be the label, never the map."""
    file, params = stock_client(trained).infer(
        "ugmcl",
        trained.project.ids[3],
        {"uncertainty": "true", "result_extension": ".nrrd", "result_dtype": "uint8"},
    )
    array, _ = nrrd.read(file)
    assert array.dtype == np.uint8
    assert params["label_names"] == {"foreground": 1}


@leaves_sockets_open
@pytest.mark.parametrize(
    ("label_info", "value"),
    [
        ([{"name": "foreground", "idx": 1}], 1),
        ([{"name": "left atrium", "idx": 1}], 1),  # one class: its one segment may carry any name
        ([{"name": "Segment_1", "idx": 3}], 3),
        ([{"name": "foreground", "idx": 2}], 1),  # Slicer left "background" out of the export, not of `idx`
        ([{"name": "low", "idx": 1}, {"name": "foreground", "idx": 2}], 2),  # an empty band does no harm
    ],
)
def test_slicers_segments_are_brought_to_the_projects_values(
    trained: LiveServer, stock_client: Connect, tmp_path: Path, label_info: list, value: int
) -> None:
    case = trained.project.ids[1]
    reference = nib.load(trained.project.reference(case))
    voxels_in = np.asarray(reference.dataobj).astype(np.int16) * value
    directions = np.diag([-1.0, -1.0, 1.0]) @ reference.affine[:3]
    header = {
        "space": "left-posterior-superior",
        "space directions": directions[:, :3].T,
        "space origin": directions[:, 3],
    }
    nrrd.write(str(tmp_path / "label.nrrd"), voxels_in, header, index_order="F")
    client = stock_client(trained)
    client.save_label(case, str(tmp_path / "label.nrrd"), params={"label_info": label_info})
    saved = client.download_label(case, "final")
    stored = nrrd.read(saved)[0] if saved.endswith(".nrrd") else voxels(Path(saved))
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, np.asarray(reference.dataobj))


def test_bands_left_in_a_submission_are_refused_with_what_to_do(trained: LiveServer) -> None:
    case = trained.project.ids[2]
    answer = trained.submit(case, {"label_info": [{"name": "high", "idx": 1}]})
    assert answer.status_code == 422
    assert "delete the segments low, medium, high" in answer.json()["detail"]
    assert trained.request("HEAD", f"/datastore/label?image={case}&tag=final").status_code == 404


@leaves_sockets_open
def test_an_image_is_uploaded_segmented_and_labeled(trained: LiveServer, stock_client: Connect) -> None:
    """Slicer's "Upload Volume": PUT /datastore/?image=, then it is a case like the others."""
    project, client = trained.project, stock_client(trained)
    assert client.upload_image(str(project.image(project.ids[4])), "uploaded")["image"] == "uploaded"
    label, params = client.infer("ugmcl", "uploaded", {"mc_samples": 1})
    assert params["uncertainty"]["url"] == "/uncertainty/uploaded"
    assert nib.load(label).shape == nib.load(project.image(project.ids[4])).shape
    assert client.save_label("uploaded", str(project.reference(project.ids[4])), "final")
    assert client.datastore()["objects"]["uploaded"]["labels"]["final"]
    assert trained.request("DELETE", "/datastore/?id=uploaded").status_code == 200


@leaves_sockets_open
def test_a_session_is_segmented_without_joining_the_pool(trained: LiveServer, stock_client: Connect) -> None:
    project, client = trained.project, stock_client(trained)
    before = set(client.datastore()["objects"])
    session = client.create_session(str(project.image(project.ids[4])))["session_id"]
    label, params = client.infer("ugmcl", "", {"mc_samples": 1}, session_id=session)
    assert params["uncertainty"]["url"] is None
    answer = trained.infer(project.ids[4], mc_samples=1)
    np.testing.assert_array_equal(
        voxels(Path(label)), np.asarray(nifti_of(parts_of(answer)[1].content).dataobj)
    )
    client.remove_session(session)
    assert set(client.datastore()["objects"]) == before


def test_health_is_answered_while_inferences_and_a_round_run(trained: LiveServer) -> None:
    """By order of the answers, not by time: a busy machine must not fail it."""
    case, ended = trained.project.ids[5], []
    assert trained.post("/train/ugmcl", json={}).status_code == 200

    def infer() -> None:
        trained.infer(case, uncertainty=True, mc_samples=64)
        ended.append(time.monotonic())

    threads = [threading.Thread(target=infer) for _ in range(10)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    answered = []
    for path in ("/health", "/rounds", "/health"):
        assert trained.get(path).status_code == 200
        answered.append(time.monotonic())
    for thread in threads:
        thread.join()
    assert len(ended) == 10
    assert answered[-1] < max(ended), "the server answered only after the inferences were done"
