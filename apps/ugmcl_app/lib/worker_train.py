"""worker_train: one round inside the worker, from the job file to a candidate model and its record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ugmcl.checkpoint import save_checkpoint
from ugmcl.precision import resolve_device
from ugmcl.sampling import TrainingCase
from ugmcl.trainer import FitResult, Progress, fit

from .round_record import TRAIN, VALIDATE
from .worker_compare import means_of, published_before
from .worker_config import published_model, round_config
from .worker_labels import TakenLabels, label_loader, take_labels

if TYPE_CHECKING:
    from .worker import EventStream, StopSignal

logger = logging.getLogger(__name__)

PROGRESS_PERIOD_S = 0.25


def train_round(job: dict[str, Any], emit: EventStream, stop: StopSignal) -> None:
    """Train, validate and save one candidate.

    Args:
        job: As `round_job.build_job` writes it.
        emit: Receives `progress` events and one `result` event.
        stop: Asked after every step.

    Raises:
        ValueError: If no labeled training case is readable.
    """
    if job["threads"] > 0:
        torch.set_num_threads(job["threads"])
    workdir = Path(job["workdir"])
    taken = take_labels(job, workdir)
    device = resolve_device(job["device"])
    unlabeled = [TrainingCase(case["id"], case["image"]) for case in job["unlabeled"]]
    load = label_loader(job["labels"])
    published = published_model(job)
    config = round_config(job, published, [*taken.cases(), *unlabeled], device)
    training, validation = taken.cases(TRAIN), taken.cases(VALIDATE)
    if not training:
        raise ValueError(
            f"None of the {len(job['labeled'])} labeled cases is a readable training case; "
            "label one more case." + taken.sentence()
        )
    before = published_before(job, published, taken, load, device)
    with _TensorBoard(Path(job["tensorboard"])) as board:
        result = fit(
            config,
            training,
            unlabeled,
            validation,
            load,
            workdir,
            warm_start=published,
            device=device,
            progress=_reporter(emit, stop, board),
            should_stop=lambda: stop.requested,
            keep_state=True,  # until the server has taken the candidate: a round cancelled now loses no step
            seed=job["seed"],
        )
        stop.graceful = False
        if result.stopped:
            return
        board.metrics(result.metrics, before, result.steps)
    _report_result(job, taken, result, before, emit)


def _reporter(emit: EventStream, stop: StopSignal, board: _TensorBoard) -> Callable[[Progress], None]:
    last = 0.0

    def report(progress: Progress) -> None:
        nonlocal last
        # Only the training loop asks whether to stop; during validation SIGTERM must end the worker itself.
        stop.graceful = progress.phase == "train"
        if progress.phase == "train":
            board.losses(progress.losses, progress.step)
        now = time.monotonic()
        if progress.phase != "train" or progress.step == progress.steps or now - last >= PROGRESS_PERIOD_S:
            last = now
            emit(
                "progress",
                step=progress.step,
                steps=progress.steps,
                eta_s=progress.eta_s,
                losses=progress.losses,
                phase=progress.phase,
            )

    return report


class _TensorBoard:
    """The round's TensorBoard event file, opened at the first value."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def __enter__(self) -> _TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def losses(self, losses: dict[str, float], step: int) -> None:
        for name, value in losses.items():
            self._scalar(f"loss/{name}", value, step)

    def metrics(self, metrics: dict[str, Any], before: dict[str, float] | None, step: int) -> None:
        for who, means in {**metrics, "published_before": before}.items():
            for name, value in (means or {}).items():
                self._scalar(f"validation/{name}/{who}", value, step)

    def _scalar(self, name: str, value: float, step: int) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import (
                SummaryWriter,
            )  # 0.6 s that a resumed, stopped round need not pay

            self._writer = SummaryWriter(str(self._folder))
        self._writer.add_scalar(name, value, step)


def _report_result(
    job: dict[str, Any],
    taken: TakenLabels,
    result: FitResult,
    before: dict[str, float] | None,
    emit: EventStream,
) -> None:
    candidate = Path(job["workdir"]) / "candidate.pt"
    late = taken.came_late(result.learned)
    save_checkpoint(candidate, result.best)
    set_aside = {**result.set_aside, **taken.set_aside}
    metrics = {name: means_of(result.metrics[name]) for name in ("student", "teacher")}
    measured = any(value is not None for value in metrics.values())
    emit(
        "result",
        checkpoint=str(candidate),
        candidate=result.candidate,
        metrics={**metrics, "published_before": before} if measured else None,
        calibration=result.reliability.get(result.candidate),
        published_version=job["published_version"],
        validation=[
            {"id": case.id, "image": case.image, "label": case.label} for case in taken.cases(VALIDATE)
        ],
        read=taken.read,
        late=late,
        set_aside=set_aside,
        roles={case["id"]: case["role"] for case in job["labeled"]},
        config=result.best.config.to_dict(),
        precision=result.precision,
        seed=job["seed"],
        steps=result.steps,
        seconds=result.seconds,
        cpu_seconds=result.cpu_seconds,
    )
