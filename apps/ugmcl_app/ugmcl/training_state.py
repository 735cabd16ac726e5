"""training_state: the mutable state of a round, how it starts, is saved and is taken up again."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checkpoint import Checkpoint, write_atomic
from .config import LATER_VALUES, Config
from .devices import expect_fixed_shapes, generator_on
from .network import DualTaskVNet
from .precision import Precision, choose_precision, resolve_device
from .sampling import TrainingCase, TwoStreamSampler
from .teacher import MeanTeacher

logger = logging.getLogger(__name__)

STATE_FILE = "state.pt"
STATE_FORMAT = "ugmcl-state-2"
LEARNED_SHARE = 0.5
"""Share of a round's steps that a label must take part in to count as learned. One that joins an interrupted
round later has met only the small end of the learning rate: it waits for the next round. Going back to the
middle for it instead would starve the rounds, as 3D Slicer's auto-update interrupts one at every label."""


@dataclasses.dataclass
class TrainingState:
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
    learned: dict[str, str] = dataclasses.field(default_factory=dict)
    """Id -> version of each label that counts as learned once the round has done its steps."""


def versions(labeled: Sequence[TrainingCase]) -> dict[str, str]:
    """Id -> what changes when the case's label does."""
    return {case.id: case.label_version or str(case.label) for case in labeled}


def take_in_labels(run: TrainingState, labeled: Sequence[TrainingCase]) -> None:
    """Count the present labels as those that the round learns, unless too few of its steps are left."""
    if run.steps - run.step >= LEARNED_SHARE * run.steps:
        run.learned = versions(labeled)


def precision_of(config: Config, device: str, state: dict[str, Any] | None) -> Precision:
    """The number format of the interrupted round if it ran on the same device; else measured."""
    if state is not None and state["precision"]["device"] == resolve_device(device):
        return Precision(**state["precision"])
    return choose_precision(config, device)


def start(config: Config, warm_start: Checkpoint | None, precision: Precision, seed: int) -> TrainingState:
    """A round at step 0, from fresh weights or from `warm_start` if its network is the same."""
    torch.manual_seed(seed)
    student = DualTaskVNet(config.network)
    rate = config.train.learning_rate
    if warm_start is not None and warm_start.config.network == config.network:
        student.load_state_dict(warm_start.state)
        rate *= config.train.warm_start_rate
    expect_fixed_shapes(precision.device)
    student = precision.place(student).train()
    teacher = MeanTeacher(student, config.train.ema_decay, config.train.teacher_buffers)
    optimizer = make_optimizer(student, config)
    return TrainingState(
        config, precision, student, teacher, optimizer, np.random.default_rng(seed),
        generator_on(data_device(config, precision.device), seed), config.train.steps, rate,
    )  # fmt: skip


def data_device(config: Config, device: str) -> str:
    """Where prepared scans live and noise is drawn in training on `device`, see `TrainConfig.data_device`."""
    on_training = config.train.data_device == "training"
    automatic = config.train.data_device == "auto" and device.startswith("cuda")
    return device if on_training or automatic else "cpu"


def make_optimizer(student: DualTaskVNet, config: Config) -> torch.optim.Optimizer:
    """The configured optimizer without any history."""
    train, weights = config.train, list(student.parameters())
    rate, decay = train.learning_rate, train.weight_decay
    # Over all weights at once on a GPU; on a CPU torch's own choice, whose bits earlier runs have. One fused
    # kernel would save a fraction of a millisecond, and refuses weights and gradients of different layouts.
    foreach = True if weights[0].is_cuda else None
    if train.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=0.9, weight_decay=decay, foreach=foreach)
    return torch.optim.AdamW(weights, lr=rate, weight_decay=decay, foreach=foreach)


def snapshot(run: TrainingState) -> dict[str, Any]:
    """All that `restore` needs, as plain data and tensors; copies, so that training may go on."""
    return {
        "config": run.config.to_dict(),
        "student": {name: value.detach().cpu().clone() for name, value in run.student.state_dict().items()},
        "teacher": {
            name: value.detach().cpu().clone() for name, value in run.teacher.network.state_dict().items()
        },
        "optimizer": run.optimizer.state_dict() if run.step else None,
        "rng": run.rng.bit_generator.state,
        "generator": run.generator.get_state(),
        "steps": run.steps,
        "peak_rate": run.peak_rate,
        "step": run.step,
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "learned": dict(run.learned),
    }


def restore(run: TrainingState, state: dict[str, Any]) -> None:
    """Put a round back to where `snapshot` took it."""
    run.student.load_state_dict(state["student"])
    run.teacher.network.load_state_dict(state["teacher"])
    if state["optimizer"] is None:
        run.optimizer = make_optimizer(run.student, run.config)
    else:
        run.optimizer.load_state_dict(state["optimizer"])
    run.rng.bit_generator.state = state["rng"]
    if len(state["generator"]) == len(run.generator.get_state()):
        run.generator.set_state(state["generator"])  # else of another device: its numbers cannot go on here
    for name in ("steps", "peak_rate", "step", "seconds", "cpu_seconds", "learned"):
        setattr(run, name, state[name])


def save(run: TrainingState, sampler: TwoStreamSampler, path: Path) -> None:
    """Write the round to `path` atomically, with the pools' residency and the number format."""
    precision, pools = run.precision.to_dict(), sampler.state()
    write_atomic(path, {"format": STATE_FORMAT, "precision": precision, "pools": pools, **snapshot(run)})


def interrupted(config: Config, path: Path) -> dict[str, Any] | None:
    """The saved state of an interrupted round of this config; an unreadable or foreign one is passed over."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in many ways; the round then starts anew
        logger.warning(
            "The saved training state cannot be read (%s); the round starts anew.", type(error).__name__
        )
        return None
    ours = isinstance(state, dict) and state.get("format") == STATE_FORMAT
    return state if ours and _is_of(state["config"], config) else None


def _is_of(saved: dict[str, Any], config: Config) -> bool:
    """Whether a state's configuration is this one; one without a later value did as the first runs."""
    then = {section: {**later, **saved.get(section, {})} for section, later in LATER_VALUES.items()}
    try:
        return Config.from_dict({**saved, **then}) == config
    except ValueError:
        return False
