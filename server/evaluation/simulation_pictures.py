"""Learning curves of a simulation: Dice over the number of revealed labels, one line an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from server.evaluation.drawing import INK, OTHER, dress, figure, label_line_ends, save
from server.evaluation.label_efficiency import GOALS, Curve, Efficiency
from server.evaluation.naming import data_set_name

STRATEGY_COLORS = {
    "random": "#0072b2",
    "most_uncertain": "#d55e00",
    "most_uncertain_diverse": "#009e73",
}


def label_curves(
    data_set: str,
    judged: Sequence[Efficiency],
    reference: Curve | None,
    names: Mapping[str, str],
    path: Path,
) -> None:
    """Draw the mean curves, dashed where training is supervised, with their spread over seeds.

    Args:
        data_set: Its name.
        judged: The arms.
        reference: With all labels; `None` for none.
        names: Arm to what it is called.
        path: The PNG.
    """
    picture = figure(8, 4.8)
    axes = picture.subplots()
    several = any(len(one.curve.seeds) > 1 for one in judged)
    spread = " (bar: ± 1 SD over seeds)" if several else ", one seed"
    dress(axes, f"{data_set_name(data_set)}: mean Dice over revealed labels{spread}", "labeled cases", "Dice")
    ends = []
    for order, one in enumerate(judged):
        curve = one.curve
        color = STRATEGY_COLORS.get(curve.strategy, OTHER)
        line = (0, (4, 2)) if curve.method == "supervised" else "-"
        # A small shift keeps the bars of neighboring arms apart.
        x = [count + 0.12 * (order - (len(judged) - 1) / 2) for count in curve.labels]
        by_seed = curve.dice.mean(axis=2)
        bars = by_seed.std(axis=0, ddof=1) if len(by_seed) > 1 else None
        axes.errorbar(x, curve.mean, yerr=bars, color=color, linestyle=line, marker="o", markersize=5,
                      linewidth=2, capsize=3)  # fmt: skip
        ends.append((float(x[-1]), float(curve.mean[-1]), f" {names[curve.arm]}", color))
    used = sorted({count for one in judged for count in one.curve.labels})
    axes.set_xticks(used)
    axes.set_xlim(used[0] - 1, used[-1] + 0.5)
    if reference is not None:
        full = float(reference.mean[-1])
        axes.axhline(full, color=INK, linewidth=1.2, linestyle=(0, (5, 4)))
        _beside_line(axes, used[0], full, f"all {reference.labels[-1]} labels, supervised")
        for goal in GOALS[1:]:
            axes.axhline(goal / 100 * full, color=OTHER, linewidth=0.9, linestyle=":")
            _beside_line(axes, used[0], goal / 100 * full, f"{goal} %")
    label_line_ends(axes, ends)
    save(picture, path)


def _beside_line(axes: object, x: float, y: float, text: str) -> None:
    axes.annotate(text, (x - 0.9, y), xytext=(0, 3), textcoords="offset points", fontsize=9, color=INK)  # type: ignore[attr-defined]
