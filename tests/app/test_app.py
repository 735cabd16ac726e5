"""The app as the host loads it, and as the stock server serves it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monailabel.endpoints.infer
import numpy as np
import pytest
from fastapi import FastAPI
from monailabel.config import settings as host_settings
from monailabel.endpoints import activelearning, datastore, info
from monailabel.interfaces.utils.app import app_instance, clear_cache
from starlette.testclient import TestClient

from tests.app.scan_support import SHAPE, block, publish_tiny_model, put_bad_files, scan, tree, write_nifti

APP_DIR = Path(__file__).resolve().parents[2] / "apps" / "ugmcl_app"


@pytest.fixture
def app(scans: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    put_bad_files(scans)
    monkeypatch.setattr(host_settings, "MONAI_LABEL_APP_DIR", str(APP_DIR))
    monkeypatch.setattr(host_settings, "MONAI_LABEL_STUDIES", str(scans))
    monkeypatch.setattr(host_settings, "MONAI_LABEL_APP_CONF", {"device": "cpu"})
    monkeypatch.setattr(host_settings, "MONAI_LABEL_SESSION_PATH", str(scans.parent / "sessions"))
    clear_cache()
    instance = app_instance()
    yield instance
    instance.stop()
    clear_cache()


@pytest.fixture
def stock(app: Any) -> Iterator[TestClient]:
    """The stock server's own routes over the app; no background work is started."""
    server = FastAPI()
    for module in (info, monailabel.endpoints.infer, activelearning, datastore):
        server.include_router(module.router)
    with TestClient(server) as client:
        yield client


def publish(app: Any) -> str:
    # The class of the loaded app's own `lib`, which the host has reloaded since this file was imported.
    return publish_tiny_model(app.registry)


def refusal(status: int, action: Any, *arguments: Any) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the host's reloading makes another Refusal class
        action(*arguments)
    assert getattr(caught.value, "status_code", None) == status, caught.value
    return str(caught.value.detail)


def test_the_host_finds_the_app_and_its_tasks(app: Any) -> None:
    found = app.info()
    assert type(app).__name__ == "UGMCLApp"
    assert found["labels"] == {"foreground": 1}
    assert set(found["models"]) == {"ugmcl", "ugmcl_uncertainty"}
    assert set(found["strategies"]) == {"most_uncertain", "random", "first"}
    assert set(found["trainers"]) == {"ugmcl"}
    assert found["datastore"]["total"] == 3
    assert len(found["datastore"]["quarantined"]) == 12
    assert found["model_version"] is None
    json.dumps(found)


def test_before_a_model_inference_says_what_is_missing(app: Any) -> None:
    assert "no model yet" in refusal(409, app.infer, {"model": "ugmcl", "image": "a"})
    refusal(409, app.uncertainty_map, "a")
    assert app.next_sample({"strategy": "most_uncertain"})["id"] == "a"


def test_unknown_names_are_404(app: Any) -> None:
    assert "ugmcl_uncertainty" in refusal(404, app.infer, {"model": "nnunet", "image": "a"})
    refusal(404, app.infer, {"model": "ugmcl", "image": "nobody"})
    refusal(404, app.infer, {"model": "ugmcl", "image": ""})
    refusal(404, app.infer, {"model": "ugmcl", "image": None})
    refusal(404, app.next_sample, {"strategy": "best"})
    refusal(404, app.uncertainty_map, "nobody")


def test_inference_leaves_results_and_a_kept_map(app: Any) -> None:
    version = publish(app)
    found = app.infer({"model": "ugmcl", "image": "a", "uncertainty": True, "mc_samples": 2})
    assert found["params"]["model_version"] == version
    assert Path(found["file"]).is_file()
    assert Path(found["uncertainty_file"]).is_file()
    for suffix in (".nii.gz", ".nrrd"):
        path, made_by = app.uncertainty_map("a", suffix=suffix)
        assert made_by == version
        assert path.name.startswith("a.")  # and the hash of its content
        assert path.name.endswith(suffix)
    assert app.ready() == (False, "The app is still starting.")


