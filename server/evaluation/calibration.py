"""Making an uncertainty the chance of an error: one temperature for a probability, two numbers for a measure.

Fitted on the "ranking" cases only, by the log-likelihood of right and wrong voxels inside the band. No fit
changes the order of voxels, so AUROC and AUPR stay; what it can change is the calibration error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, logit

from server.evaluation.error_counts import ErrorCounts

SMALLEST = 0.5 / 255
"""Half a step of an 8-bit map: what a stored 0 may still mean, and 1 less of it what a stored 1 may."""
TEMPERATURES = (0.05, 20.0)
"""Bounds of the search, a factor of 20 both ways; fitted values in the literature lie between 0.5 and 5."""


class Scaling(NamedTuple):
    """u becomes sigmoid(slope * logit(u) + offset); a temperature T is slope 1/T without offset."""

    name: str
    slope: float
    offset: float

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scaled uncertainties in (0, 1) of values in [0, 1], any shape."""
        return np.asarray(expit(self.slope * _logit(values) + self.offset), dtype=np.float64)


def fit_temperature(counts: ErrorCounts) -> Scaling | None:
    """The temperature of 1 - max p of two classes; `None` without both right and wrong voxels.

    For two classes the chance of the other class at temperature T is sigmoid(logit(1 - max p) / T).
    Source: Guo et al. 2017.
    """
    if not _has_both(counts):
        return None
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: _loss(counts, float(np.exp(-log_t)), 0.0), bounds=(low, high), method="bounded"
    )
    return Scaling("temperature", float(np.exp(-found.x)), 0.0)


def fit_platt(counts: ErrorCounts) -> Scaling | None:
    """Slope and offset for a measure that is no probability; `None` without both right and wrong voxels.

    The slope is at least 0: where a measure ranks worse than chance it becomes the share of errors for all.
    Source: Platt 1999.
    """
    if not _has_both(counts):
        return None
    found = minimize(
        lambda x: _loss(counts, float(x[0]), float(x[1])),
        x0=[1.0, 0.0],
        bounds=[(0.0, 1 / TEMPERATURES[0]), (None, None)],
        method="L-BFGS-B",
    )
    return Scaling("platt", float(found.x[0]), float(found.x[1]))


def _has_both(counts: ErrorCounts) -> bool:
    return 0 < counts.n_errors < counts.n_voxels


def _logit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(values, SMALLEST, 1.0 - SMALLEST)), dtype=np.float64)


def _loss(counts: ErrorCounts, slope: float, offset: float) -> float:
    """Mean negative log-likelihood of the errors."""
    scaled = slope * _logit(counts.values) + offset
    right = counts.voxels - counts.errors
    likelihood = counts.errors * log_expit(scaled) + right * log_expit(-scaled)
    return -float(likelihood.sum()) / counts.n_voxels
