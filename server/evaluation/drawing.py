"""How the pictures of the report look: colors safe for color-blind readers, labels beside what they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from server.evaluation.atomic import replacing

METHOD_COLORS = {
    "supervised": "#6b6b6b",
    "mean_teacher": "#56b4e9",
    "ua_mt": "#0072b2",
    "entropy_minimization": "#cc79a7",
    "dtc": "#009e73",
    "ug_mcl": "#e69f00",
    "ug_mcl_plus": "#d55e00",
}
MEASURE_COLORS = {
    "predictive_entropy": "#0072b2",
    "mutual_information": "#009e73",
    "head_disagreement": "#e69f00",
    "teacher_student_disagreement": "#cc79a7",
    "error_probability": "#d55e00",
    "mc_error_probability": "#56b4e9",
    "distance": "#6b6b6b",
}
"""Okabe & Ito 2008, with a gray for what everything is compared with."""
OTHER = "#999999"
DPI = 140
"""A picture 8 inches wide is then 1120 pixels: sharp at a README's 900."""
INK = "#222222"


def figure(width: float, height: float) -> Figure:
    """An empty picture, size in inches."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")


def dress(axes: Any, title: str, x: str, y: str) -> None:
    """Title at the left, named axes, a light grid, no box."""
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.set_xlabel(x, fontsize=11, color=INK)
    axes.set_ylabel(y, fontsize=11, color=INK)
    axes.tick_params(labelsize=10, colors=INK)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def spread_out(positions: Sequence[float], gap: float) -> list[float]:
    """The positions moved apart by at least `gap`, each as little as its neighbors allow, in their order."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    # Blocks of touching labels: each sits where its labels are nearest to their own places.
    blocks: list[tuple[float, int]] = []
    for index in order:
        start, count = positions[index], 1
        while blocks and blocks[-1][0] + blocks[-1][1] * gap > start:
            before, n = blocks.pop()
            start = (before * n + (start - n * gap) * count) / (n + count)
            count += n
        blocks.append((start, count))
    placed = [start + step * gap for start, count in blocks for step in range(count)]
    moved = dict(zip(order, placed, strict=True))
    return [moved[index] for index in range(len(positions))]


def label_line_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names at the right ends of lines, `(x, y, text, color)`, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    placed = spread_out([y for _, y, _, _ in ends], 0.062 * (high - low))
    for (_, y, text, color), where in zip(ends, placed, strict=True):
        axes.annotate(
            text, xy=(right, y), xytext=(right, where), xycoords="data", textcoords="data",
            fontsize=10, color=color, fontweight="bold", va="center", annotation_clip=False,
        )  # fmt: skip


def save(picture: Figure, path: Path) -> None:
    """Write a PNG atomically; the same figures give the same bytes."""
    with replacing(path) as temporary:
        picture.savefig(temporary, format="png", metadata={"Software": None})