def test_a_proposal_can_be_saved_but_never_as_the_experts(app: Any) -> None:
    publish(app)
    request = {"model": "ugmcl", "image": "a", "save_label": True, "mc_samples": 1}
    assert app.infer(request)["label"] == "a"
    assert app.datastore().get_labels_by_image_id("a") == {"original": "a"}
    refusal(422, app.infer, {**request, "label_tag": "final"})
    assert app.datastore().final_labels() == {}


def test_server_paths_are_no_images(app: Any, scans: Path) -> None:
    publish(app)
    outside = Path(os.__file__)
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "link.nii.gz"
        link.symlink_to(scans / "a.nii.gz")
        for path in ("/etc/hostname", str(outside), folder, str(link), "../a", "a.nii.gz"):
            assert refusal(404, app.infer, {"model": "ugmcl", "image": path})


def test_an_uploaded_file_is_segmented_and_not_kept(app: Any, scans: Path) -> None:
    publish(app)
    before = tree(scans)
    with tempfile.TemporaryDirectory() as folder:
        upload = write_nifti(Path(folder) / "upload.nii.gz", scan(seed=9))
        found = app.infer({"model": "ugmcl", "image": str(upload), "mc_samples": 1})
    assert found["params"]["uncertainty"]["url"] is None
    assert tree(scans) == before


def test_a_web_address_or_a_missing_folder_is_refused_at_start(app: Any, tmp_path: Path) -> None:
    for studies in ("http://127.0.0.1:8042/dicom-web", str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match="studies"):
            type(app)(str(APP_DIR), studies, {})


# --- the stock server


def test_the_stock_route_infers_by_id_and_by_upload(stock: TestClient, app: Any, tmp_path: Path) -> None:
    publish(app)
    # The stock server's multipart reply leaves its file open, which would count as a failure here.
    reply = stock.post("/infer/ugmcl?image=a&output=image", data={"params": json.dumps({"mc_samples": 1})})
    assert reply.status_code == 200, reply.text
    upload = write_nifti(tmp_path / "u.nii.gz", scan(seed=3))
    with upload.open("rb") as stream:
        reply = stock.post(
            "/infer/ugmcl?output=json",
            files={"file": ("u.nii.gz", stream)},
            data={"params": '{"mc_samples": 1}'},
        )
    assert reply.json()["uncertainty"]["url"] is None


def test_the_stock_route_takes_no_server_path(stock: TestClient, app: Any) -> None:
    publish(app)
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as other:
        write_nifti(Path(other.name), scan())
        assert stock.post(f"/infer/ugmcl?image={other.name}").status_code == 400
        sneaked = {"params": json.dumps({"image": other.name, "model": "x", "mc_samples": 1})}
        reply = stock.post("/infer/ugmcl?image=a&output=json", data=sneaked)
        assert reply.json()["uncertainty"]["url"] == "/uncertainty/a"
    assert stock.post("/infer/ugmcl?session_id=../../etc").status_code == 400
    for params in ("{", '{"a": ' + "[" * 100_000):
        assert stock.post("/infer/ugmcl?image=a", data={"params": params}).status_code == 400


def test_the_stock_routes_check_labels(stock: TestClient, app: Any, scans: Path, tmp_path: Path) -> None:
    before = tree(scans)
    for array, status in ((block((12, 10, 9)), 422), (np.zeros(SHAPE, np.uint8), 422), (block(value=4), 422)):
        path = write_nifti(tmp_path / "l.nii.gz", array)
        with path.open("rb") as stream:
            assert stock.put("/datastore/label?image=a", files={"label": stream}).status_code == status
    with path.open("rb") as stream:
        assert stock.put("/datastore/label?image=a&tag=../x", files={"label": stream}).status_code == 400
    assert tree(scans) == before
    path = write_nifti(tmp_path / "l.nii.gz", block())
    with path.open("rb") as stream:
        assert stock.put("/datastore/label?image=a", files={"label": stream}).json() == {
            "image": "a",
            "label": "a",
        }
    assert stock.get("/info/").json()["datastore"]["completed"] == 1
    assert stock.post("/activelearning/most_uncertain").json()["id"] == "b"
