"""Pictures of accuracy: the learning curve over label counts, and every case of every method."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from server.evaluation.drawing import INK, METHOD_COLORS, OTHER, dress, figure, label_line_ends, save
from server.evaluation.naming import data_set_name, method_name
from server.evaluation.summary import Evaluated, Spread, full_supervision, main_methods


def learning_curve(evaluated: Evaluated, data_set: str, path: Path) -> bool:
    """Dice over the number of labels, one line a method, with its spread over seeds; false with one count."""
    full = full_supervision(evaluated, data_set)
    counts = [
        n for n in evaluated.label_counts(data_set)
        if full is None or n != full[0] or len(evaluated.methods(data_set, n)) > 1
    ]  # fmt: skip
    lines: dict[str, list[tuple[int, Spread]]] = {}
    for labels in counts:
        for one in evaluated.figures(data_set, labels):
            lines.setdefault(one.method, []).append((labels, one.metrics["dice"]))
    # A method measured at one count is a row of the table, not a curve.
    lines = {method: points for method, points in lines.items() if len(points) > 1}
    if not lines:
        return False
    picture = figure(8, 4.6)
    axes = picture.subplots()
    dress(
        axes,
        f"{data_set_name(data_set)}: mean Dice over labels (bar: ± 1 SD over seeds)",
        "labeled cases",
        "Dice",
    )
    used = sorted({labels for points in lines.values() for labels, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(used, [str(labels) for labels in used])
    axes.minorticks_off()
    axes.set_xlim(used[0] / 1.1, used[-1] * 1.1)
    for number, (method, points) in enumerate(lines.items()):
        color = METHOD_COLORS.get(method, OTHER)
        # A small shift keeps the bars of neighboring methods apart.
        x = np.array([labels for labels, _ in points]) * 1.012 ** (number - (len(lines) - 1) / 2)
        y, bars = [s.mean for _, s in points], [s.std or 0.0 for _, s in points]
        axes.errorbar(x, y, yerr=bars, color=color, marker="o", markersize=6, linewidth=2.2, capsize=3)
    if full is not None:
        axes.axhline(full[1], color=INK, linewidth=1.2, linestyle=(0, (5, 4)))
        text = f"supervised, all {full[0]} labels"
        axes.annotate(text, (used[0] / 1.08, full[1]), xytext=(0, 4), textcoords="offset points",
                      fontsize=10, color=INK)  # fmt: skip
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.06 * (high - low))
    label_line_ends(
        axes,
        [
            (points[-1][0], points[-1][1].mean, f" {method_name(method)}", METHOD_COLORS.get(method, OTHER))
            for method, points in lines.items()
        ],
    )
    save(picture, path)
    return True


def case_boxes(evaluated: Evaluated, data_set: str, labels: int, path: Path) -> bool:
    """Dice and 95HD of every case, mean over seeds, a box and points for each method; false for one."""
    figures = main_methods(evaluated.figures(data_set, labels))
    if len(figures) < 2:
        return False
    picture = figure(8, 1.6 + 0.42 * len(figures))
    left, right = picture.subplots(1, 2, sharey=True)
    names = [method_name(one.method) for one in figures]
    colors = [METHOD_COLORS.get(one.method, OTHER) for one in figures]
    for axes, metric, x in ((left, "dice", "Dice"), (right, "hd95_voxel", "95HD, voxels")):
        values = [list(one.by_case[metric].values()) for one in figures]
        drawn = axes.boxplot(
            values, orientation="horizontal", widths=0.6, showfliers=False, patch_artist=True,
            medianprops={"color": INK, "linewidth": 1.6},
        )  # fmt: skip
        for box, color in zip(drawn["boxes"], colors, strict=True):
            box.set(facecolor=color, alpha=0.35, edgecolor=color)
        shifts = np.random.default_rng(0)
        for row, (points, color) in enumerate(zip(values, colors, strict=True), start=1):
            jitter = shifts.uniform(-0.16, 0.16, len(points))
            axes.scatter(points, row + jitter, s=9, color=color, alpha=0.8, linewidths=0)
        dress(axes, "", x, "")
        axes.grid(axis="y", visible=False)
    left.set_yticks(range(1, len(names) + 1), names, fontsize=11)
    left.invert_yaxis()
    cases = len(figures[0].by_case["dice"])
    picture.suptitle(
        f"{data_set_name(data_set)}, {labels} labels: {cases} evaluated cases (mean over seeds)",
        x=0.01, ha="left", fontsize=12, color=INK,
    )  # fmt: skip
    save(picture, path)
    return True
