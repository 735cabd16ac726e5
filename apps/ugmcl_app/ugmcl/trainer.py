"""trainer: one round of UG-MCL training, read top to bottom: fit, its steps, validation, resumable state.

A step: labeled patches give the supervised loss. The teacher sees the unlabeled patches, runs one encoder pass and
T dropout passes of the decoder on it; their mean is the target, its entropy decides which voxels teach. The student
sees the same patches perturbed and is pulled towards the target (intra-task) and towards agreement of its own two
heads (cross-task).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .augmentation import clamped_noise, strong_intensity
from .checkpoint import Checkpoint, write_atomic
from .config import Config
from .inference import Predictor
from .losses import consistency_terms, pseudo_label_loss, supervised_loss, total_loss
from .metrics import average, evaluate_case
from .network import DualTaskVNet
from .precision import Precision, choose_precision, resolve_device
from .sampling import LoadCase, TrainingCase, TwoStreamSampler
from .schedules import certainty_threshold, gaussian_rampup, one_cycle_factor, step_decay_factor
from .teacher import MeanTeacher
from .types import Batch, DualTaskOutput, LossTerms
from .uncertainty import certainty_weights, normalized_entropy, region_scores, stochastic_passes

logger = logging.getLogger(__name__)

STATE_FILE = "state.pt"
STATE_FORMAT = "ugmcl-state-1"


class Progress(NamedTuple):
    """How far a round is; `phase` is "train" or "validate"."""

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
        teacher: The last teacher; the student itself for supervised training.
        metrics: Validation means (`dice`, `hd95_mm`) of "student" and "teacher", or `None` without validation cases.
        candidate: Which of them to publish: the one with the higher Dice, the teacher without validation cases.
        precision: What the probe chose.
        seconds: Wall-clock seconds of training (without validation), over all resumed parts.
        cpu_seconds: CPU seconds of the same.
        steps: Steps done.
        stopped: True when `should_stop` ended it; `state.pt` then waits in the work directory.
        set_aside: Cases that could not be loaded, id to reason.
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

    @property
    def best(self) -> Checkpoint:
        """The candidate's checkpoint."""
        return self.student if self.candidate == "student" else self.teacher


@dataclasses.dataclass
class _Run:
    """The mutable state of a round; all of it is in `state.pt`."""

    config: Config
    precision: Precision
    student: DualTaskVNet
    teacher: MeanTeacher
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator
    generator: torch.Generator
    steps: int
    peak_rate: float
    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


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
        progress: Called after every step and validated case.
        should_stop: Asked after every step; true saves the state and ends the round.
        seed: Of weights, sampling, augmentation and dropout.

    Raises:
        ValueError: If no labeled case can be loaded.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda _: None)
    stop = should_stop or (lambda: False)
    state = _interrupted(config, workdir / STATE_FILE)
    run = _start(config, warm_start, precision or _choose(config, device, state), seed)
    sampler = TwoStreamSampler(labeled, unlabeled, load, config, run.rng)
    if state is not None:
        _restore(run, state)
        sampler.restore(state["pools"])
    if run.step == 0:
        _fit_budget(run, sampler)
    stopped = _train(run, sampler, workdir, report, stop)
    result = _result(run, sampler.set_aside, stopped)
    if not stopped:
        _validate(result, validation, load, run, report)
        (workdir / STATE_FILE).unlink(missing_ok=True)
    return result


def _choose(config: Config, device: str, state: dict[str, Any] | None) -> Precision:
    """The number format of the interrupted round on the same device, so that it goes on as it began; else measured."""
    if state is not None and state["precision"]["device"] == resolve_device(device):
        return Precision(**state["precision"])
    return choose_precision(config, device)


def _start(config: Config, warm_start: Checkpoint | None, precision: Precision, seed: int) -> _Run:
    torch.manual_seed(seed)
    student = DualTaskVNet(config.network)
    rate = config.train.learning_rate
    if warm_start is not None and warm_start.config.network == config.network:
        student.load_state_dict(warm_start.state)
        rate *= config.train.warm_start_rate
    student = precision.place(student).train()
    teacher = MeanTeacher(student, config.train.ema_decay, config.train.teacher_buffers)
    optimizer = _optimizer(student, config)
    return _Run(
        config, precision, student, teacher, optimizer, np.random.default_rng(seed),
        torch.Generator().manual_seed(seed), config.train.steps, rate,
    )  # fmt: skip


