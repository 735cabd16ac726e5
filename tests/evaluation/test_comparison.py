"""Paired tests, Holm's correction and effect sizes by hand; what cannot be computed says why."""

import numpy as np
import pytest
from scipy import stats

from server.evaluation.comparison import compare, holm
from ugmcl.score_ranking import spearman


def figures(values: list[float]) -> dict[str, float]:
    return {f"case_{number}": value for number, value in enumerate(values)}


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_holm_keeps_missing_values_and_does_not_count_them() -> None:
    assert holm([None, 0.02, None]) == [None, pytest.approx(0.02), None]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_comparison_by_hand() -> None:
    better = [0.1, 0.2, 0.3, -0.1, 0.4]
    found = compare(figures([0.5 + d for d in better]), figures([0.5] * 5))
    assert found.mean_difference == pytest.approx(0.18)
    assert found.cohens_dz == pytest.approx(0.18 / np.std(better, ddof=1))
    # Ranks of |d|: 0.1 and -0.1 share 1.5, then 3, 4, 5: (13.5 - 1.5) / 15.
    assert found.rank_biserial == pytest.approx(0.8)
    assert found.t_test_p == pytest.approx(stats.ttest_rel([0.5 + d for d in better], [0.5] * 5).pvalue)
    assert found.interval is not None
    assert found.interval[0] < 0.18 < found.interval[1]
    assert found.reason == ""


def test_wilcoxon_of_five_wins_is_two_in_thirty_two() -> None:
    found = compare(figures([0.51, 0.52, 0.53, 0.54, 0.55]), figures([0.5] * 5))
    assert found.wilcoxon_p == pytest.approx(2 / 32)


def test_the_interval_is_the_same_every_time() -> None:
    rng = np.random.default_rng(0)
    a, b = figures(rng.random(12).tolist()), figures(rng.random(12).tolist())
    assert compare(a, b) == compare(a, b)


def test_identical_figures_give_no_p_value_and_a_reason() -> None:
    found = compare(figures([0.5, 0.6, 0.7]), figures([0.5, 0.6, 0.7]))
    assert (found.mean_difference, found.t_test_p, found.wilcoxon_p, found.interval) == (
        0.0,
        None,
        None,
        None,
    )
    assert found.reason == "the same figure in every case"


def test_one_constant_difference_has_no_spread_to_test() -> None:
    found = compare(figures([0.6, 0.7, 0.8]), figures([0.5, 0.6, 0.7]))
    assert (found.t_test_p, found.cohens_dz, found.rank_biserial) == (None, None, 1.0)
    assert found.reason == "the same difference in every case"


def test_too_few_common_cases_give_a_reason() -> None:
    found = compare({"a": 0.5, "b": 0.6, "c": 0.7}, {"a": 0.4, "b": 0.5, "d": 0.7})
    assert (found.n, found.mean_difference, found.reason) == (2, None, "fewer than 3 cases in common")


def test_spearman_by_hand() -> None:
    assert spearman([1, 2, 3, 4], [9, 7, 5, 1]) == pytest.approx(-1.0)
    assert spearman([1, 2, 3], [5, 5, 5]) is None
    assert spearman([1, 2], [1, 2]) is None
