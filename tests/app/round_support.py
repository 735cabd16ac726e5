"""Small real projects for the tests of rounds: scans of a bright ball, labels, a datastore over them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from lib.round_job import work_folder
from lib.settings import AppSettings
from lib.worker_process import Event, WorkerOutcome
from lib.workspace import Workspace
from ugmcl.checkpoint import Checkpoint, save_checkpoint
from ugmcl.config import Config, NetworkConfig, PreprocessConfig, TrainConfig

EDGE = 20


def tiny_config(steps: int = 4) -> Config:
    """A network and a schedule that train in a second."""
    return Config(
        preprocess=PreprocessConfig(patch=(16, 16, 16)),
        network=NetworkConfig(filters=(4, 8), convolutions=(1, 1)),
        train=TrainConfig(steps=steps, min_steps=steps, mc_samples=2, pool_mib=16),
    )


def tiny_checkpoint(seed: int = 0) -> Checkpoint:
    import torch

    from ugmcl.network import DualTaskVNet

    torch.manual_seed(seed)
    config = tiny_config()
    return Checkpoint.of(DualTaskVNet(config.network), config)


def settings(**values: Any) -> AppSettings:
    """Settings with which nothing waits long."""
    return AppSettings(**{"debounce_s": 0.05, "device": "cpu", "threads": 1, "round_seconds": 5.0, **values})


class Studies:
    """A folder of scans with final labels in `labels/final`; tells its listeners like the app's datastore."""

    def __init__(self, folder: Path, count: int = 0) -> None:
        self.folder = folder
        self.labels = folder / "labels" / "final"
        self.labels.mkdir(parents=True, exist_ok=True)
        self.on_labels_changed: list[Callable[[], None]] = []
        self._lock = threading.RLock()
        for number in range(count):
            self.add_image(f"case{number:02d}", number)

    def add_image(self, image_id: str, seed: int) -> None:
        image, _ = ball(seed)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), self.folder / f"{image_id}.nii.gz")

    def save_label(self, image_id: str, seed: int) -> None:
        """Save the ball of `seed` as the final label of a case, then tell."""
        content = nibabel.Nifti1Image(ball(seed)[1], np.eye(4)).to_bytes()
        self.save_bytes(image_id, content)

    def save_bytes(self, image_id: str, content: bytes) -> None:
        with self._lock:
            temporary = self.labels / f".{image_id}.tmp"
            temporary.write_bytes(content)
            temporary.replace(self.labels / f"{image_id}.nii")
            for listener in list(self.on_labels_changed):
                listener()

    def remove_label(self, image_id: str) -> None:
        with self._lock:
            (self.labels / f"{image_id}.nii").unlink()
            for listener in list(self.on_labels_changed):
                listener()

    def final_labels(self) -> dict[str, str]:
        with self._lock:
            return {
                path.name[:-4]: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(self.labels.glob("*.nii"))
            }

    def list_images(self) -> list[str]:
        return sorted(path.name[:-7] for path in self.folder.glob("*.nii.gz"))

    def image_files(self) -> dict[str, str]:
        return {image_id: self.get_image_uri(image_id) for image_id in self.list_images()}

    def get_image_uri(self, image_id: str) -> str:
        return str(self.folder / f"{image_id}.nii.gz")

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        path = self.labels / f"{label_id}.nii"
        if not path.exists():
            raise FileNotFoundError(f"{label_id} has no {label_tag} label")
        return str(path)


def ball(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy bright ball `(X, Y, Z)` float32, and its mask uint8."""
    rng = np.random.default_rng(seed)
    center = rng.uniform(8, 12, size=3)
    grid = np.stack(np.meshgrid(*[np.arange(EDGE)] * 3, indexing="ij"), axis=-1)
    mask = np.linalg.norm(grid - center, axis=-1) < 5
    image = 100 * mask + rng.normal(0, 5, mask.shape)
    return image.astype(np.float32), mask.astype(np.uint8)


def keep_tiny_config(workspace: Workspace, steps: int = 4) -> None:
    """Let the next round use the tiny network, as if an earlier round of this project had chosen it."""
    folder = work_folder(workspace)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tiny_config(steps).to_dict()))


class ReadingWorker:
    """A worker in a thread: reads the label files of its job, takes a while, ends as it is told.

    Stands in for the real process where hundreds of rounds are needed; the reading and hashing are real.
    """

    def __init__(self, job: dict[str, Any], seconds: float = 0.0, fail: str = "") -> None:
        self.job, self.seconds, self.fail = job, seconds, fail
        self._stop = threading.Event()

    def run(self) -> WorkerOutcome:
        read, set_aside = {}, {}
        for case in self.job["labeled"]:
            try:
                read[case["id"]] = hashlib.sha256(Path(case["label"]).read_bytes()).hexdigest()
            except OSError:
                set_aside[case["id"]] = "its label file could not be read"
        if self._stop.wait(self.seconds):
            return WorkerOutcome(error="The worker was ended by signal SIGTERM.")
        if self.fail:
            return WorkerOutcome(error=self.fail, raised=not self.fail.startswith("The worker was ended"))
        checkpoint = Path(self.job["workdir"]) / "candidate.pt"
        if not checkpoint.exists():
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(checkpoint, tiny_checkpoint())
        return WorkerOutcome(result=result_event(self.job, checkpoint, read, set_aside))

    def stop(self) -> None:
        self._stop.set()


class WorkerHere:
    """Does a worker's real work in this process, which saves starting one; can stop after some steps."""

    def __init__(self, job: dict[str, Any], stop_after: int | None = None) -> None:
        self._job, self._left, self.graceful = job, stop_after, False

    @property
    def requested(self) -> bool:
        """Asked once a step, as of `lib.worker.StopSignal`."""
        self._left = None if self._left is None else self._left - 1
        return self._left is not None and self._left <= 0

    def run(self) -> WorkerOutcome:
        from lib.worker_compare import compare
        from lib.worker_train import train_round

        outcome = WorkerOutcome()

        def emit(event: str, **values: Any) -> None:
            if event == "result":
                outcome.result = {"event": event, **values}

        if self._job.get("command") == "compare":
            compare(self._job, emit)  # type: ignore[arg-type]
        else:
            train_round(self._job, emit, self)  # type: ignore[arg-type]
        return outcome

    def stop(self) -> None:
        self._left = 0


def result_event(
    job: dict[str, Any],
    checkpoint: Path,
    read: dict[str, str],
    set_aside: dict[str, str],
    dice: tuple[float, float] | None = None,
) -> Event:
    """A worker's result; `dice` of the candidate and of the published model, or None without validation."""
    metrics = None
    if dice is not None:
        metrics = {
            "student": {"dice": dice[0], "hd95_mm": 2.0},
            "teacher": {"dice": dice[0] - 0.1, "hd95_mm": 3.0},
            "published_before": {"dice": dice[1], "hd95_mm": 2.0} if job["published"] else None,
        }
    return {
        "event": "result",
        "checkpoint": str(checkpoint),
        "candidate": "student",
        "metrics": metrics,
        "published_version": job["published_version"],
        "validation": [case for case in job["labeled"] if case["role"] == "validate"],
        "read": read,
        "set_aside": set_aside,
        "config": {},
        "precision": {"name": "fp32"},
        "seed": job["seed"],
        "steps": 1,
        "seconds": 0.1,
        "cpu_seconds": 0.1,
    }