def _optimizer(student: DualTaskVNet, config: Config) -> torch.optim.Optimizer:
    train = config.train
    if train.optimizer == "sgd":
        return torch.optim.SGD(
            student.parameters(), lr=train.learning_rate, momentum=0.9, weight_decay=train.weight_decay
        )
    return torch.optim.AdamW(student.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)


def _train(
    run: _Run,
    sampler: TwoStreamSampler,
    workdir: Path,
    report: Callable[[Progress], None],
    stop: Callable[[], bool],
) -> bool:
    """All remaining steps; true when `stop` ended them early."""
    saved = began = time.perf_counter()
    first = run.step
    while run.step < run.steps:
        wall, cpu = time.perf_counter(), time.process_time()
        terms = train_step(run, sampler)
        run.step += 1
        run.seconds += time.perf_counter() - wall
        run.cpu_seconds += time.process_time() - cpu
        now = time.perf_counter()
        eta = (run.steps - run.step) * (now - began) / (run.step - first)
        losses = {name: float(value.detach()) for name, value in zip(terms._fields, terms, strict=True)}
        report(Progress(run.step, run.steps, eta, losses, "train"))
        stopping = stop()
        if stopping or now - saved > run.config.train.save_every_s:
            _save(run, sampler, workdir / STATE_FILE)
            saved = now
        if stopping:
            return True
    return False


class Targets(NamedTuple):
    """What the teacher asks of the student on the consistency patches.

    Attributes:
        images: Patches the student sees, `(B, 1, H, W, D)`.
        probs: Teacher's mean class probabilities `(B, C, H, W, D)`.
        sdm: Teacher's mean signed distance maps `(B, F, H, W, D)`.
        weights: How much each voxel may teach, `(B, 1, H, W, D)` in [0, 1].
    """

    images: Tensor
    probs: Tensor
    sdm: Tensor
    weights: Tensor


def train_step(run: _Run, sampler: TwoStreamSampler) -> LossTerms:
    """One optimizer step and one teacher update; returns the loss terms, still on the device."""
    config = run.config
    labeled = sampler.labeled_batch()
    ramp = gaussian_rampup(run.step, config.loss.rampup_fraction * run.steps)
    unlabeled = _consistency_batch(run, sampler, labeled, ramp)
    targets = None if unlabeled is None else _targets(run, labeled, unlabeled)
    count = len(labeled.image)
    everything = targets is not None and config.train.mc_stream == "all" and config.train.copy_paste == "off"
    images = labeled.image if targets is None or everything else torch.cat([labeled.image, targets.images])
    if targets is not None and everything:
        images = targets.images
    if config.train.perturbation == "strong":
        images = strong_intensity(images, run.generator)
    with run.precision.autocast():
        output = run.student(run.precision.arrange(images), run.generator)
    device = output.logits.device
    assert labeled.label is not None
    sdm = None if labeled.sdm is None else labeled.sdm.to(device)
    first = DualTaskOutput(output.logits[:count], output.sdm[:count])
    supervised = supervised_loss(first, labeled.label.to(device), sdm, config.loss)
    intra = cross = weights = None
    if targets is not None:
        seen = slice(0 if everything else count, None)
        student = DualTaskOutput(output.logits[seen], output.sdm[seen])
        weights = targets.weights
        intra, cross = consistency_terms(student, targets.probs, targets.sdm, weights, config.loss)
        if config.train.copy_paste == "on" and config.loss.mix_weight > 0:
            mixed = pseudo_label_loss(student.logits.float(), targets.probs, weights)
            supervised = supervised + ramp * config.loss.mix_weight * mixed
    terms = total_loss(supervised, intra, cross, weights, ramp, config.loss)
    _descend(run, terms.total)
    return terms


def _consistency_batch(run: _Run, sampler: TwoStreamSampler, labeled: Batch, ramp: float) -> Tensor | None:
    """Patches for the consistency terms; labeled ones again where there is no pool; `None` while they hardly count."""
    train = run.config.train
    if train.method == "supervised" or 0.1 * ramp < train.skip_below:
        return None
    batch = sampler.unlabeled_batch()
    return labeled.image if batch is None else batch.image


