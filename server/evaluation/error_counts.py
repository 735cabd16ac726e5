"""How well an uncertainty finds wrong voxels, from the right and wrong voxels at each of its values.

A map in 8 bits has 256 values, so a volume becomes two short histograms, from which AUROC, AUPR, ECE, the
reliability diagram and the risk-coverage curve follow exactly, ties shared; those of several cases add up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

BINS = 15
"""Equal bins over [0, 1] for calibration; source: Guo et al. 2017."""


class ErrorCounts(NamedTuple):
    """Voxels by uncertainty.

    Attributes:
        values: Distinct uncertainties in [0, 1], ascending, `(V,)`.
        errors: Wrongly labeled voxels with that value, `(V,)`.
        voxels: All voxels with that value, `(V,)`.
    """

    values: NDArray[np.float64]
    errors: NDArray[np.int64]
    voxels: NDArray[np.int64]

    @property
    def n_errors(self) -> int:
        """Wrong voxels."""
        return int(self.errors.sum())

    @property
    def n_voxels(self) -> int:
        """All voxels."""
        return int(self.voxels.sum())

    def plus(self, other: ErrorCounts) -> ErrorCounts:
        """Both together."""
        values = np.concatenate([self.values, other.values])
        errors = np.concatenate([self.errors, other.errors])
        return _grouped(values, errors, np.concatenate([self.voxels, other.voxels]))

    def with_values(self, values: NDArray[np.float64]) -> ErrorCounts:
        """The same voxels with other uncertainties, `(V,)` in [0, 1], in any order."""
        return _grouped(values, self.errors, self.voxels)


def count_errors(codes: NDArray[Any], wrong: NDArray[np.bool_], levels: NDArray[np.float64]) -> ErrorCounts:
    """Count voxels.

    Args:
        codes: For each voxel the index of its uncertainty in `levels`, any shape, integers.
        wrong: Whether the voxel is wrongly labeled, same shape.
        levels: Uncertainty of each index, in [0, 1].
    """
    voxels = np.bincount(codes.ravel(), minlength=len(levels))
    errors = np.bincount(codes[wrong].ravel(), minlength=len(levels))
    return _grouped(levels, errors, voxels)


def _grouped(
    values: NDArray[np.float64], errors: NDArray[np.int64], voxels: NDArray[np.int64]
) -> ErrorCounts:
    used = voxels > 0
    distinct, index = np.unique(values[used], return_inverse=True)
    totals = [np.bincount(index, weights=part[used], minlength=len(distinct)) for part in (errors, voxels)]
    return ErrorCounts(distinct, totals[0].astype(np.int64), totals[1].astype(np.int64))


def auroc(counts: ErrorCounts) -> float | None:
    """Chance that a wrong voxel is less sure than a right one, ties half; `None` if either is missing."""
    right = counts.voxels - counts.errors
    pairs = counts.n_errors * float(right.sum())
    if pairs == 0:
        return None
    below = np.cumsum(right) - right
    return float((counts.errors * (below + right / 2.0)).sum() / pairs)


def aupr(counts: ErrorCounts) -> float | None:
    """Average precision of finding wrong voxels, from the least sure down; `None` without wrong voxels.

    Its value for a map that knows nothing is the share of wrong voxels.
    """
    if counts.n_errors == 0:
        return None
    errors, voxels = counts.errors[::-1], counts.voxels[::-1]
    precision = np.cumsum(errors) / np.cumsum(voxels)
    return float((precision * errors).sum() / counts.n_errors)


class Bin(NamedTuple):
    """A bin of the reliability diagram: its edges, its voxels, their mean uncertainty and share of errors."""

    low: float
    high: float
    voxels: int
    mean_uncertainty: float
    error_rate: float


def reliability(counts: ErrorCounts, bins: int = BINS) -> list[Bin]:
    """Bins that hold a voxel, taking the uncertainty as the chance of an error."""
    index = np.clip(np.ceil(counts.values * bins).astype(np.int64) - 1, 0, bins - 1)
    voxels = np.bincount(index, weights=counts.voxels, minlength=bins)
    errors = np.bincount(index, weights=counts.errors, minlength=bins)
    sums = np.bincount(index, weights=counts.values * counts.voxels, minlength=bins)
    return [
        Bin(
            b / bins, (b + 1) / bins, int(voxels[b]), float(sums[b] / voxels[b]), float(errors[b] / voxels[b])
        )
        for b in range(bins)
        if voxels[b]
    ]


def ece(counts: ErrorCounts, bins: int = BINS) -> float | None:
    """Expected calibration error in [0, 1], the uncertainty read as chance of an error; `None` if empty.

    Of 1 - max p it is the usual ECE of the confidence max p. Source: Guo et al. 2017.
    """
    if counts.n_voxels == 0:
        return None
    gaps = [one.voxels * abs(one.error_rate - one.mean_uncertainty) for one in reliability(counts, bins)]
    return float(sum(gaps) / counts.n_voxels)


def risks(counts: ErrorCounts, coverages: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of wrong voxels among the surest ones.

    Args:
        counts: Of at least one voxel.
        coverages: Shares of voxels kept, in (0, 1]; within a tie the expected number of errors counts.
    """
    kept = np.concatenate([[0], np.cumsum(counts.voxels)])
    errors = np.concatenate([[0], np.cumsum(counts.errors)])
    wanted = coverages * counts.n_voxels
    return np.asarray(np.interp(wanted, kept, errors) / wanted, dtype=np.float64)


def risk_coverage_area(counts: ErrorCounts) -> float | None:
    """Mean risk over all coverages, ties in random order on average; lower is better; `None` if empty.

    Source: Geifman & El-Yaniv 2017, whose curve has a point for each sample. Among tied voxels the expected
    number of errors grows in proportion, so the sum over a tie of n voxels has a closed form.
    """
    if counts.n_voxels == 0:
        return None
    before = np.cumsum(counts.voxels) - counts.voxels
    wrong_before = np.cumsum(counts.errors) - counts.errors
    rate = counts.errors / counts.voxels
    # Over k = 1..n of (e + r k) / (m + k): n r + (e - r m) (H(m + n) - H(m)).
    harmonic = _harmonic(before + counts.voxels) - _harmonic(before)
    total = counts.voxels * rate + (wrong_before - rate * before) * harmonic
    return float(total.sum() / counts.n_voxels)


def _harmonic(n: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(digamma(n + 1.0), dtype=np.float64)
