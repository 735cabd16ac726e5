"""Labels needed, areas and intervals, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from server.evaluation.label_efficiency import (
    Curve,
    area,
    curve_of,
    efficiencies,
    interval,
    labels_to,
    shared_labels,
)


def curve(arm: str, values: list[float], *, seeds: int = 1, labels: tuple[int, ...] = (3, 5, 9)) -> Curve:
    """A curve with the same Dice in all of two cases and all seeds."""
    strategy, _, rest = arm.partition("_supervised")
    method = "supervised" if rest or arm.endswith("_supervised") else "ug_mcl_plus"
    dice = np.broadcast_to(np.array(values)[None, :, None], (seeds, len(values), 2)).copy()
    return Curve(arm, method, strategy, tuple(range(seeds)), labels, labels, ("a", "b"), dice)


def test_the_area_is_a_mean_over_labels_not_over_rounds() -> None:
    # 2 labels at a mean of 0.7, then 4 at 0.85.
    assert area([3, 5, 9], [0.6, 0.8, 0.9]) == pytest.approx((2 * 0.7 + 4 * 0.85) / 6)
    assert area([3, 30], [0.5, 0.5]) == pytest.approx(0.5)
    assert area([3], [0.5]) is None


def test_labels_needed_are_read_off_between_the_points() -> None:
    assert labels_to([3, 5, 9], [0.6, 0.8, 0.9], 0.7) == pytest.approx(4.0)
    assert labels_to([3, 5, 9], [0.6, 0.8, 0.9], 0.9) == pytest.approx(9.0)
    assert labels_to([3, 5, 9], [0.6, 0.8, 0.9], 0.5) == 3.0
    assert labels_to([3, 5, 9], [0.6, 0.8, 0.9], 0.91) is None


def test_the_first_time_counts_where_a_curve_falls_again() -> None:
    assert labels_to([3, 5, 9], [0.6, 0.8, 0.7], 0.75) == pytest.approx(4.5)


def test_an_interval_may_end_where_a_goal_is_not_reached() -> None:
    found = interval([*np.linspace(1, 2, 90), *[math.inf] * 10])
    assert found.low == pytest.approx(1.02, abs=0.02)
    assert math.isinf(found.high)


def test_goals_are_shares_of_the_dice_with_all_labels() -> None:
    reference = curve("all_labels_supervised", [0.9], labels=(150,))
    (found,) = efficiencies({"random": curve("random", [0.8, 0.88, 0.9])}, reference)
    assert found.labels_to == {
        95: pytest.approx(3 + 2 * (0.855 - 0.8) / 0.08),
        98: pytest.approx(5 + 4 * (0.882 - 0.88) / 0.02),
        99: pytest.approx(5 + 4 * (0.891 - 0.88) / 0.02),
    }
    # Without any spread between cases, the interval has no width.
    assert found.labels_intervals[99] == pytest.approx((found.labels_to[99], found.labels_to[99]))
    assert found.labels_by_seed[99] == [pytest.approx(found.labels_to[99])]


def test_without_a_reference_there_are_no_goals_but_an_area() -> None:
    (found,) = efficiencies({"random": curve("random", [0.8, 0.9, 0.9])}, None)
    assert found.labels_to == {}
    assert found.area == pytest.approx((2 * 0.85 + 4 * 0.9) / 6)


def test_an_order_is_compared_with_the_random_one_of_the_same_training() -> None:
    curves = {
        "random": curve("random", [0.8, 0.8, 0.8]),
        "random_supervised": curve("random_supervised", [0.5, 0.5, 0.5])._replace(strategy="random"),
        "most_uncertain": curve("most_uncertain", [0.8, 0.9, 0.9]),
    }
    found = {one.curve.arm: one for one in efficiencies(curves, None)}
    assert found["random"].over_random is None
    assert found["random_supervised"].over_random is None
    assert found["random_supervised"].over_stock is None
    gains = found["most_uncertain"].over_random, found["most_uncertain"].over_stock
    assert gains[0] is not None
    assert gains[1] is not None
    assert gains[0].value == pytest.approx((2 * 0.05 + 4 * 0.1) / 6)
    assert gains[0].interval == pytest.approx((0.5 / 6, 0.5 / 6))
    assert gains[1].value == pytest.approx((2 * 0.35 + 4 * 0.4) / 6)


def test_the_gain_is_taken_over_the_seeds_both_have() -> None:
    better = curve("most_uncertain", [0.9, 0.9, 0.9], seeds=2)
    better.dice[1] = 0.1
    curves = {"random": curve("random", [0.8, 0.8, 0.8]), "most_uncertain": better}
    gain = efficiencies(curves, None)[1].over_random
    assert gain is not None
    assert gain.value == pytest.approx(0.1)


def test_unfinished_arms_are_compared_where_all_have_come() -> None:
    short = curve("most_uncertain", [0.8, 0.9], labels=(3, 5))._replace(planned=(3, 5, 9))
    curves = {"random": curve("random", [0.8, 0.8, 0.0]), "most_uncertain": short}
    assert shared_labels(curves) == (3, 5)
    found = efficiencies(curves, None)
    assert not short.is_complete
    assert [one.area for one in found] == pytest.approx([0.8, 0.85])
    assert found[1].over_random is not None
    assert found[1].over_random.value == pytest.approx(0.05)


def test_intervals_cover_cases_and_seeds() -> None:
    rng = np.random.default_rng(1)
    spread = curve("random", [0.8, 0.8, 0.8], seeds=3)
    spread.dice[:] += rng.normal(0, 0.05, (3, 1, 1))
    (found,) = efficiencies({"random": spread}, None)
    assert found.area_interval is not None
    assert found.area is not None
    assert found.area_interval.low < found.area < found.area_interval.high


def test_arms_measured_on_other_cases_are_refused() -> None:
    other = curve("most_uncertain", [0.8, 0.8, 0.8])._replace(cases=("a", "c"))
    with pytest.raises(ValueError, match="different test cases"):
        efficiencies({"random": curve("random", [0.8, 0.8, 0.8]), "most_uncertain": other}, None)


def rows(seed: int, labels: list[int]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    identity = {"arm": "random", "seed": seed, "strategy": "random", "method": "ug_mcl", "planned": "3 5"}
    rounds = [{**identity, "labels": count} for count in labels]
    cases = [{**one, "case": case, "dice": one["labels"] / 10} for one in rounds for case in "ab"]  # type: ignore[operator]
    return rounds, cases


def test_only_seeds_that_came_farthest_are_in_the_curve() -> None:
    (one, some), (two, more) = rows(0, [3]), rows(1, [3, 5])
    found = curve_of("random", one + two, some + more)
    assert (found.seeds, found.labels) == ((1,), (3, 5))
    assert found.is_complete
    assert found.mean.tolist() == pytest.approx([0.3, 0.5])


def test_a_round_measured_on_fewer_cases_is_refused() -> None:
    rounds, cases = rows(0, [3, 5])
    with pytest.raises(ValueError, match="not measured on the same cases"):
        curve_of("random", rounds, cases[:-1])
