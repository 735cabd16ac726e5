"""The stock train routes and the stock client drive the round queue of the real app."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.app.round_support import ReadingWorker, Studies

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "apps" / "ugmcl_app"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The app as the stock server opens it, its rounds served by workers that take half a second."""
    from monailabel.config import settings
    from monailabel.interfaces.utils.app import app_instance, clear_cache

    # Or the host would throw this test session's own `lib` away when it loads the app's.
    monkeypatch.setenv("MONAI_LABEL_RELOAD_APP_LIB", "false")
    studies = Studies(tmp_path / "studies", count=3)
    monkeypatch.setattr(settings, "MONAI_LABEL_APP_DIR", str(APP))
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", str(studies.folder))
    conf = {"debounce_s": "0.05", "device": "cpu"}
    monkeypatch.setattr(settings, "MONAI_LABEL_APP_CONF", conf)
    app = app_instance()
    app.server_mode(True)
    app.rounds._runner._make_worker = lambda job, on_event: ReadingWorker(job, 0.5)
    app.rounds.service.scoring = None
    app.rounds.start()
    yield app
    app.rounds.stop()
    clear_cache()


@pytest.fixture
def client(app: Any) -> Iterator[TestClient]:
    from monailabel.endpoints import train

    server = FastAPI()
    server.include_router(train.router)
    with TestClient(server) as client:
        yield client


def save_label(app: Any, image_id: str, seed: int, tmp_path: Path) -> None:
    import nibabel
    import numpy as np

    from tests.app.round_support import ball

    file = tmp_path / f"{image_id}-label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(ball(seed)[1], np.eye(4)), file)
    app.datastore().save_label(image_id, str(file), "final", {})


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_training_is_asked_for_watched_and_stopped_through_the_stock_routes(
    app: Any, client: TestClient, tmp_path: Path
) -> None:
    assert client.get("/train/").status_code == 404
    assert client.get("/train/", params={"check_if_running": True}).status_code == 404
    assert client.post("/train/ugmcl").status_code == 409
    unknown = client.post("/train/unknown", json={})
    assert (unknown.status_code, unknown.json()["detail"].count("ugmcl")) == (404, 1)
    save_label(app, "case00", 0, tmp_path)
    wait_for(lambda: client.get("/train/").json()["status"] == "RUNNING")
    task = client.get("/train/").json()
    assert {"id", "status", "request", "start_ts", "details", "round", "progress"} <= set(task)
    assert client.get("/train/", params={"check_if_running": True}).json()["round"] == task["round"]
    waiting = client.post("/train/ugmcl", json={"max_epochs": 5, "client_id": "a viewer"})
    assert (waiting.status_code, waiting.json()["status"]) == (200, "SUBMITTED")
    assert client.post("/train/", json={}).json()["ugmcl"]["result"]["round"] == waiting.json()["round"]
    stopped = client.delete("/train/").json()
    assert (stopped["round"], stopped["status"]) == (task["round"], "STOPPED")
    again = client.post("/train/ugmcl", params={"run_sync": True}).json()
    assert again["status"] == "DONE"
    assert "end_ts" in again
    assert [t["status"] for t in client.get("/train/", params={"all": True}).json()][-1] == "DONE"
    assert client.delete("/train/").json() is None


def test_the_trainer_reports_its_last_round_to_viewers(app: Any, tmp_path: Path) -> None:
    trainer = app.info()["trainers"]["ugmcl"]
    assert "max_epochs" in trainer["config"]["note"]
    assert app.info()["train_stats"]["ugmcl"] == {}
    save_label(app, "case00", 0, tmp_path)
    entry = app.train({"model": "ugmcl", "name": "from a viewer", "max_epochs": 50})
    assert entry["status"] == "done"
    stats = app.info()["train_stats"]["ugmcl"]
    assert stats["model_version"] == entry["model_version"]


def test_the_host_starts_no_scoring_processes(app: Any, tmp_path: Path) -> None:
    assert app._auto_update_scoring is False


def test_other_tasks_keep_the_stock_machinery(app: Any) -> None:
    from monailabel.endpoints.train import AsyncTask

    assert AsyncTask.status("scoring") == (None, "No Scoring Tasks Found")
    assert AsyncTask.stop("batch_infer") is None


@pytest.mark.parametrize(
    "code",
    ["import pydicom_seg", "import torchvision.utils", "import pydicom._storage_sopclass_uids"],
)
def test_the_import_repairs_make_the_hosts_imports_work(code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(APP)}
    done = subprocess.run(
        [sys.executable, "-c", f"import pydicom_alias; {code}"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_import_repair_costs_a_start_nothing_but_itself() -> None:
    code = (
        "import sys; before = set(sys.modules); import pydicom_alias; pydicom_alias.install();"
        "print(*sorted(set(sys.modules) - before));"
        "print(sum(f.__name__ == '_HostImportRepair' for f in sys.meta_path if isinstance(f, type)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(APP)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["pydicom_alias", "1"]
