"""schedules: consistency weight, certainty threshold and learning rate as pure functions of the step."""

from __future__ import annotations

import math


def gaussian_rampup(step: float, length: float) -> float:
    """exp(-5 (1 - step/length)**2), from 0.0067 at step 0 to 1 at `length` and after.

    Source: Tarvainen & Valpola 2017; UG-MCL prints the exponent without its square, every code has it.
    """
    if length <= 0 or step >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - max(step, 0) / length) ** 2)


def pool_rampup(step: int, steps: int, supervised_fraction: float, rampup_fraction: float) -> float:
    """What the unlabeled pool weighs, in [0, 1]: nothing at first, then `gaussian_rampup`.

    Args:
        step: In [0, steps).
        steps: Of the run, >= 1.
        supervised_fraction: Share of the steps that see labels only, in [0, 1).
        rampup_fraction: Share of the steps after them over which the weight rises, in (0, 1].

    Source: labels first as in bidirectional copy-paste (Bai et al. 2023: 2000 of 17000 steps); the share is
    measured, see docs/results.md. UG-MCL has 0 and 1.
    """
    first = supervised_fraction * steps
    if step < first:
        return 0.0
    return gaussian_rampup(step - first, rampup_fraction * (steps - first))


def certainty_threshold(ramp: float, start: float = 0.75) -> float:
    """Uncertainty, in units of its maximum, below which a voxel may teach: from `start` to 1 as `ramp` is.

    Source: UG-MCL Fig. 3 (3/4 of the maximum to the maximum, Gaussian ramp-up).
    """
    return start + (1.0 - start) * ramp


def teacher_memory(steps: int, share: float) -> float:
    """The decay of an average that remembers `share` of a run's steps: 1 - 1/(share x steps), at least 0.

    Args:
        steps: Of the run, >= 1.
        share: In (0, 1].

    Source: an exponential average weighs the last 1/(1 - decay) steps (Tarvainen & Valpola 2017); the share
    is measured, see docs/results.md.
    """
    return max(0.0, 1.0 - 1.0 / (share * steps))


def one_cycle_factor(
    step: int, steps: int, warmup: float = 0.15, start: float = 1 / 25, end: float = 1e-4
) -> float:
    """Factor on the peak learning rate: cosine up over `warmup` of the steps, cosine down to `end`.

    Source: Smith & Topin 2019, shape and defaults of `torch.optim.lr_scheduler.OneCycleLR`.
    """
    peak_at = max(1.0, warmup * steps)
    if step < peak_at:
        return 1.0 + (start - 1.0) * (1.0 + math.cos(math.pi * step / peak_at)) / 2.0
    progress = min(1.0, (step - peak_at) / max(1.0, steps - peak_at))
    return end + (1.0 - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def step_decay_factor(step: int, steps: int) -> float:
    """0.1 after 5/12 and again after 10/12 of the steps: 2500 and 5000 of UG-MCL's 6000."""
    return float(0.1 ** ((12 * step >= 5 * steps) + (12 * step >= 10 * steps)))
