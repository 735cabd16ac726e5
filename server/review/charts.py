"""Small charts as numbers for an SVG template: points, a line through them, and ticks at round values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 340, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40
"""Margins for the ticks and the names of the axes, in units of the drawing."""


class Dot(NamedTuple):
    """A value to draw: where, whether filled, how large (a radius), and what it is in words."""

    x: float
    y: float
    filled: bool
    text: str
    radius: float = 4.0


class Tick(NamedTuple):
    """A place on an axis and what stands there."""

    at: float
    text: str


class Chart(NamedTuple):
    """A chart in units of its drawing, `WIDTH` x `HEIGHT`.

    Attributes:
        title, x_name, y_name: As written.
        dots: Placed.
        line: SVG path through the dots, in their order; empty for fewer than two.
        diagonal: SVG path of y = x, or empty.
        x_ticks, y_ticks: Placed.
        left, right, top, bottom, width, height: Of the field and of the drawing.
    """

    title: str
    x_name: str
    y_name: str
    dots: list[Dot]
    line: str
    diagonal: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


def chart(
    title: str,
    x_name: str,
    y_name: str,
    dots: Sequence[Dot],
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float | None, float | None] = (None, None),
    whole_x: bool = False,
    diagonal: bool = False,
) -> Chart:
    """Place values in a chart.

    Args:
        title, x_name, y_name: As they will stand there.
        dots: In the order in which the line goes.
        x_range: Ends of the x axis; from the values if None.
        y_range: Ends of the y axis; each from the values if None.
        whole_x: Whether x counts something, so that only whole numbers are marked.
        diagonal: Whether y = x is drawn.
    """
    ys = [dot.y for dot in dots]
    left, right = x_range or _ends([dot.x for dot in dots])
    if left == right:
        left, right = left - 1, right + 1  # a single value stands in the middle
    x_ticks = round_steps(left, right, whole=whole_x)
    low, high = _ends([*ys, *(value for value in y_range if value is not None)])
    y_ticks = round_steps(low, high)
    x_from, x_to = x_range or (x_ticks[0], x_ticks[-1])
    y_from = y_ticks[0] if y_range[0] is None else y_range[0]
    y_to = y_ticks[-1] if y_range[1] is None else y_range[1]

    def across(x: float) -> float:
        return round(LEFT + (x - x_from) / (x_to - x_from) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_from) / (y_to - y_from) * (HEIGHT - TOP - BOTTOM), 1)

    placed = [dot._replace(x=across(dot.x), y=down(dot.y)) for dot in dots]
    return Chart(
        title,
        x_name,
        y_name,
        placed,
        _path([(dot.x, dot.y) for dot in placed]),
        _path([(across(0), down(0)), (across(1), down(1))]) if diagonal else "",
        [Tick(across(x), _text(x)) for x in x_ticks if x_from <= x <= x_to],
        [Tick(down(y), _text(y)) for y in y_ticks if y_from <= y <= y_to],
    )


def round_steps(low: float, high: float, *, whole: bool = False, most: int = 6) -> list[float]:
    """At most `most` round numbers, evenly spaced, that reach from `low` or less to `high` or more."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / (most - 1)))
    while True:
        for factor in (1, 2, 5):
            wide = step * factor
            first, last = math.floor(low / wide + 1e-9), math.ceil(high / wide - 1e-9)
            if last - first < most and not (whole and wide < 1):
                return [round(number * wide, 10) for number in range(first, max(last, first + 1) + 1)]
        step *= 10


def bars(counts: Sequence[int], most: int, width: float, height: float) -> list[tuple[float, float, float]]:
    """A bar for each count, `(x, y, height)` in a drawing of `width` x `height`; `most` fills it."""
    step = width / len(counts)
    heights = [count / max(most, 1) * height for count in counts]
    return [
        (round(number * step, 2), round(height - tall, 2), round(tall, 2))
        for number, tall in enumerate(heights)
    ]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:g} {y:g}" for x, y in points) if len(points) > 1 else ""


def _text(value: float) -> str:
    return f"{value:g}"