def _targets(run: _Run, labeled: Batch, unlabeled: Tensor) -> Targets:
    """The teacher's view of the configured stream, with boxes exchanged where copy-paste is on."""
    train = run.config.train
    if train.copy_paste == "on":
        return _exchange_boxes(run, labeled, unlabeled, Targets(unlabeled, *teach(run, unlabeled)))
    images = torch.cat([labeled.image, unlabeled]) if train.mc_stream == "all" else unlabeled
    return Targets(images, *teach(run, images))


def _exchange_boxes(run: _Run, labeled: Batch, unlabeled: Tensor, taught: Targets) -> Targets:
    """Labeled patches with a box of unlabeled ones around and the reverse; labels stand in for the teacher there.

    Source: bidirectional copy-paste (Bai et al. 2023), box edges 2/3 of the patch.
    """
    assert labeled.label is not None
    count = min(len(labeled.image), len(unlabeled))
    size = unlabeled.shape[2:]
    box = torch.zeros((1, 1, *size), device=taught.probs.device)
    window = []
    for edge in size:
        length = max(1, 2 * edge // 3)
        start = int(run.rng.integers(0, edge - length + 1))
        window.append(slice(start, start + length))
    box[(slice(None), slice(None), *window)] = 1.0

    def mix(ours: Tensor, theirs: Tensor) -> Tensor:
        ours, theirs = ours[:count], theirs[:count]
        inside = box.to(ours.device)
        return torch.cat([ours * inside + theirs * (1 - inside), theirs * inside + ours * (1 - inside)])

    device = taught.probs.device
    one_hot = torch.nn.functional.one_hot(labeled.label, taught.probs.shape[1]).movedim(-1, 1).float().to(device)
    sdm = taught.sdm if labeled.sdm is None else labeled.sdm.to(device)
    return Targets(
        mix(labeled.image, unlabeled),
        mix(one_hot, taught.probs),
        mix(sdm, taught.sdm),
        mix(torch.ones_like(taught.weights), taught.weights),
    )


@torch.no_grad()
def teach(run: _Run, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The teacher's mean probabilities and distance maps for patches, and how much each voxel may teach."""
    config = run.config
    if config.train.perturbation == "noise":
        images = clamped_noise(images, run.generator)
    with run.precision.autocast():
        features = run.teacher.network.encode(run.precision.arrange(images))
        passes = stochastic_passes(run.teacher.network, features, config.train.mc_samples, run.generator)
    threshold = certainty_threshold(
        run.step, config.loss.rampup_fraction * run.steps, config.loss.threshold_start
    )
    weights = certainty_weights(normalized_entropy(passes.probs), threshold, config.loss.uncertainty_weighting)
    return passes.probs, passes.sdm, weights


def _descend(run: _Run, loss: Tensor) -> None:
    train = run.config.train
    factor = (
        one_cycle_factor(run.step, run.steps) if train.optimizer == "adamw" else step_decay_factor(run.step, run.steps)
    )
    for group in run.optimizer.param_groups:
        group["lr"] = run.peak_rate * factor
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.student.parameters(), 12.0)
    run.optimizer.step()
    if train.method != "supervised":
        run.teacher.update(run.student, run.step)


def _fit_budget(run: _Run, sampler: TwoStreamSampler) -> None:
    """Set the number of steps from the time two kinds of steps take here; the trial steps are undone."""
    train = run.config.train
    if train.budget_s <= 0 and train.cpu_budget_s <= 0:
        return
    clock = time.process_time if train.cpu_budget_s > 0 else time.perf_counter
    budget = train.cpu_budget_s if train.cpu_budget_s > 0 else train.budget_s
    before = _snapshot(run)
    began = clock()
    share = _plain_share(run.config)
    cost = share * _trial_cost(run, sampler, 0, clock) if share > 0 else 0.0
    if share < 1:
        cost += (1 - share) * _trial_cost(run, sampler, run.steps - 1, clock)
    _restore(run, before)
    affordable = int((budget - (clock() - began)) / max(cost, 1e-6))
    limit = train.steps if train.budget_s > 0 and train.cpu_budget_s <= 0 else 10**6
    run.steps = max(train.min_steps, min(limit, affordable))
    run.seconds, run.cpu_seconds, run.step = 0.0, 0.0, 0


def _plain_share(config: Config) -> float:
    """Fraction of the steps that run without the teacher."""
    if config.train.method == "supervised":
        return 1.0
    plain = sum(0.1 * gaussian_rampup(k, config.loss.rampup_fraction * 1000) < config.train.skip_below for k in range(1000))
    return plain / 1000


def _trial_cost(run: _Run, sampler: TwoStreamSampler, at_step: int, clock: Callable[[], float]) -> float:
    run.step = at_step
    train_step(run, sampler)
    start = clock()
    for _ in range(2):
        train_step(run, sampler)
    return (clock() - start) / 2


def _snapshot(run: _Run) -> dict[str, Any]:
    return {
        "config": run.config.to_dict(),
        "student": {name: value.detach().cpu().clone() for name, value in run.student.state_dict().items()},
        "teacher": {name: value.detach().cpu().clone() for name, value in run.teacher.network.state_dict().items()},
        "optimizer": run.optimizer.state_dict() if run.step else None,
        "rng": run.rng.bit_generator.state,
        "generator": run.generator.get_state(),
        "steps": run.steps,
        "peak_rate": run.peak_rate,
        "step": run.step,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
    }


def _restore(run: _Run, state: dict[str, Any]) -> None:
    run.student.load_state_dict(state["student"])
    run.teacher.network.load_state_dict(state["teacher"])
    if state["optimizer"] is None:
        run.optimizer = _optimizer(run.student, run.config)
    else:
        run.optimizer.load_state_dict(state["optimizer"])
    run.rng.bit_generator.state = state["rng"]
    run.generator.set_state(state["generator"])
    for name in ("steps", "peak_rate", "step", "seconds", "cpu_seconds"):
        setattr(run, name, state[name])


def _save(run: _Run, sampler: TwoStreamSampler, path: Path) -> None:
    precision, pools = run.precision.to_dict(), sampler.state()
    write_atomic(path, {"format": STATE_FORMAT, "precision": precision, "pools": pools, **_snapshot(run)})


def _interrupted(config: Config, path: Path) -> dict[str, Any] | None:
    """The saved state of an interrupted round of the same config; an unreadable or foreign one is passed over."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in many ways; the round then starts anew
        logger.warning("The saved training state cannot be read (%s); the round starts anew.", type(error).__name__)
        return None
    ours = isinstance(state, dict) and state.get("format") == STATE_FORMAT
    return state if ours and state["config"] == config.to_dict() else None


def _result(run: _Run, set_aside: dict[str, str], stopped: bool) -> FitResult:
    meta = {"step": run.step, "precision": run.precision.to_dict()}
    student = Checkpoint.of(run.student, run.config, role="student", **meta)
    trailing = run.student if run.config.train.method == "supervised" else run.teacher.network
    teacher = Checkpoint.of(trailing, run.config, role="teacher", **meta)
    return FitResult(
        student, teacher, {"student": None, "teacher": None}, "teacher", run.precision.to_dict(),
        run.seconds, run.cpu_seconds, run.step, stopped, dict(set_aside),
    )  # fmt: skip


def _validate(
    result: FitResult,
    cases: Sequence[TrainingCase],
    load: LoadCase,
    run: _Run,
    report: Callable[[Progress], None],
) -> None:
    """Score student and teacher on the validation cases and choose the candidate."""
    if not cases:
        return
    for name, checkpoint in (("student", result.student), ("teacher", result.teacher)):
        report(Progress(run.step, run.steps, 0.0, {}, "validate"))
        scores = evaluate(checkpoint, cases, load, precision=run.precision, set_aside=result.set_aside)
        result.metrics[name] = average(scores) if scores else None
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
) -> dict[str, dict[str, Any]]:
    """Metrics of a checkpoint per labeled case, id to `metrics.evaluate_case`'s dict; unreadable cases are set aside.

    With `uncertainty`, each dict also has the scan's `score`, all candidates for it (`region_scores`) and the map's
    `error_auroc`.
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
        if prediction.summary is not None:
            scores[case.id]["score"] = prediction.summary.score
        if prediction.uncertainty is not None and prediction.foreground is not None:
            candidates = region_scores(prediction.uncertainty, prediction.foreground, prediction.labels > 0)
            scores[case.id]["region_scores"] = candidates
    return scores
