"""score_ranking: how well each candidate score of a scan ranks scans by their true Dice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .uncertainty import SCORE

SETS = ("ranking", "test")
"""A score is chosen on "ranking", pool cases whose labels nobody trained on; "test" is only reported."""


def mean_ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks from 1, ties sharing their mean rank."""
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse.ravel()])


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation in [-1, 1]; `None` for fewer than 3 values or when one side is constant.

    Source: Spearman 1904, as the correlation of mean ranks.
    """
    first, second = mean_ranks(a), mean_ranks(b)
    if len(first) < 3 or first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def rank_scores(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spearman's correlation of every candidate score with true Dice, per run and averaged over runs.

    Args:
        records: Of UG-MCL runs, as `experiment.run_experiment` gives them.

    Returns:
        `candidates` (name to `ranking`, `test`, each with `mean` and `by_run`; -1 is perfect, since a high
        score means a poor Dice), `best_on_ranking` (the lowest mean there) and `score` (the one in use).
    """
    names = sorted({name for record in records for name in _candidates(record)})
    candidates: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name in names:
        for which in SETS:
            by_run = {record["name"]: _correlation(record, which, name) for record in records}
            known = [value for value in by_run.values() if value is not None]
            candidates[name][which] = {"mean": float(np.mean(known)) if known else None, "by_run": by_run}
    ranked = [name for name in names if candidates[name]["ranking"]["mean"] is not None]
    best = min(ranked, key=lambda name: float(candidates[name]["ranking"]["mean"])) if ranked else None
    return {"candidates": candidates, "best_on_ranking": best, "score": SCORE}


def _candidates(record: dict[str, Any]) -> set[str]:
    sets = record["cases"].values()
    return {name for cases in sets for case in cases.values() for name in case["region_scores"]}


def _correlation(record: dict[str, Any], which: str, name: str) -> float | None:
    cases = list(record["cases"].get(which, {}).values())
    return spearman([case["region_scores"][name] for case in cases], [case["dice"] for case in cases])
