"""The main job: an expert's label becomes a better model with its uncertainty, through the stock client."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monailabel.client.client import MONAILabelClient, MONAILabelClientException

from tests.journeys.conftest import MakeProject
from tests.journeys.live_server import LiveServer, Project, leaves_sockets_open, serving
from tests.journeys.replies import dice, nifti_of, nrrd_of, parts_of, voxels
from tests.server.conftest import command, environment
from ugmcl.metrics import auroc

Connect = Callable[[LiveServer], MONAILabelClient]

ROUND_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "status": (str,),
    "labeled": (int,),
    "labeled_ids": (list,),
    "unlabeled": (int,),
    "model_version": (str, type(None)),
    "promoted": (bool,),
    "reason": (str,),
    "metrics": (dict, type(None)),
    "progress": (dict,),
    "started_at": (str, type(None)),
    "finished_at": (str, type(None)),
    "duration_s": (int, float, type(None)),
}
QUICK = ("--conf", "debounce_s", "1", "--conf", "round_seconds", "8")
SCANS = ["phantoms", pytest.param("hippocampus", marks=pytest.mark.real)]


def assert_round_is_as_documented(entry: dict[str, Any]) -> None:
    assert set(entry) == set(ROUND_TYPES)
    for key, kinds in ROUND_TYPES.items():
        assert type(entry[key]) in kinds, f"{key} is {entry[key]!r}"
    assert entry["status"] in ("queued", "running", "done", "failed", "cancelled")
    assert entry["labeled"] == len(set(entry["labeled_ids"])) == len(entry["labeled_ids"])
    assert set(entry["progress"]) == {"step", "steps", "eta_s"}
    assert type(entry["progress"]["step"]) is type(entry["progress"]["steps"]) is int
    if entry["metrics"] is not None:
        assert set(entry["metrics"]) == {"student", "teacher", "published_before"}
        for means in entry["metrics"].values():
            assert means is None or set(means) == {"dice", "hd95_mm"}
            assert means is None or 0 <= means["dice"] <= 1
    if entry["status"] == "done":
        assert datetime.fromisoformat(entry["started_at"]) < datetime.fromisoformat(entry["finished_at"])
        assert entry["duration_s"] > 0
        assert 0 < entry["progress"]["step"] <= entry["progress"]["steps"]


def assert_nothing_is_trained_yet(server: LiveServer, client: MONAILabelClient) -> None:
    assert server.get("/ready").json()["ready"] is True
    info = client.info()
    assert info["models"]["ugmcl"]["labels"] == {"foreground": 1}
    assert {"labels", "models", "trainers", "strategies", "train_stats", "datastore"} <= set(info)
    assert info["model_version"] is None
    assert server.rounds() == []
    assert server.get("/models").json() == {"models": []}
    ids = server.project.ids
    refusal = server.post(f"/infer/ugmcl?image={ids[0]}")
    assert refusal.status_code == 409
    assert (refusal.json()["labeled"], refusal.json()["labels_needed"]) == (0, 1)
    with pytest.raises(MONAILabelClientException, match="409"):
        client.infer("ugmcl", ids[0], {})
    # Before a first model the documented fallback is the order of the ids.
    offered = client.next_sample("most_uncertain", {})
    assert (offered["id"], offered["score"], offered["model_version"]) == (ids[0], None, None)


def assert_first_round_published(server: LiveServer, case: str) -> str:
    entry = server.wait_for_labels(case)
    assert_round_is_as_documented(entry)
    assert (entry["labeled"], entry["unlabeled"]) == (1, len(server.project.ids) - 1)
    assert entry["promoted"] is True
    assert entry["reason"] == "no validation case yet"
    assert entry["metrics"] is None
    (model,) = server.get("/models").json()["models"]
    assert set(model) == {"version", "published", "round", "metrics", "created_at"}
    assert model["published"] is True
    assert (model["version"], model["round"]) == (entry["model_version"], entry["id"])
    assert server.get("/info/").json()["model_version"] == entry["model_version"]
    return str(entry["model_version"])


def assert_infer_replies_label_and_map(server: LiveServer, case: str, version: str) -> np.ndarray:
    """The reply read by a plain multipart parser; returns the map."""
    answer = server.infer(case, uncertainty=True, mc_samples=2)
    params_part, image_part, map_part = parts_of(answer)
    assert [params_part.name, image_part.name, map_part.name] == ["params", "image", "uncertainty"]
    assert params_part.filename is None
    params = json.loads(params_part.content)
    assert params["model_version"] == version
    assert params["label_names"] == {"foreground": 1}
    assert params["latencies"]["total"] > 0
    summary = params["uncertainty"]
    assert 0 <= summary["score"] <= 1
    assert 0 <= summary["mean_foreground"] <= 1
    assert summary["mc_samples"] == 2
    assert summary["url"] == f"/uncertainty/{case}"
    source = nib.load(server.project.image(case))
    scores = [entry["score"] for entry in summary["top_slices"]]
    assert scores == sorted(scores, reverse=True)
    for entry in summary["top_slices"]:
        assert 0 <= entry["index"] < source.shape[entry["axis"]]
    label, uncertainty = nifti_of(image_part.content), nifti_of(map_part.content)
    for image in (label, uncertainty):
        assert image.shape == source.shape
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-4)
    assert label.get_data_dtype() == np.uint8
    assert uncertainty.get_data_dtype() == np.float32
    values = np.asarray(uncertainty.dataobj)
    assert np.isfinite(values).all()
    assert 0 <= values.min() <= values.max() <= 1
    assert values.max() > 0
    return values


def assert_map_is_served_in_both_formats(server: LiveServer, case: str, version: str) -> None:
    source = nib.load(server.project.image(case))
    nifti = server.get(f"/uncertainty/{case}?format=nifti")
    other = server.get(f"/uncertainty/{case}")
    for answer in (nifti, other):
        assert answer.status_code == 200, answer.text[:500]
        assert answer.headers["x-model-version"] == version
    image = nifti_of(nifti.content)
    array, affine, header = nrrd_of(other.content)
    assert header["type"] == "float"
    np.testing.assert_array_equal(array, np.asarray(image.dataobj))
    for grid in (image.affine, affine):
        np.testing.assert_allclose(grid, source.affine, atol=1e-4)


def assert_bands_cover_the_scan(server: LiveServer, case: str) -> None:
    answer = server.post(f"/infer/ugmcl_uncertainty?image={case}")
    assert answer.status_code == 200, answer.text[:500]
    params, image = parts_of(answer)
    assert json.loads(params.content)["label_names"] == {"low": 1, "medium": 2, "high": 3}
    bands = np.asarray(nifti_of(image.content).dataobj)
    assert set(np.unique(bands)) <= {0, 1, 2, 3}
    assert bands.shape == nib.load(server.project.image(case)).shape


def assert_next_case_is_the_least_sure(server: LiveServer, client: MONAILabelClient, version: str) -> None:
    """Once the background has scored the pool, the offered case has the newest score."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        offered = client.next_sample("most_uncertain", {})
        if offered["model_version"] == version:
            break
        time.sleep(0.3)
    assert offered["model_version"] == version
    assert 0 <= offered["score"] <= 1
    labeled = {case for entry in server.rounds() for case in entry["labeled_ids"]}
    assert offered["id"] in set(server.project.ids) - labeled


