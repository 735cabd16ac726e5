"""Candidate scores are compared by rank correlation; the best is chosen on pool cases only."""

from typing import Any

import pytest

from ugmcl.score_ranking import rank_scores, spearman


def case(dice: float, **scores: float) -> dict[str, Any]:
    return {"dice": dice, "region_scores": scores}


def test_spearman_is_minus_one_for_any_falling_relation() -> None:
    assert spearman([1, 2, 3, 4], [100, 9, 8, -1]) == pytest.approx(-1)


def test_spearman_shares_the_rank_of_ties() -> None:
    assert spearman([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)


def test_spearman_of_a_constant_side_is_none() -> None:
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_best_score_is_chosen_on_the_pool_even_when_the_test_cases_disagree() -> None:
    pool = {str(i): case(1 - i / 10, good=i / 10, poor=(i * 7 % 5) / 10) for i in range(5)}
    test = {str(i): case(1 - i / 10, good=(i * 7 % 5) / 10, poor=i / 10) for i in range(5)}
    ranked = rank_scores([{"name": "run", "cases": {"ranking": pool, "test": test}}])
    assert ranked["best_on_ranking"] == "good"
    assert ranked["candidates"]["good"]["ranking"]["mean"] == pytest.approx(-1)
    assert ranked["candidates"]["poor"]["test"]["mean"] == pytest.approx(-1)
