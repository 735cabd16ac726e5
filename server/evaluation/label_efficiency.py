"""How many labels a way of choosing and training needs: curves over label counts, areas, intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.evaluation.csv_files import Row

GOALS = (95, 98, 99)
"""Percent of the Dice with all labels that are to be reached."""
STOCK = "random_supervised"
"""The arm that is stock practice."""
RESAMPLES = 2000
QUANTILES = (0.025, 0.975)


class Curve(NamedTuple):
    """One arm's Dice.

    Attributes:
        arm: Its name.
        method: Of its training.
        strategy: How it chose.
        seeds: Those that came farthest, in order.
        labels: Numbers of labels they all were measured at, rising.
        planned: Numbers of labels they were to be measured at.
        cases: Test cases, in order.
        dice: `(seeds, labels, cases)`.
    """

    arm: str
    method: str
    strategy: str
    seeds: tuple[int, ...]
    labels: tuple[int, ...]
    planned: tuple[int, ...]
    cases: tuple[str, ...]
    dice: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over cases, then over seeds, `(labels,)`."""
        return np.asarray(self.dice.mean(axis=(0, 2)))

    @property
    def is_complete(self) -> bool:
        """Whether it came to its end."""
        return self.labels == self.planned


def curve_of(arm: str, rounds: Sequence[Row], cases: Sequence[Row]) -> Curve:
    """The curve of one arm on one data set, from its rows.

    Raises:
        ValueError: If the rounds were not all measured on the same cases.
    """
    counts: dict[int, list[int]] = {}
    for row in rounds:
        counts.setdefault(int(row["seed"]), []).append(int(row["labels"]))
    longest = max(len(labels) for labels in counts.values())
    seeds = tuple(sorted(seed for seed, labels in counts.items() if len(labels) == longest))
    labels = tuple(sorted(counts[seeds[0]]))
    found = {(row["seed"], row["labels"], row["case"]): float(row["dice"]) for row in cases}
    names = tuple(sorted({row["case"] for row in cases}))
    try:
        dice = [[[found[seed, count, name] for name in names] for count in labels] for seed in seeds]
    except KeyError as error:
        raise ValueError(
            f"{arm} was not measured on the same cases in all rounds ({error} is missing); evaluate again."
        ) from None
    planned = tuple(int(count) for count in str(rounds[0]["planned"]).split())
    method, strategy = str(rounds[0]["method"]), str(rounds[0]["strategy"])
    return Curve(arm, method, strategy, seeds, labels, planned, names, np.array(dice))


def area(labels: Sequence[int], dice: Sequence[float]) -> float | None:
    """Area under the curve over the number of labels, divided by its width: a mean Dice in [0, 1].

    `None` for fewer than two points.
    """
    if len(labels) < 2:
        return None
    widths, values = np.diff(np.asarray(labels, float)), np.asarray(dice, float)
    return float((widths * (values[1:] + values[:-1]) / 2).sum() / widths.sum())


def labels_to(labels: Sequence[int], dice: Sequence[float], goal: float) -> float | None:
    """Labels at which the curve, straight between its points, first reaches the goal.

    The first number of labels where it is there from the start; `None` where it never is.
    """
    for number, (count, value) in enumerate(zip(labels, dice, strict=True)):
        if value >= goal:
            if number == 0:
                return float(count)
            low, before = labels[number - 1], dice[number - 1]
            return float(low + (count - low) * (goal - before) / (value - before))
    return None


class Interval(NamedTuple):
    """Ends of a 95 % bootstrap interval; infinite where a goal is not reached."""

    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """The middle 95 % of resampled figures, of which some may be infinite."""
    low, high = np.quantile(np.asarray(values, float), QUANTILES, method="closest_observation")
    return Interval(float(low), float(high))


class Resampled:
    """Mean curves of resampled seeds and test cases; the same draws for every arm, so that they compare.

    Arms with equally many seeds get the same draws of seeds; cases are drawn alike for all.
    """

    def __init__(self, cases: int, most_seeds: int, seed: int = 0) -> None:
        draws = np.random.default_rng(seed)
        drawn = draws.integers(0, cases, (RESAMPLES, cases))
        self._case_weights = np.stack([np.bincount(row, minlength=cases) for row in drawn]) / cases
        self._draws = draws.random((RESAMPLES, most_seeds))

    def means(self, curve: Curve) -> NDArray[np.float64]:
        """`(RESAMPLES, labels)`."""
        seeds = len(curve.seeds)
        chosen = (self._draws[:, :seeds] * seeds).astype(int)
        seed_weights = np.stack([np.bincount(row, minlength=seeds) for row in chosen]) / seeds
        means = np.einsum("rs,slc,rc->rl", seed_weights, curve.dice, self._case_weights)
        return np.asarray(means)


