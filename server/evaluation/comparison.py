"""Is one method better than another on the same cases: tests, effect sizes and an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FEWEST = 3
"""Cases below which nothing is computed."""
RESAMPLES = 9999
CONFIDENCE = 0.95


class Comparison(NamedTuple):
    """A method beside a reference over the cases both have; figures are `None` where `reason` says why.

    Attributes:
        n: Cases.
        mean_difference: Method less reference.
        interval: 95 % bootstrap interval (bias-corrected and accelerated, fixed seed) of the mean difference.
        t_test_p: Of the paired t-test, two-sided.
        wilcoxon_p: Of the Wilcoxon signed-rank test, two-sided; cases without a difference are left out.
        cohens_dz: Mean difference over its sample standard deviation.
        rank_biserial: (positive less negative rank sum) / all ranks, in [-1, 1]; source: Kerby 2014.
        reason: Why a figure is missing; empty when none is.
    """

    n: int
    mean_difference: float | None = None
    interval: tuple[float, float] | None = None
    t_test_p: float | None = None
    wilcoxon_p: float | None = None
    cohens_dz: float | None = None
    rank_biserial: float | None = None
    reason: str = ""


def compare(values: Mapping[str, float], reference: Mapping[str, float]) -> Comparison:
    """Paired comparison.

    Args:
        values: Case to the method's figure, such as its mean Dice over seeds.
        reference: The same of the reference.
    """
    cases = sorted(set(values) & set(reference))
    if len(cases) < FEWEST:
        return Comparison(len(cases), reason=f"fewer than {FEWEST} cases in common")
    differences = np.array([values[case] - reference[case] for case in cases])
    mean = float(differences.mean())
    if np.all(differences == 0):
        return Comparison(len(cases), mean, reason="the same figure in every case")
    wilcoxon_p, rank_biserial = _signed_ranks(differences)
    # Differences equal up to rounding have no spread to test the mean against.
    if np.ptp(differences) <= 1e-12 * np.abs(differences).max():
        return Comparison(
            len(cases), mean, wilcoxon_p=wilcoxon_p, rank_biserial=rank_biserial,
            reason="the same difference in every case",
        )  # fmt: skip
    return Comparison(
        len(cases), mean, bootstrap_interval(differences), float(stats.ttest_1samp(differences, 0.0).pvalue),
        wilcoxon_p, mean / float(differences.std(ddof=1)), rank_biserial,
    )  # fmt: skip


def _signed_ranks(differences: NDArray[np.float64]) -> tuple[float, float]:
    # Differences of equal Dice values may differ in the last bit; to twelve digits they tie as they should.
    some = np.array([float(f"{value:.12g}") for value in differences if value != 0])
    ranks = stats.rankdata(np.abs(some))
    rank_biserial = float((ranks * np.sign(some)).sum() / ranks.sum())
    return float(stats.wilcoxon(some).pvalue), rank_biserial


def bootstrap_interval(differences: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of differences that are not all the same, `(N,)`."""
    found = stats.bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values, in the same order; a missing one stays missing and is not counted as a test.

    Source: Holm 1979. Written out, because statsmodels collects the whole process's garbage at every call,
    which took two thirds of the time of a report.
    """
    known = np.array([value for value in p_values if value is not None])
    order = np.argsort(known, kind="stable")
    steps = known[order] * np.arange(len(known), 0, -1)
    adjusted = np.empty(len(known))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    values = iter(adjusted.tolist())
    return [None if value is None else float(next(values)) for value in p_values]
