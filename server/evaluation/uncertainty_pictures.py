"""Pictures of uncertainty: calibration, and the risk that is left when the least sure part is set aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from server.evaluation.case_maps import DISTANCE
from server.evaluation.csv_files import Row
from server.evaluation.drawing import INK, MEASURE_COLORS, OTHER, dress, figure, save
from server.evaluation.naming import data_set_name, measure_name, method_name
from server.evaluation.summary import Evaluated
from server.evaluation.uncertainty_summary import UncertaintyFigures

FEWEST_VOXELS = 200
"""Voxels below which a bin's share of errors is noise and is not drawn."""


def calibration_curves(evaluated: Evaluated, data_set: str, judged: UncertaintyFigures, path: Path) -> bool:
    """Share of errors over the uncertainty inside the band, as it comes and scaled; seeds pooled."""
    rows = [row for row in _rows(evaluated, data_set, judged, "reliability") if row["region"] == "band"]
    if not rows:
        return False
    scaled = [row for row in rows if row["scaling"] != "none"]
    picture = figure(8, 4.8)
    panels = picture.subplots(1, 2, sharey=True) if scaled else [picture.subplots()]
    groups = [([row for row in rows if row["scaling"] == "none"], "as it comes")]
    groups += [(scaled, "scaled on ranking cases")] if scaled else []
    for axes, (part, title) in zip(panels, groups, strict=True):
        dress(axes, title, "uncertainty, read as chance of an error", "share of wrong voxels")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (5, 4)))
        for measure in _order(part, judged):
            curve = _pooled([row for row in part if row["measure"] == measure])
            color = MEASURE_COLORS.get(measure, OTHER)
            wide = 2.8 if measure == judged.best_measure else 1.8
            axes.plot(
                *curve, color=color, marker="o", markersize=4, linewidth=wide, label=measure_name(measure)
            )
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    _names_below(picture, panels[0])
    _headline(picture, data_set, judged, "calibration inside the band")
    save(picture, path)
    return True


def risk_coverage_curves(evaluated: Evaluated, data_set: str, judged: UncertaintyFigures, path: Path) -> bool:
    """Left: wrong voxels of the band among the surest. Right: Dice loss of the cases kept, by best score."""
    rows = [row for row in _rows(evaluated, data_set, judged, "risk_coverage") if row["region"] == "band"]
    if not rows:
        return False
    picture = figure(8, 4.5)
    left, right = picture.subplots(1, 2, width_ratios=(1.15, 1))
    dress(left, "voxels of the band", "share of voxels kept, surest first", "share wrong among them")
    left.set_xlim(0, 1)
    for measure in _order(rows, judged):
        part = [row for row in rows if row["measure"] == measure]
        kept = sorted({row["coverage"] for row in part})
        risk = [float(np.mean([row["risk"] for row in part if row["coverage"] == at])) for at in kept]
        color = MEASURE_COLORS.get(measure, OTHER)
        wide = 2.8 if measure == judged.best_measure else 1.8
        left.plot(kept, risk, color=color, linewidth=wide, label=measure_name(measure))
    left.set_ylim(bottom=0)
    _names_below(picture, left)
    _case_curves(evaluated, data_set, judged, right)
    _headline(picture, data_set, judged, "risk left at a coverage")
    save(picture, path)
    return True


def _case_curves(evaluated: Evaluated, data_set: str, judged: UncertaintyFigures, axes: Any) -> None:
    dress(axes, "evaluated cases", "share of cases kept, surest first", "mean 1 - Dice of them")
    rows = [row for row in _rows(evaluated, data_set, judged, "scores") if row["set"] == "test"]
    score = judged.best_score or "error_probability.expected_dice_loss"
    wanted = [row for row in rows if row["score"] == score]
    if not wanted:
        axes.text(0.5, 0.5, "no score", ha="center", transform=axes.transAxes)
        return
    by_score, best = [], []
    for run in dict.fromkeys(row["run"] for row in wanted):
        part = [row for row in wanted if row["run"] == run]
        by_score.append(_running_loss(sorted(part, key=lambda row: float(row["value"]))))
        best.append(_running_loss(sorted(part, key=lambda row: -float(row["dice"]))))
    length = min(len(curve) for curve in by_score)
    mean, floor = (np.mean([curve[:length] for curve in part], axis=0) for part in (by_score, best))
    kept = np.arange(1, length + 1) / length
    axes.axhline(float(mean[-1]), color=OTHER, linewidth=1.4, label="cases in any order")
    axes.plot(kept, mean, color="#d55e00", linewidth=2.4, label="surest first")
    axes.plot(
        kept, floor, color=INK, linewidth=1.4, linestyle=(0, (2, 2)), label="best possible: by true Dice"
    )
    # Room for the names above the curves, which all end in the same point.
    axes.set(xlim=(0, 1), ylim=(0, max(float(mean.max()), float(mean[-1])) * 1.45))
    axes.legend(fontsize=9, frameon=False, loc="upper left", labelcolor="linecolor")


def _running_loss(rows: list[Row]) -> list[float]:
    losses = np.array([1.0 - float(row["dice"]) for row in rows])
    found: list[float] = (np.cumsum(losses) / np.arange(1, len(losses) + 1)).tolist()
    return found


def _rows(evaluated: Evaluated, data_set: str, judged: UncertaintyFigures, name: str) -> list[Row]:
    runs = {run["run"] for run in evaluated.runs(data_set, judged.labels, judged.method)}
    return [row for row in evaluated.rows[name] if row["run"] in runs]


def _order(rows: list[Row], judged: UncertaintyFigures) -> list[str]:
    """Measures there are, the best first, the distance map last."""
    ranked = list(
        dict.fromkeys([one.measure for one in judged.measures if one.measure != DISTANCE] + [DISTANCE])
    )
    there = {row["measure"] for row in rows}
    return [measure for measure in ranked if measure in there]


def _pooled(rows: list[Row]) -> tuple[list[float], list[float]]:
    """Mean uncertainty and share of errors of each bin that holds enough voxels, seeds together."""
    points = []
    for low in sorted({row["low"] for row in rows}):
        part = [row for row in rows if row["low"] == low]
        voxels = sum(row["voxels"] for row in part)
        if voxels >= FEWEST_VOXELS:
            points.append(
                tuple(
                    sum(row[name] * row["voxels"] for row in part) / voxels
                    for name in ("mean_uncertainty", "error_rate")
                )
            )
    return [x for x, _ in points], [y for _, y in points]


def _names_below(picture: Any, axes: Any) -> None:
    """The names of an axes' lines, under the picture: lines that cross leave no room beside them."""
    lines, names = axes.get_legend_handles_labels()
    picture.legend(
        lines, names, loc="outside lower left", ncols=4, fontsize=9.5, frameon=False, labelcolor="linecolor"
    )


def _headline(picture: Any, data_set: str, judged: UncertaintyFigures, text: str) -> None:
    seeds = f"{len(judged.seeds)} seed{'s' if len(judged.seeds) > 1 else ''}"
    picture.suptitle(
        f"{data_set_name(data_set)}, {method_name(judged.method)}, {judged.labels} labels, {seeds}: {text}",
        x=0.01, ha="left", fontsize=12, color=INK,
    )  # fmt: skip