class Gain(NamedTuple):
    """Area of one arm less that of another, over the seeds and numbers of labels both have."""

    value: float
    interval: Interval


class Efficiency(NamedTuple):
    """How one arm does.

    Attributes:
        curve: Its Dice.
        labels_to: Percent of `GOALS` to labels, `None` where not reached; empty without a reference.
        labels_intervals: The same as intervals.
        labels_by_seed: Percent to labels of each seed's own curve.
        area: Of the part of the curve that all arms have, `None` for one point.
        area_interval: Its interval.
        over_random: Area less that of the random order with the same training.
        over_stock: Area less that of stock practice.
    """

    curve: Curve
    labels_to: dict[int, float | None]
    labels_intervals: dict[int, Interval]
    labels_by_seed: dict[int, list[float | None]]
    area: float | None
    area_interval: Interval | None
    over_random: Gain | None
    over_stock: Gain | None


def efficiencies(curves: dict[str, Curve], reference: Curve | None) -> list[Efficiency]:
    """All arms, in the order given, judged by the reference's Dice.

    Raises:
        ValueError: If they were measured on different cases.
    """
    everything = [*curves.values(), *([reference] if reference else [])]
    if len({curve.cases for curve in everything}) > 1:
        raise ValueError("The arms were measured on different test cases; evaluate all with the same.")
    resampled = Resampled(len(everything[0].cases), max(len(curve.seeds) for curve in everything))
    shared = shared_labels(curves)
    return [_efficiency(curve, curves, reference, resampled, shared) for curve in curves.values()]


def shared_labels(curves: dict[str, Curve]) -> tuple[int, ...]:
    """Numbers of labels that every curve has."""
    common = set.intersection(*(set(curve.labels) for curve in curves.values()))
    return tuple(sorted(common))


def _efficiency(
    curve: Curve,
    curves: dict[str, Curve],
    reference: Curve | None,
    resampled: Resampled,
    shared: Sequence[int],
) -> Efficiency:
    reached: dict[int, float | None] = {}
    intervals: dict[int, Interval] = {}
    by_seed: dict[int, list[float | None]] = {}
    means = resampled.means(curve)
    if reference is not None:
        full, full_means = float(reference.mean[-1]), resampled.means(reference)[:, -1]
        for goal in GOALS:
            share = goal / 100
            reached[goal] = labels_to(curve.labels, curve.mean.tolist(), share * full)
            by_seed[goal] = [
                labels_to(curve.labels, one.mean(axis=1).tolist(), share * full) for one in curve.dice
            ]
            found = [
                labels_to(curve.labels, row.tolist(), share * whole)
                for row, whole in zip(means, full_means, strict=True)
            ]
            intervals[goal] = interval([math.inf if value is None else value for value in found])
    kept = [curve.labels.index(count) for count in shared]
    whole_area = area(shared, curve.mean[kept].tolist())
    spread = None if whole_area is None else interval(_areas(shared, means[:, kept]))
    plain = next(
        (one for one in curves.values() if one.strategy == "random" and one.method == curve.method), None
    )
    over = [_gain(curve, other, resampled, shared) for other in (plain, curves.get(STOCK))]
    return Efficiency(curve, reached, intervals, by_seed, whole_area, spread, *over)


def _areas(labels: Sequence[int], means: NDArray[np.float64]) -> list[float]:
    return [area(labels, row.tolist()) or 0.0 for row in means]


def _gain(curve: Curve, other: Curve | None, resampled: Resampled, shared: Sequence[int]) -> Gain | None:
    """`None` beside itself, where the other is missing, or with nothing in common."""
    if other is None or other.arm == curve.arm or len(shared) < 2:
        return None
    seeds = [seed for seed in curve.seeds if seed in other.seeds]
    if not seeds:
        return None
    pair = [_part(one, seeds, shared) for one in (curve, other)]
    difference = pair[0]._replace(dice=pair[0].dice - pair[1].dice)
    value = area(shared, difference.mean.tolist())
    assert value is not None  # at least two numbers of labels are shared
    return Gain(value, interval(_areas(shared, resampled.means(difference))))


def _part(curve: Curve, seeds: Sequence[int], labels: Sequence[int]) -> Curve:
    rows = [curve.seeds.index(seed) for seed in seeds]
    columns = [curve.labels.index(count) for count in labels]
    dice = curve.dice[np.ix_(rows, columns, range(len(curve.cases)))]
    return curve._replace(seeds=tuple(seeds), labels=tuple(labels), dice=dice)
