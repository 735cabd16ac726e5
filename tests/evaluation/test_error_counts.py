"""AUROC, AUPR, ECE and risk-coverage by hand, and against scikit-learn on random maps."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from server.evaluation.error_counts import (
    ErrorCounts,
    aupr,
    auroc,
    count_errors,
    ece,
    reliability,
    risk_coverage_area,
    risks,
)

LEVELS = np.arange(256) / 255.0


def counts(values: list[float], wrong: list[int]) -> ErrorCounts:
    codes = np.rint(np.array(values) * 255).astype(np.uint8)
    return count_errors(codes, np.array(wrong, bool), LEVELS)


def test_auroc_by_hand() -> None:
    # Pairs of a wrong (0.8, 0.4) and a right voxel (0.6, 0.4, 0.2): 3 won + (0 + 0.5 + 1).
    assert auroc(counts([0.8, 0.4, 0.6, 0.4, 0.2], [1, 1, 0, 0, 0])) == pytest.approx(4.5 / 6)


def test_aupr_by_hand() -> None:
    # From the top: wrong (precision 1), right, then wrong at precision 2/3.
    assert aupr(counts([0.8, 0.6, 0.4], [1, 0, 1])) == pytest.approx((1 + 2 / 3) / 2)


def test_no_error_or_nothing_but_errors_gives_none() -> None:
    assert auroc(counts([0.2, 0.4], [0, 0])) is None
    assert auroc(counts([0.2, 0.4], [1, 1])) is None
    assert aupr(counts([0.2, 0.4], [0, 0])) is None


def test_no_voxels_give_none() -> None:
    empty = count_errors(np.zeros(0, np.uint8), np.zeros(0, bool), LEVELS)
    assert (auroc(empty), aupr(empty), ece(empty), risk_coverage_area(empty)) == (None, None, None, None)


def test_ece_by_hand() -> None:
    # Bins (0.2, 0.4] and (0.8, 1] of five: |0.5 - 0.4| and |1 - 0.8|... weighed by 2 and 1 of 3 voxels.
    found = counts([0.4, 0.4, 1.0], [1, 0, 1])
    assert ece(found, bins=5) == pytest.approx((2 * 0.1 + 1 * 0.0) / 3)
    assert ece(counts([0.2] * 5, [1, 0, 0, 0, 0])) == pytest.approx(0.0)


def test_a_hard_prediction_has_the_share_of_errors_as_its_ece() -> None:
    assert ece(counts([0.0] * 100, [1] * 3 + [0] * 97)) == pytest.approx(0.03)


def test_reliability_bins_hold_every_voxel_once() -> None:
    bins = reliability(counts([0.0, 0.4, 1.0], [0, 1, 1]), bins=2)
    assert [(one.voxels, one.error_rate) for one in bins] == [(2, 0.5), (1, 1.0)]


def test_risk_coverage_by_hand() -> None:
    # Surest first: right, right, wrong, wrong: risks 0, 0, 1/3, 1/2.
    found = counts([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])
    assert risks(found, np.array([0.25, 0.5, 0.75, 1.0])) == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert risk_coverage_area(found) == pytest.approx((1 / 3 + 1 / 2) / 4)


def test_a_constant_map_keeps_the_risk_at_every_coverage() -> None:
    found = counts([0.5] * 8, [1, 0, 0, 0, 0, 0, 0, 1])
    assert risks(found, np.array([0.1, 1.0])) == pytest.approx([0.25, 0.25])
    assert risk_coverage_area(found) == pytest.approx(0.25)


def test_counts_of_two_cases_add_up() -> None:
    both = counts([0.2, 0.4], [0, 1]).plus(counts([0.4, 0.6], [0, 1]))
    assert (both.n_voxels, both.n_errors) == (4, 2)
    assert auroc(both) == auroc(counts([0.2, 0.4, 0.4, 0.6], [0, 1, 0, 1]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_agrees_with_scikit_learn_with_many_ties(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    values, wrong = rng.integers(0, levels, 60), rng.random(60) < 0.3
    wrong[:2] = True, False
    found = count_errors(values, wrong, np.linspace(0, 1, levels))
    assert auroc(found) == pytest.approx(roc_auc_score(wrong, values))
    assert aupr(found) == pytest.approx(average_precision_score(wrong, values))
