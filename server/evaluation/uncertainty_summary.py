"""Which measure finds errors best, which score ranks cases best: chosen on ranking cases, shown on test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from server.evaluation.case_maps import DISTANCE
from server.evaluation.csv_files import Row
from server.evaluation.summary import Evaluated, mean_of
from ugmcl.score_ranking import spearman

FIGURES = ("auroc", "aupr", "ece", "risk_coverage_area")
DEFAULT_MEASURE = "predictive_entropy"
"""Shown where nothing could be chosen, for want of ranking cases: the paper's measure (UG-MCL Eq. 3)."""


class MeasureFigures(NamedTuple):
    """Means over cases, then over seeds, of one measure in one scaling; keys are `<figure>_<region>`."""

    measure: str
    scaling: str
    ranking: dict[str, float | None]
    test: dict[str, float | None]


class ScoreFigures(NamedTuple):
    """Spearman's correlation of a score with true Dice, mean over seeds; -1 is perfect."""

    score: str
    ranking: float | None
    test: float | None


class UncertaintyFigures(NamedTuple):
    """Of the runs of one method and number of labels; the best are `None` where nothing could be chosen."""

    labels: int
    method: str
    seeds: tuple[int, ...]
    measures: list[MeasureFigures]
    scores: list[ScoreFigures]
    best_measure: str | None
    best_score: str | None

    def shown_measure(self) -> str | None:
        """The best, or without a choice the paper's, or any."""
        names = [one.measure for one in self.measures if one.measure != DISTANCE]
        fallback = DEFAULT_MEASURE if DEFAULT_MEASURE in names else next(iter(names), None)
        return self.best_measure or fallback

    def of(self, measure: str | None, *, scaled: bool) -> MeasureFigures | None:
        """A measure's figures; scaled where asked and fitted, else as it comes."""
        found = [one for one in self.measures if one.measure == measure]
        chosen = [one for one in found if (one.scaling != "none") == scaled]
        return next(iter(chosen or found), None)


def uncertainty_figures(evaluated: Evaluated, data_set: str) -> UncertaintyFigures | None:
    """Figures of the headline runs of a data set; `None` where there is no run."""
    headline = evaluated.headline(data_set)
    if headline is None:
        return None
    labels, method = headline
    names = {run["run"] for run in evaluated.runs(data_set, labels, method)}
    measures = _measures([row for row in evaluated.rows["uncertainty"] if row["run"] in names])
    scores = _scores([row for row in evaluated.rows["scores"] if row["run"] in names])
    candidates = {
        one.measure: area for one in measures
        if one.scaling == "none" and one.measure != DISTANCE
        and (area := one.ranking.get("auroc_band")) is not None
    }  # fmt: skip
    ranked = {one.score: one.ranking for one in scores if one.ranking is not None}
    return UncertaintyFigures(
        labels, method, tuple(int(run["seed"]) for run in evaluated.runs(data_set, labels, method)),
        measures, scores,
        max(candidates, key=lambda name: candidates[name]) if candidates else None,
        min(ranked, key=lambda name: ranked[name]) if ranked else None,
    )  # fmt: skip


def _measures(rows: list[Row]) -> list[MeasureFigures]:
    grouped: dict[tuple[str, str], dict[str, dict[str, dict[str, list[float | None]]]]] = {}
    for row in rows:
        sets = grouped.setdefault((row["measure"], row["scaling"]), {"ranking": {}, "test": {}})
        for figure in FIGURES:
            by_run = sets[row["set"]].setdefault(f"{figure}_{row['region']}", {})
            by_run.setdefault(row["run"], []).append(row[figure])
    found = [
        MeasureFigures(
            measure, scaling,
            *(
                {name: mean_of(map(mean_of, by_run.values())) for name, by_run in part.items()}
                for part in (sets["ranking"], sets["test"])
            ),
        )
        for (measure, scaling), sets in grouped.items()
    ]  # fmt: skip
    # The distance map last, the surest finder of errors in the band first.
    return sorted(
        found,
        key=lambda one: (
            one.measure == DISTANCE,
            -(one.test.get("auroc_band") or 0.0),
            one.measure,
            one.scaling != "none",
        ),
    )


def _scores(rows: list[Row]) -> list[ScoreFigures]:
    grouped: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for row in rows:
        by_run = grouped.setdefault(row["score"], {"ranking": {}, "test": {}})[row["set"]]
        by_run.setdefault(row["run"], []).append((row["value"], row["dice"]))
    found = [
        ScoreFigures(
            score,
            *(
                mean_of(spearman(*np.array(pairs).T.tolist()) for pairs in sets[which].values())
                for which in ("ranking", "test")
            ),
        )
        for score, sets in grouped.items()
    ]
    return sorted(found, key=lambda one: (one.ranking is None, one.ranking or 0.0, one.score))
