"""The worker as a real process: a round, its stop and resumption, scoring, prediction."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lib import worker_compare
from lib.round_record import TRAIN, VALIDATE
from lib.worker_compare import compare
from lib.worker_labels import label_loader, take_labels
from lib.worker_process import APP_FOLDER, Event, WorkerOutcome, WorkerProcess, worker_environment
from lib.workspace import Workspace
from tests.app.round_support import EDGE, Studies, WorkerHere, keep_tiny_config, tiny_checkpoint, work_folder
from ugmcl.checkpoint import load_checkpoint, save_checkpoint
from ugmcl.sampling import TrainingCase


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    studies = Studies(tmp_path / "studies", count=6)
    for number in range(4):
        studies.save_label(f"case{number:02d}", number)
    return studies


@pytest.fixture
def workspace(studies: Studies) -> Workspace:
    return Workspace(studies.folder / ".ugmcl")


def job_of(studies: Studies, workspace: Workspace, **values: Any) -> dict[str, Any]:
    labeled = sorted(studies.final_labels())
    roles = [TRAIN, TRAIN, TRAIN, VALIDATE]
    return {
        "round": "r0001",
        "labeled": [
            {
                "id": i,
                "image": studies.get_image_uri(i),
                "label": studies.get_label_uri(i, "final"),
                "role": role,
            }
            for i, role in zip(labeled, roles, strict=False)
        ],
        "unlabeled": [
            {"id": i, "image": studies.get_image_uri(i)} for i in studies.list_images() if i not in labeled
        ],
        "labels": ["foreground"],
        "published": None,
        "published_version": None,
        "workdir": str(work_folder(workspace)),
        "tensorboard": str(workspace.training / "tensorboard" / "r0001"),
        "preset": "default",
        "device": "cpu",
        "threads": 1,
        "round_seconds": 5.0,
        "seed": 1,
        **values,
    }


def worker_of(
    job: dict[str, Any], workspace: Workspace, command: str = "train"
) -> tuple[WorkerProcess, list[Event]]:
    file = workspace.training / "job.json"
    file.write_text(json.dumps(job))
    events: list[Event] = []
    return WorkerProcess([command, "--job", str(file)], nice=5, threads=1, on_event=events.append), events


def run_in_thread(worker: WorkerProcess) -> tuple[threading.Thread, list[WorkerOutcome]]:
    outcomes: list[WorkerOutcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(worker.run()))
    thread.start()
    return thread, outcomes


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_a_round_trains_validates_and_reports_what_it_read(studies: Studies, workspace: Workspace) -> None:
    keep_tiny_config(workspace)
    live = workspace.models / "live.pt"
    save_checkpoint(live, tiny_checkpoint())
    studies.save_bytes("case01", b"not a label")
    (studies.folder / "case05.nii.gz").write_bytes(b"not an image")
    job = job_of(studies, workspace, published=str(live), published_version="v1")
    worker, events = worker_of(job, workspace)
    outcome = worker.run()
    assert outcome.result is not None, outcome.error
    result = outcome.result
    assert result["read"] == studies.final_labels()
    assert set(result["set_aside"]) == {"case01", "case05"}
    assert set(result["metrics"]) == {"student", "teacher", "published_before"}
    assert 0 <= result["metrics"]["published_before"]["dice"] <= 1
    assert events[-1]["phase"] == "validate"
    assert [event["step"] for event in events if event["phase"] == "train"][-1] == result["steps"]
    assert load_checkpoint(result["checkpoint"]).config.to_dict() == result["config"]
    assert list(Path(job["tensorboard"]).glob("events.out.tfevents.*"))
    assert (work_folder(workspace) / "state.pt").exists(), "kept until the server has the candidate"


def test_a_stopped_round_saves_its_state_and_the_next_one_resumes_it(
    studies: Studies, workspace: Workspace
) -> None:
    keep_tiny_config(workspace, steps=300)
    job = job_of(studies, workspace, round_seconds=1.0)
    worker, events = worker_of(job, workspace)
    thread, outcomes = run_in_thread(worker)
    wait_for(lambda: any(event["step"] >= 3 for event in events))
    worker.stop()
    thread.join(timeout=30)
    assert outcomes[0].result is None
    assert "SIGTERM" in outcomes[0].error
    assert (work_folder(workspace) / "state.pt").exists()
    reached = events[-1]["step"]
    worker, events = worker_of(job, workspace)
    thread, outcomes = run_in_thread(worker)
    wait_for(lambda: events)
    worker.stop()
    thread.join(timeout=30)
    assert events[0]["step"] > reached


def result_here(job: dict[str, Any], stop_after: int | None = None) -> Event | None:
    """The result of a round in this process; None where it was stopped first."""
    return WorkerHere(job, stop_after).run().result


def test_a_label_that_joins_a_resumed_round_late_is_left_to_the_next_one(
    studies: Studies, workspace: Workspace
) -> None:
    keep_tiny_config(workspace, steps=8)
    before = studies.final_labels()
    assert result_here(job_of(studies, workspace), stop_after=5) is None
    studies.save_label("case00", 7)  # replaced
    studies.save_label("case04", 4)  # new
    job = job_of(studies, workspace)
    image, label = studies.get_image_uri("case04"), studies.get_label_uri("case04", "final")
    job["labeled"].append({"id": "case04", "image": image, "label": label, "role": TRAIN})
    result = result_here(job)
    assert result is not None
    assert result["read"] == before
    assert result["late"] == ["case00", "case04"]
    assert "the next round learns it" in result["set_aside"]["case04"]
    (work_folder(workspace) / "state.pt").unlink()  # as the server does when it has the candidate
    result = result_here(job)
    assert result is not None
    assert result["read"] == studies.final_labels()
    assert result["late"] == []


def test_a_worker_ends_with_the_process_that_started_it(studies: Studies, workspace: Workspace) -> None:
    keep_tiny_config(workspace, steps=100_000)
    file = workspace.training / "job.json"
    file.write_text(json.dumps(job_of(studies, workspace, round_seconds=600.0)))
    code = (
        "import os, sys; from lib.worker_process import WorkerProcess\n"
        f"worker = WorkerProcess(['train', '--job', {str(file)!r}], nice=5, threads=1,\n"
        "    on_event=lambda event: (print(worker._child.pid, flush=True), os._exit(9)))\n"
        "worker.run()"
    )
    environment = worker_environment(os.environ, 1)
    dying = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert dying.returncode == 9, dying.stderr
    pid = int(dying.stdout)
    status = Path(f"/proc/{pid}/status")
    wait_for(lambda: not status.exists() or "State:\tZ" in status.read_text(), 30)
    assert (work_folder(workspace) / "state.pt").exists()


def test_a_round_without_a_readable_training_case_says_so(studies: Studies, workspace: Workspace) -> None:
    for image_id in studies.final_labels():
        studies.save_bytes(image_id, b"not a label")
    keep_tiny_config(workspace)
    worker, _ = worker_of(job_of(studies, workspace), workspace)
    outcome = worker.run()
    assert outcome.result is None
    assert outcome.raised
    assert outcome.error.endswith(".")


class Printing(WorkerProcess):
    """A process that prints some lines and then sleeps, in place of a worker."""

    lines: tuple[str, ...] = ()

    def _spawn(self) -> subprocess.Popen[str]:
        code = "import sys, time; print(sys.argv[1], flush=True); time.sleep(float(sys.argv[2]))"
        return subprocess.Popen(
            [sys.executable, "-c", code, "\n".join(self.lines), self.arguments[0]],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip


def test_what_a_library_prints_is_no_event_even_if_it_is_json() -> None:
    worker, events = Printing(["0"]), list[Event]()
    worker.on_event = events.append
    worker.lines = ("3", "null", '["x"]', '{"event": "begun"}', '{"event": "result"}')
    assert worker.run().result == {"event": "result"}
    assert events == [{"event": "begun"}]


def test_a_worker_whose_events_cannot_be_kept_is_stopped() -> None:
    worker = Printing(["600"])
    worker.lines = ('{"event": "score"}',)

    def full(event: Event) -> None:
        raise OSError("no space left on device")

    worker.on_event = full
    with pytest.raises(OSError, match="no space"):
        worker.run()
    assert worker._child is not None
    assert worker._child.wait(30) == -signal.SIGTERM


def test_a_worker_stopped_before_its_start_never_starts() -> None:
    worker = WorkerProcess(["train", "--job", "absent.json"])
    worker.stop()
    assert worker.run().result is None
    assert worker._child is None


def test_a_model_that_went_live_during_a_round_is_measured_as_the_one_before_it(
    studies: Studies, workspace: Workspace
) -> None:
    keep_tiny_config(workspace)
    live = workspace.models / "live.pt"
    save_checkpoint(live, tiny_checkpoint())
    job = job_of(studies, workspace, published=str(live), published_version="v1")
    trained = result_here(job)
    assert trained is not None
    assert trained["published_version"] == "v1"
    assert [case["id"] for case in trained["validation"]] == ["case03"]
    job = {"published": str(live), "labels": ["foreground"], "device": "cpu", "threads": 1}
    measured = worker_of({**job, "cases": trained["validation"]}, workspace, "compare")[0].run().result
    assert measured is not None
    # Each process may choose another number format.
    assert measured["published_before"] == pytest.approx(trained["metrics"]["published_before"], abs=0.01)
    found: list[Any] = []
    compare({**job, "labels": ["heart"], "cases": []}, lambda event, **values: found.append(values))  # type: ignore[arg-type]
    assert found == [{"published_before": None}], "a model of other classes cannot be compared with"


def test_the_live_model_is_measured_anew_only_when_a_validation_case_changed(
    studies: Studies, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(studies, workspace, published_version="v1")
    work_folder(workspace).mkdir(parents=True, exist_ok=True)
    measured: list[list[str]] = []

    def measure(model: Any, cases: list[TrainingCase], *_: Any) -> dict[str, float]:
        measured.append([case.id for case in cases])
        return {"dice": 0.5 + len(measured) / 8, "hd95_mm": 1.0}

    monkeypatch.setattr(worker_compare, "_measure", measure)

    def dice() -> float:
        taken = take_labels(job, work_folder(workspace))
        means = worker_compare.published_before(
            job, tiny_checkpoint(), taken, label_loader(["foreground"]), "cpu"
        )
        assert means is not None
        return means["dice"]

    [validates] = [case["id"] for case in job["labeled"] if case["role"] == VALIDATE]
    assert (dice(), dice()) == (0.625, 0.625)
    studies.add_image(validates, 17)  # another scan under the same name, the same label
    assert (dice(), dice()) == (0.75, 0.75)
    studies.save_label(validates, 17)
    assert dice() == 0.875
    assert measured == [[validates]] * 3


def test_scoring_names_every_case_or_why_it_was_skipped(studies: Studies, workspace: Workspace) -> None:
    model = workspace.models / "live.pt"
    save_checkpoint(model, tiny_checkpoint())
    (studies.folder / "case05.nii.gz").write_bytes(b"not an image")
    cases = [{"id": i, "image": studies.get_image_uri(i)} for i in ("case04", "case05")]
    job = {"model": str(model), "device": "cpu", "threads": 1, "mc_samples": 2, "seed": 0, "cases": cases}
    worker, events = worker_of(job, workspace, "score")
    assert worker.run().result == {"event": "result", "scored": 1}
    assert [(event["event"], event["id"]) for event in events] == [
        ("begun", "case04"),
        ("score", "case04"),
        ("begun", "case05"),
        ("skipped", "case05"),
    ]
    assert 0 <= events[1]["score"] <= 1


def predict(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lib.worker", "predict", "--threads", "1", *arguments],
        env={**os.environ, "PYTHONPATH": str(APP_FOLDER)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_prediction_writes_a_label_and_a_map_for_every_readable_scan(
    studies: Studies, tmp_path: Path
) -> None:
    model, output = tmp_path / "model.pt", tmp_path / "out"
    save_checkpoint(model, tiny_checkpoint())
    (studies.folder / "case05.nii.gz").write_bytes(b"not an image")
    shutil.copy(studies.folder / "case00.nii.gz", studies.folder / "case04_uncertainty.nii.gz")
    shutil.copy(studies.folder / "case00.nii.gz", studies.folder / "case03.nrrd")
    where = ("--input", str(studies.folder), "--output", str(output))
    done = predict("--model", str(model), *where, "--mc-samples", "2")
    assert done.returncode == 1
    assert "case05.nii.gz was left out" in done.stderr
    assert "case04_uncertainty.nii.gz was left out: it is named like the uncertainty map" in done.stderr
    assert "case03.nrrd was left out: its results would replace those of case03.nii.gz" in done.stderr
    assert len(list(output.iterdir())) == 10
    map_file = nibabel.load(output / "case04_uncertainty.nii.gz")
    assert map_file.shape == (EDGE, EDGE, EDGE)
    assert map_file.get_data_dtype() == np.float32
    digest = hashlib.sha256((output / "case04.nii.gz").read_bytes()).hexdigest()
    assert digest != hashlib.sha256((output / "case03.nii.gz").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("option", "value", "allowed"), [("--mc-samples", "0", "1 to 64"), ("--device", "gpu", "cpu")]
)
def test_prediction_refuses_options_with_a_sentence_and_writes_nothing(
    studies: Studies, tmp_path: Path, option: str, value: str, allowed: str
) -> None:
    save_checkpoint(tmp_path / "model.pt", tiny_checkpoint())
    where = ("--input", str(studies.folder), "--output", str(tmp_path / "out"))
    done = predict("--model", str(tmp_path / "model.pt"), *where, option, value)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert value in done.stderr
    assert allowed in done.stderr
    assert not (tmp_path / "out").exists()
