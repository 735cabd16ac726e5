"""trainer: one round of UG-MCL training, read top to bottom: fit, its steps, validation.

The step itself is in `training_step`, the state that a round saves and resumes in `training_state`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .budget import RemainingTime, fit_budget
from .checkpoint import Checkpoint
from .compiled import compile_where_asked
from .config import Config
from .inference import Predictor
from .metrics import average, evaluate_case
from .precision import Precision
from .reliability import Reliability
from .sampling import LoadCase, TrainingCase, TwoStreamSampler
from .training_state import (
    STATE_FILE,
    TrainingState,
    data_device,
    interrupted,
    precision_of,
    restore,
    save,
    start,
    take_in_labels,
)
from .training_step import train_step
from .types import LossTerms
from .uncertainty import region_scores

READ_BACK_EVERY = 20
"""Steps between two looks at the losses on a GPU, which has to be waited for: about a second of steps."""


class Progress(NamedTuple):
    """How far a round is; `phase` is "train" or "validate", `losses` those of this step."""

    step: int
    steps: int
    eta_s: float
    losses: dict[str, float]
    phase: str


@dataclasses.dataclass
class FitResult:
    """What a round gives.

    Attributes:
        student: The last student.
        teacher: The last teacher; the student itself where no term needs a teacher.
        metrics: Validation means (`dice`, `hd95_mm`) of "student" and "teacher", or `None` without validation
            cases.
        candidate: Which of them to publish: the one with the higher Dice, the teacher without validation
            cases.
        precision: What the probe chose.
        seconds: Wall-clock seconds of training (without validation), over all resumed parts.
        cpu_seconds: CPU seconds of the same.
        steps: Steps done.
        stopped: True when `should_stop` ended it; `state.pt` then waits in the work directory.
        set_aside: Cases that could not be loaded, id to reason.
        reliability: Calibration of "student" and "teacher" on the validation cases, see
            `Reliability.to_dict`, or `None` without any.
        learned: Id to version of each label that took part in at least half of the steps. A label that joined
            an interrupted round later is not in it, nor is its new version if it was replaced.
    """

    student: Checkpoint
    teacher: Checkpoint
    metrics: dict[str, dict[str, float] | None]
    candidate: str
    precision: dict[str, Any]
    seconds: float
    cpu_seconds: float
    steps: int
    stopped: bool
    set_aside: dict[str, str]
    learned: dict[str, str]
    reliability: dict[str, dict[str, Any] | None] = dataclasses.field(default_factory=dict)

    @property
    def best(self) -> Checkpoint:
        """The candidate's checkpoint."""
        return self.student if self.candidate == "student" else self.teacher


