"""budget: how many steps a round may take, from the time its two kinds of steps take on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

from .config import Config
from .sampling import TwoStreamSampler
from .schedules import gaussian_rampup
from .training_state import TrainingState, restore, snapshot
from .training_step import train_step


def fit_budget(run: TrainingState, sampler: TwoStreamSampler) -> None:
    """Set the number of steps from the time two kinds of steps take here; the trial steps are undone."""
    train = run.config.train
    if train.budget_s <= 0 and train.cpu_budget_s <= 0:
        return
    clock = time.process_time if train.cpu_budget_s > 0 else time.perf_counter
    budget = train.cpu_budget_s if train.cpu_budget_s > 0 else train.budget_s
    before = snapshot(run)
    began = clock()
    share = _plain_share(run.config)
    cost = share * _trial_cost(run, sampler, 0, clock) if share > 0 else 0.0
    if share < 1:
        cost += (1 - share) * _trial_cost(run, sampler, run.steps - 1, clock)
    restore(run, before)
    affordable = int((budget - (clock() - began)) / max(cost, 1e-6))
    limit = train.steps if train.budget_s > 0 and train.cpu_budget_s <= 0 else 10**6
    run.steps = max(min(train.min_steps, limit), min(limit, affordable))
    run.seconds, run.cpu_seconds, run.step = 0.0, 0.0, 0


def _plain_share(config: Config) -> float:
    """Fraction of the steps that run without the teacher."""
    if config.train.method == "supervised":
        return 1.0
    plain = sum(
        0.1 * gaussian_rampup(k, config.loss.rampup_fraction * 1000) < config.train.skip_below
        for k in range(1000)
    )
    return plain / 1000


def _trial_cost(
    run: TrainingState, sampler: TwoStreamSampler, at_step: int, clock: Callable[[], float]
) -> float:
    run.step = at_step
    train_step(run, sampler)
    start = clock()
    for _ in range(2):
        train_step(run, sampler)
    return (clock() - start) / 2
