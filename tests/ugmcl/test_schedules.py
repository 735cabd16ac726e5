"""Schedules at stated steps, against the table of the method's notes and hand-computed values."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from ugmcl.schedules import (
    certainty_threshold,
    gaussian_rampup,
    one_cycle_factor,
    pool_rampup,
    step_decay_factor,
    teacher_memory,
)


@pytest.mark.parametrize(
    ("step", "weight"),
    [(0, 0.00067), (1500, 0.0060), (3000, 0.0287), (4500, 0.0732), (6000, 0.1), (9000, 0.1)],
)
def test_the_consistency_weight_follows_the_squared_gaussian(step: int, weight: float) -> None:
    assert 0.1 * gaussian_rampup(step, 6000) == pytest.approx(weight, abs=6e-5)


def test_a_ramp_of_no_length_is_over_at_once() -> None:
    assert gaussian_rampup(0, 0) == 1.0


def test_the_threshold_rises_from_three_quarters_to_the_maximum() -> None:
    assert certainty_threshold(gaussian_rampup(0, 6000)) == pytest.approx(0.751684, abs=1e-6)
    assert certainty_threshold(gaussian_rampup(3000, 6000)) == pytest.approx(0.75 + 0.25 * 0.286505, abs=1e-6)
    assert certainty_threshold(1.0) == 1.0


def test_the_pool_weighs_nothing_until_the_steps_on_labels_are_over() -> None:
    ramps = [pool_rampup(step, 1000, 0.4, 0.5) for step in range(1000)]
    assert ramps[:400] == [0.0] * 400
    assert ramps[400] == pytest.approx(0.006738, abs=1e-6)  # exp(-5)
    assert ramps[550] == pytest.approx(0.286505, abs=1e-6)  # half of the 300 steps of the ramp: exp(-5/4)
    assert ramps[700:] == [1.0] * 300


@pytest.mark.parametrize("step", [0, 1, 250, 599, 600, 999])
def test_without_steps_on_labels_the_pools_ramp_is_the_gaussian(step: int) -> None:
    assert pool_rampup(step, 1000, 0.0, 0.6) == gaussian_rampup(step, 600)


def test_the_one_cycle_rate_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    factors = [one_cycle_factor(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 25)
    assert factors[15] == 1.0
    assert factors[100] == pytest.approx(1e-4)
    assert factors[:16] == sorted(factors[:16])
    assert factors[15:] == sorted(factors[15:], reverse=True)


def test_the_one_cycle_rate_has_the_shape_of_torchs() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    steps = 200
    theirs = OneCycleLR(
        optimizer, 1.0, total_steps=steps + 1, pct_start=31 / (steps + 1), final_div_factor=1e4 / 25
    )
    for step in range(steps):
        assert one_cycle_factor(step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_rounds_have_a_positive_rate(steps: int) -> None:
    assert all(0 < one_cycle_factor(step, steps) <= 1 for step in range(steps))


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1), (2499, 1), (2500, 0.1), (4999, 0.1), (5000, 0.01), (5999, 0.01)]
)
def test_the_published_rate_drops_tenfold_at_2500_and_5000_of_6000(step: int, factor: float) -> None:
    assert step_decay_factor(step, 6000) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("steps", "share", "decay"), [(2000, 0.05, 0.99), (400, 0.05, 0.95), (10, 0.05, 0.0), (1, 1.0, 0.0)]
)
def test_the_teachers_memory_is_a_share_of_the_run(steps: int, share: float, decay: float) -> None:
    assert teacher_memory(steps, share) == pytest.approx(decay)
