"""Figures over cases and seeds, made of the rows of the CSV files alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from server.evaluation.case_metrics import MERGED, METRICS
from server.evaluation.comparison import Comparison, compare, holm
from server.evaluation.csv_files import Row
from server.evaluation.naming import ABLATION, ABLATION_ENDS, HEADLINE_LABELS, HEADLINE_METHODS, method_rank


class Spread(NamedTuple):
    """Mean over seeds of a figure, its sample standard deviation (`None` for one seed)."""

    mean: float
    std: float | None


class MethodFigures(NamedTuple):
    """One method with one number of labels over its seeds.

    Attributes:
        method: Its name.
        seeds: In order.
        metrics: Name of `METRICS` to mean over cases, then over seeds; `failed` is the mean number of cases.
        by_case: Name of `METRICS` to case to mean over seeds.
    """

    method: str
    seeds: tuple[int, ...]
    metrics: dict[str, Spread]
    by_case: dict[str, dict[str, float]]


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of those that exist; `None` when none does."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


class Evaluated:
    """The rows of an evaluation, asked by data set and number of labels."""

    def __init__(self, rows: dict[str, list[Row]]) -> None:
        self.rows = rows
        self.models = {str(run["run"]): str(run["model"]) for run in rows["runs"]}

    def data_sets(self) -> list[str]:
        """Names, in alphabetical order."""
        return sorted({str(run["data_set"]) for run in self.rows["runs"]})

    def label_counts(self, data_set: str) -> list[int]:
        """Numbers of labels with a run, ascending."""
        return sorted({int(run["labels"]) for run in self.runs(data_set)})

    def runs(self, data_set: str, labels: int | None = None, method: str | None = None) -> list[Row]:
        """Runs in order of seed."""
        return sorted(
            (
                run for run in self.rows["runs"]
                if run["data_set"] == data_set and labels in (None, run["labels"])
                and method in (None, run["method"])
            ),
            key=lambda run: int(run["seed"]),
        )  # fmt: skip

    def methods(self, data_set: str, labels: int) -> list[str]:
        """Methods with a run, in the order of the tables."""
        return sorted({str(run["method"]) for run in self.runs(data_set, labels)}, key=method_rank)

    def figures(
        self, data_set: str, labels: int, *, role: str | None = None, component: int = 0, klass: str = MERGED
    ) -> list[MethodFigures]:
        """Figures of every method.

        Args:
            data_set: Its name.
            labels: Number of labels.
            role: "student" or "teacher"; by default the one whose predictions are the method's.
            component: 1 for the largest component only.
            klass: A class, by default all of them merged.
        """
        wanted = [
            row for row in self.rows["cases"]
            if row["data_set"] == data_set and row["labels"] == labels
            and row["largest_component"] == component and row["class"] == klass
            and row["role"] == (role or self.models[row["run"]])
        ]  # fmt: skip
        by_method: dict[str, list[Row]] = {}
        for row in wanted:
            by_method.setdefault(str(row["method"]), []).append(row)
        return [_method_figures(name, by_method[name]) for name in sorted(by_method, key=method_rank)]

    def classes(self, data_set: str) -> list[str]:
        """Class names besides the merged one."""
        names = {str(row["class"]) for row in self.rows["cases"] if row["data_set"] == data_set}
        return sorted(names - {MERGED})

    def headline(self, data_set: str) -> tuple[int, str] | None:
        """Number of labels and method whose uncertainty stands for the data set; `None` without runs."""
        counts = self.label_counts(data_set)
        if not counts:
            return None
        asked = HEADLINE_LABELS.get(data_set)
        labels = asked if asked in counts else max(counts, key=lambda n: len(self.methods(data_set, n)))
        methods = self.methods(data_set, labels)
        return labels, next((name for name in HEADLINE_METHODS if name in methods), methods[-1])


def _method_figures(method: str, rows: list[Row]) -> MethodFigures:
    seeds = sorted({int(row["seed"]) for row in rows})
    metrics: dict[str, Spread] = {}
    by_case: dict[str, dict[str, float]] = {}
    for name in METRICS:
        gather = np.sum if name == "failed" else np.mean
        values = [float(gather([row[name] for row in rows if row["seed"] == seed])) for seed in seeds]
        metrics[name] = spread(values)
        cases: dict[str, list[float]] = {}
        for row in rows:
            cases.setdefault(str(row["case"]), []).append(float(row[name]))
        by_case[name] = {case: float(np.mean(found)) for case, found in cases.items()}
    return MethodFigures(method, tuple(seeds), metrics, by_case)


def main_methods(figures: Sequence[MethodFigures]) -> list[MethodFigures]:
    """Without the rows of the ablation table."""
    return [one for one in figures if not one.method.startswith(ABLATION)]


def ablation_rows(figures: Sequence[MethodFigures]) -> list[MethodFigures]:
    """The rows of the ablation table, its ends included, in order; empty where no row of its own was run."""
    own = [one for one in figures if one.method.startswith(ABLATION)]
    ends = {one.method: one for one in figures if one.method in ABLATION_ENDS}
    if not own:
        return []
    return [
        *[ends[n] for n in ("supervised",) if n in ends],
        *own,
        *[ends[n] for n in ("ug_mcl",) if n in ends],
    ]


class Compared(NamedTuple):
    """A method beside the reference, with p-values also adjusted for the number of methods in the table."""

    method: str
    result: Comparison
    t_test_holm: float | None
    wilcoxon_holm: float | None


def comparisons(figures: Sequence[MethodFigures], reference: str, metric: str = "dice") -> list[Compared]:
    """Every other method beside the reference, over cases; empty where the reference was not run."""
    found = {one.method: one for one in figures}
    if reference not in found:
        return []
    others = [one for one in figures if one.method != reference]
    results = [compare(one.by_case[metric], found[reference].by_case[metric]) for one in others]
    t_tests = holm([result.t_test_p for result in results])
    wilcoxons = holm([result.wilcoxon_p for result in results])
    return [
        Compared(one.method, result, t_test, wilcoxon)
        for one, result, t_test, wilcoxon in zip(others, results, t_tests, wilcoxons, strict=True)
    ]


def gap_closed(figures: Sequence[MethodFigures], full: float | None) -> dict[str, float]:
    """Share of the Dice from supervised with these labels to `full`, that of all, that a method makes up."""
    found = {one.method: one.metrics["dice"].mean for one in figures}
    if full is None or "supervised" not in found or full <= found["supervised"]:
        return {}
    start = found["supervised"]
    return {name: (dice - start) / (full - start) for name, dice in found.items() if name != "supervised"}


def full_supervision(evaluated: Evaluated, data_set: str) -> tuple[int, float] | None:
    """The most labels of any supervised run and its Dice; `None` where it has no other number of labels."""
    counts = [n for n in evaluated.label_counts(data_set) if "supervised" in evaluated.methods(data_set, n)]
    if len(counts) < 2:
        return None
    figures = evaluated.figures(data_set, counts[-1])
    return counts[-1], next(one.metrics["dice"].mean for one in figures if one.method == "supervised")


def distinct(rows: Iterable[Row], name: str) -> list[Any]:
    """Values of a column that exist, each once, in order of first appearance."""
    return list(dict.fromkeys(row[name] for row in rows if row[name] not in (None, "")))