def assert_fourth_label_validates(server: LiveServer, cases: list[str], before: str) -> str:
    entry = server.wait_for_labels(*cases)
    assert_round_is_as_documented(entry)
    assert entry["labeled"] == 4
    student, teacher = entry["metrics"]["student"], entry["metrics"]["teacher"]
    published = entry["metrics"]["published_before"]
    assert student is not None
    assert teacher is not None
    assert published is not None
    best = max(student["dice"], teacher["dice"])
    assert entry["promoted"] is (best >= published["dice"])
    assert entry["reason"] != "no validation case yet"
    models = {model["version"]: model for model in server.get("/models").json()["models"]}
    assert set(models) == {before, entry["model_version"]}
    live = entry["model_version"] if entry["promoted"] else before
    assert [version for version, model in models.items() if model["published"]] == [live]
    return str(entry["model_version"])


def assert_versions_can_be_exchanged(server: LiveServer, case: str, first: str, second: str) -> np.ndarray:
    """Publish forward and back; returns the first version's segmentation."""
    segmentations = {}
    for version in (second, first):
        answer = server.post(f"/models/{version}/publish")
        assert answer.status_code == 200, answer.text
        params, image = parts_of(server.infer(case, mc_samples=1))
        assert json.loads(params.content)["model_version"] == version
        assert server.get("/info/").json()["model_version"] == version
        assert server.get(f"/uncertainty/{case}").headers["x-model-version"] == version
        segmentations[version] = np.asarray(nifti_of(image.content).dataobj)
    return segmentations[first]


