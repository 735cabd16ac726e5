"""budget: how many steps a round may take and how long they last; its two kinds of steps are timed apart."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from .config import Config
from .devices import wait_for
from .sampling import TwoStreamSampler
from .training_state import TrainingState, restore, snapshot
from .training_step import train_step

TRIAL_SHARE = 0.02
"""Share of the budget that trying each kind of step may take: two steps alone misjudge the speed by 20 % on a
busy machine [M]."""

POOL_STEP_COST = 2.0
"""How many steps on labels alone one with the pool takes as long as, until one was timed; 1.9 here [M]."""


class RemainingTime:
    """Seconds that a run still takes; steps on labels alone and steps with the pool are timed apart."""

    def __init__(self, config: Config, steps: int) -> None:
        self._steps, self._plain = steps, round(plain_share(config) * steps)
        self._seconds, self._timed = [0.0, 0.0], [0, 0]

    def add(self, step: int, seconds: float) -> None:
        """Step number `step` took so long."""
        kind = int(step >= self._plain)
        self._seconds[kind] += seconds
        self._timed[kind] += 1

    def after(self, step: int) -> float:
        """Seconds that the steps from `step` on take; 0 before any was timed."""
        costs = [taken / max(1, timed) for taken, timed in zip(self._seconds, self._timed, strict=True)]
        if not self._timed[0]:
            costs[0] = costs[1] / POOL_STEP_COST
        if not self._timed[1]:
            costs[1] = costs[0] * POOL_STEP_COST
        return costs[0] * max(0, self._plain - step) + costs[1] * (self._steps - max(step, self._plain))


def fit_budget(run: TrainingState, sampler: TwoStreamSampler) -> None:
    """Set the number of steps from the time two kinds of steps take here; the trial steps are undone."""
    train = run.config.train
    if train.budget_s <= 0 and train.cpu_budget_s <= 0:
        return
    clock = time.process_time if train.cpu_budget_s > 0 else time.perf_counter
    budget = train.cpu_budget_s if train.cpu_budget_s > 0 else train.budget_s
    before = snapshot(run)
    began, limit = clock(), TRIAL_SHARE * budget
    share = plain_share(run.config)
    cost = share * _trial_cost(run, sampler, 0, clock, limit) if share > 0 else 0.0
    if share < 1:
        cost += (1 - share) * _trial_cost(run, sampler, run.steps - 1, clock, limit)
    restore(run, before)
    affordable = int((budget - (clock() - began)) / max(cost, 1e-6))
    most = train.steps if train.budget_s > 0 and train.cpu_budget_s <= 0 else 10**6
    run.steps = max(min(train.min_steps, most), min(most, affordable))
    run.seconds, run.cpu_seconds, run.step = 0.0, 0.0, 0


def plain_share(config: Config) -> float:
    """Fraction of the steps that see labeled patches only."""
    return sum(not config.asks_pool(config.loss.pool_ramp(step, 1000)) for step in range(1000)) / 1000


def _trial_cost(
    run: TrainingState, sampler: TwoStreamSampler, at_step: int, clock: Callable[[], float], limit: float
) -> float:
    """Median time of a step of the kind that runs at `at_step`, from 2 to 40 of them within `limit`."""
    run.step = at_step
    train_step(run, sampler)
    wait_for(run.precision.device)
    began, times = clock(), list[float]()
    while len(times) < 2 or (len(times) < 40 and clock() - began < limit):
        start = clock()
        train_step(run, sampler)
        wait_for(run.precision.device)
        times.append(clock() - start)
    return statistics.median(times)