def fit(
    config: Config,
    labeled: Sequence[TrainingCase],
    unlabeled: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    load: LoadCase,
    workdir: Path,
    *,
    warm_start: Checkpoint | None = None,
    device: str = "auto",
    precision: Precision | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    keep_state: bool = False,
    seed: int = 0,
) -> FitResult:
    """Train one round.

    Args:
        config: All numbers of the round.
        labeled: Cases with labels to learn from, at least 1.
        unlabeled: Cases to learn from without labels; may be empty or thousands.
        validation: Labeled cases to choose between student and teacher; may be empty.
        load: Reads a case.
        workdir: Holds `state.pt` while the round is unfinished; a state of the same config is resumed.
        warm_start: Weights to start from when no state is resumed; ignored if its network differs.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: Number format and device; measured when `None`, or taken from the resumed state.
        progress: Called after every step, on a GPU after every `READ_BACK_EVERY`, and every validated case.
        should_stop: Asked after every step; true saves the state and ends the round.
        keep_state: Leave `state.pt` of the last step behind, for a caller who may yet drop the result and
            train again; the caller deletes it.
        seed: Of weights, sampling, augmentation and dropout.

    Raises:
        ValueError: If no labeled case can be loaded.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda _: None)
    stop = should_stop or (lambda: False)
    state = interrupted(config, workdir / STATE_FILE)
    run = start(config, warm_start, precision or precision_of(config, device, state), seed)
    where = data_device(config, run.precision.device)
    sampler = TwoStreamSampler(labeled, unlabeled, load, config, run.rng, where)
    if state is not None:
        restore(run, state)
        sampler.restore(state["pools"])
    take_in_labels(run, labeled)
    if run.step < run.steps:
        compile_where_asked(run, sampler)
    if run.step == 0:
        fit_budget(run, sampler)
    stopped = _train(run, sampler, workdir, report, stop)
    result = _result(run, sampler.set_aside, stopped)
    if not stopped:
        if validation or keep_state:
            save(run, sampler, workdir / STATE_FILE)  # ended in the validation, it resumes at the validation
        _validate(result, validation, load, run, report)
        if not keep_state:
            (workdir / STATE_FILE).unlink(missing_ok=True)
    return result


def _train(
    run: TrainingState,
    sampler: TwoStreamSampler,
    workdir: Path,
    report: Callable[[Progress], None],
    stop: Callable[[], bool],
) -> bool:
    """All remaining steps; true when `stop` ended them early."""
    saved = before = time.perf_counter()
    left = RemainingTime(run.config, run.steps)
    every = steps_between_reports(run.precision.device)
    while run.step < run.steps:
        wall, cpu = time.perf_counter(), time.process_time()
        terms = train_step(run, sampler)
        run.step += 1
        stopping = stop()
        due = stopping or run.step % every == 0 or run.step == run.steps
        losses = _read_back(terms) if due else None
        run.seconds += time.perf_counter() - wall
        run.cpu_seconds += time.process_time() - cpu
        now = time.perf_counter()
        left.add(run.step - 1, now - before)
        before = now
        if losses is None:
            continue
        report(Progress(run.step, run.steps, left.after(run.step), losses, "train"))
        if stopping or now - saved > run.config.train.save_every_s:
            save(run, sampler, workdir / STATE_FILE)
            saved = now
        if stopping:
            return True
    return False


def steps_between_reports(device: str) -> int:
    """Steps after which the losses are looked at: each on a CPU, where that costs nothing."""
    return READ_BACK_EVERY if torch.device(device).type == "cuda" else 1


def _read_back(terms: LossTerms) -> dict[str, float]:
    """The terms by name; a GPU is waited for, once for all of them."""
    values: list[float] = torch.stack([value.detach() for value in terms]).tolist()
    return dict(zip(terms._fields, values, strict=True))


def _result(run: TrainingState, set_aside: dict[str, str], stopped: bool) -> FitResult:
    meta = {"step": run.step, "precision": run.precision.to_dict()}
    student = Checkpoint.of(run.student, run.config, role="student", **meta)
    trailing = run.teacher.network if run.config.has_teacher else run.student
    teacher = Checkpoint.of(trailing, run.config, role="teacher", **meta)
    return FitResult(
        student, teacher, {"student": None, "teacher": None}, "teacher", run.precision.to_dict(),
        run.seconds, run.cpu_seconds, run.step, stopped, dict(set_aside), dict(run.learned),
    )  # fmt: skip


def _validate(
    result: FitResult,
    cases: Sequence[TrainingCase],
    load: LoadCase,
    run: TrainingState,
    report: Callable[[Progress], None],
) -> None:
    """Score student and teacher on the validation cases and choose the candidate."""
    if not cases:
        return
    for name, checkpoint in (("student", result.student), ("teacher", result.teacher)):
        report(Progress(run.step, run.steps, 0.0, {}, "validate"))
        counts = Reliability()
        scores = evaluate(
            checkpoint, cases, load, precision=run.precision, set_aside=result.set_aside, reliability=counts
        )
        result.metrics[name] = average(scores) if scores else None
        result.reliability[name] = counts.to_dict()
    student, teacher = result.metrics["student"], result.metrics["teacher"]
    if student is not None and teacher is not None:
        result.candidate = "student" if student["dice"] > teacher["dice"] else "teacher"


def evaluate(
    checkpoint: Checkpoint,
    cases: Sequence[TrainingCase],
    load: LoadCase,
    *,
    device: str = "auto",
    precision: Precision | None = None,
    uncertainty: bool = False,
    set_aside: dict[str, str] | None = None,
    reliability: Reliability | None = None,
) -> dict[str, dict[str, Any]]:
    """Metrics of a checkpoint per labeled case, as of `metrics.evaluate_case`; unreadable ones are set aside.

    With `uncertainty`, each dict also has the scan's `score`, all candidates for it (`region_scores`) and the
    map's `error_auroc`. Every case is counted in `reliability`.
    """
    predictor = Predictor(checkpoint, device, precision)
    scores: dict[str, dict[str, Any]] = {}
    for case in cases:
        try:
            volume, label = load(case)
        except (ValueError, OSError) as error:
            if set_aside is not None:
                set_aside[case.id] = str(error)
            continue
        if label is None:
            continue
        prediction = predictor.predict(volume, uncertainty=uncertainty)
        classes = checkpoint.config.network.classes
        scores[case.id] = evaluate_case(
            prediction.labels, label, volume.spacing_mm, classes, prediction.uncertainty
        )
        if reliability is not None:
            reliability.add(1.0 - prediction.probs[0], prediction.labels, label)
        if prediction.summary is not None:
            scores[case.id]["score"] = prediction.summary.score
        if prediction.uncertainty is not None and prediction.foreground is not None:
            plain = 1.0 - prediction.probs[0]
            found = prediction.labels > 0
            candidates = region_scores(prediction.uncertainty, prediction.foreground, found, plain)
            scores[case.id]["region_scores"] = candidates
    return scores