def assert_predict_agrees(project: Project, version: str, case: str, served: np.ndarray) -> None:
    """`predict` by version and by file writes what the server answered, up to the number format."""
    scans = project.folder / "scans"
    scans.mkdir()
    (scans / f"{case}.nii.gz").write_bytes(project.image(case).read_bytes())
    by_version = ["--model", version, "--studies", str(project.studies)]
    by_file = ["--model", str(project.workspace / "models" / version / "model.pt")]
    for number, model in enumerate((by_version, by_file)):
        out = project.folder / f"out{number}"
        ended = subprocess.run(
            command("predict", *model, "--input", str(scans), "--output", str(out), "--mc-samples", "2"),
            cwd=project.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert {path.name for path in out.iterdir()} == {f"{case}.nii.gz", f"{case}_uncertainty.nii.gz"}
        assert np.mean(voxels(out / f"{case}.nii.gz") == served) > 0.98
        values = voxels(out / f"{case}_uncertainty.nii.gz")
        assert values.dtype == np.float32
        assert 0 <= values.min() <= values.max() <= 1


@leaves_sockets_open
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scans", SCANS)
def test_labels_become_models_without_anyone_waiting(
    make_project: MakeProject, stock_client: Connect, scans: str
) -> None:
    project = make_project(scans, 7)
    project.set_training(patch=(32, 32, 32), steps=40, min_steps=20)
    cases, shown = project.ids[:4], project.ids[-1]
    with serving(project, *QUICK) as server:
        client = stock_client(server)
        assert_nothing_is_trained_yet(server, client)

        client.save_label(cases[0], str(project.reference(cases[0])), "final", {"label_info": []})
        entry = server.wait_for_round(lambda entry: entry["status"] != "cancelled")
        assert_round_is_as_documented(entry)
        first = assert_first_round_published(server, cases[0])

        assert_infer_replies_label_and_map(server, shown, first)
        assert_map_is_served_in_both_formats(server, shown, first)
        assert_bands_cover_the_scan(server, shown)
        assert_next_case_is_the_least_sure(server, client, first)

        for case in cases[1:]:
            client.save_label(case, str(project.reference(case)), "final")
        second = assert_fourth_label_validates(server, cases, first)
        assert_next_case_is_the_least_sure(server, client, server.get("/info/").json()["model_version"])
        with contextlib.closing(sqlite3.connect(project.workspace / "catalogue.db")) as connection:
            roles = connection.execute("SELECT role FROM split_roles ORDER BY position").fetchall()
        assert [role for (role,) in roles] == ["train", "train", "train", "validate"]

        served = assert_versions_can_be_exchanged(server, shown, first, second)
    assert_predict_agrees(project, first, shown, served)


STEPS = 150
DICE_FLOOR = 0.6
"""Mean foreground Dice of the other 18 cases after `STEPS` steps on six labels; measured 0.73."""
AUROC_FLOOR = 0.6
"""Mean over the cases of how well the map tells wrong voxels from right ones, 0.5 by chance; measured 0.69.

That is said of voxels. Over these 18 *cases* the score's rank correlation with the error was 0.02, so this
journey prints it and asserts nothing of it; the choice of the score is measured by `make score-ranking`.
"""


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


@pytest.mark.real
@pytest.mark.timeout(1500)
def test_six_labels_segment_the_rest_and_the_map_marks_the_errors(
    make_project: MakeProject, full_budget: bool
) -> None:
    """The default network and a fixed number of steps, so that a busy machine is slower and not worse.

    The labels lie in the folder before the server starts.
    """
    if not full_budget:
        pytest.skip("trains the default network for minutes; runs with the full budget (make test-real)")
    project = make_project("hippocampus", 24)
    for case in project.ids[:6]:
        project.put_label(case)
    project.set_training(network={}, patch=None, steps=STEPS, min_steps=STEPS)
    with serving(project, "--conf", "threads", "2") as server:
        entry = server.wait_for_labels(*project.ids[:6], patience_s=1200)
        assert entry["unlabeled"] == 18
        assert entry["promoted"] is True
        scores, overlaps, aurocs = [], [], []
        for case in project.ids[6:]:
            params, image, uncertainty = parts_of(server.infer(case, uncertainty=True))
            scores.append(json.loads(params.content)["uncertainty"]["score"])
            label = np.asarray(nifti_of(image.content).dataobj)
            reference = voxels(project.reference(case))
            overlaps.append(dice(label, reference))
            found = auroc(np.asarray(nifti_of(uncertainty.content).dataobj), label != reference)
            assert found is not None
            aurocs.append(found)
    correlation = float(np.corrcoef(ranks(scores), ranks([1 - value for value in overlaps]))[0, 1])
    print(f"Dice {np.mean(overlaps):.3f}, voxel AUROC {np.mean(aurocs):.3f}, case ranks {correlation:.2f}")
    assert np.mean(overlaps) > DICE_FLOOR, overlaps
    assert np.mean(aurocs) > AUROC_FLOOR, aurocs
