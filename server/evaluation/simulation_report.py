"""`simulate report`: from the CSV files to a part of results.md, learning curves and active_learning.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.evaluation.csv_files import SIMULATION_COLUMNS, Row, read_rows
from server.evaluation.label_efficiency import (
    GOALS,
    Curve,
    Efficiency,
    Gain,
    Interval,
    curve_of,
    efficiencies,
    shared_labels,
)
from server.evaluation.naming import data_set_name, method_name
from server.evaluation.report import PICTURES, replace_text, split_at_markers, with_generated
from server.evaluation.results_file import to_json
from server.evaluation.simulation_pictures import label_curves
from server.evaluation.tables import Machines, number, origin, table
from ugmcl.simulation_plan import ARMS, REFERENCE

MARKERS = ("<!-- generated: simulation -->", "<!-- end generated: simulation -->")
HEADING = "Labels needed"
HEADLINE = "hippocampus"
"""The data set that active_learning.json is about; the first by name where it was not simulated."""
STRATEGIES = {
    "random": "random order",
    "most_uncertain": "most uncertain",
    "most_uncertain_diverse": "most uncertain, diverse",
    "all": "all labels",
}
INTRODUCTION = """\
*This part is written by `ugmcl-assist simulate report` from the CSV files of `simulate evaluate`; edits
here are lost.*

Labels of the pool are revealed round by round. All arms of a seed begin with the same labels, drawn by the
seed; each later round starts from the model of the one before, with the server's factor on the learning
rate and a new random seed. Semi-supervised rounds have the rest of the pool without labels. Unlike in the
server, no label is kept back for validation. Every round is measured on the test cases with its last
checkpoint, never one chosen on them; Dice is the mean over cases and classes, then over seeds. Scores and
features of the pool are those of the server. Labels needed are read off the mean curve, straight between
its points; intervals (95 %) resample test cases and, where there are several, seeds (2000 times): with one
seed they say nothing about other seeds."""


def report_simulation(csv_folder: Path, docs: Path) -> list[Path]:
    """Write the part of results.md, its pictures, and active_learning.json.

    Args:
        csv_folder: Written by `simulate evaluate`.
        docs: Folder that holds results.md.

    Returns:
        The files written.

    Raises:
        ValueError: If a CSV is missing or damaged, or results.md has one of the two markers only.
    """
    rows = {name: read_rows(csv_folder, name) for name in SIMULATION_COLUMNS}
    names = sorted({str(row["data_set"]) for row in rows["simulation_rounds"]})
    if not names:
        raise ValueError(f"{csv_folder / 'simulation_rounds.csv'} names no round; run `simulate evaluate`.")
    page = docs / "results.md"
    before = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    split_at_markers(before, page, MARKERS)  # refuse before anything is written
    machines, pictures, parts = Machines(), list[Path](), [INTRODUCTION]
    content: dict[str, Any] = {}
    for name in names:
        curves, reference = curves_of(rows, name)
        judged = efficiencies(curves, reference)
        if name == HEADLINE or not content:
            content = summary(judged, reference)
        rounds = [row for row in rows["simulation_rounds"] if row["data_set"] == name]
        parts += section(name, judged, reference, rounds, docs, machines, pictures)
    parts += [machines.legend()]
    text = "\n\n".join(part.strip("\n") for part in parts if part)
    replace_text(page, with_generated(before, text, page, MARKERS, HEADING))
    replace_text(docs / "active_learning.json", to_json(content))
    return [page, docs / "active_learning.json", *pictures]


def curves_of(rows: dict[str, list[Row]], data_set: str) -> tuple[dict[str, Curve], Curve | None]:
    """The curves of all arms in the order of `ARMS`, and the reference apart.

    Raises:
        ValueError: If an arm is unknown or was not measured on the same cases in all rounds.
    """
    by_arm: dict[str, tuple[list[Row], list[Row]]] = {}
    for kind, name in enumerate(SIMULATION_COLUMNS):
        for row in rows[name]:
            if row["data_set"] == data_set:
                by_arm.setdefault(str(row["arm"]), ([], []))[kind].append(row)
    unknown = sorted(set(by_arm) - set(ARMS))
    if unknown:
        raise ValueError(f"There is no arm {', '.join(unknown)}; the CSV files are of another version.")
    curves = {arm: curve_of(arm, *by_arm[arm]) for arm in ARMS if arm in by_arm}
    reference = curves.pop(REFERENCE, None)
    if not curves:
        raise ValueError(f"{data_set} has no arm besides {REFERENCE}; run some before the report.")
    return curves, reference


def summary(judged: Sequence[Efficiency], reference: Curve | None) -> dict[str, Any]:
    """The content of active_learning.json.

    Arm to `labels_to_95`, `_98`, `_99` (labels at which its mean curve first reaches that percent of the Dice
    with all labels), `area` (mean Dice under its curve over the number of labels) and `seeds`. Null: not
    reached, or not measured to the end. The reference's area is its Dice.
    """
    content: dict[str, Any] = {
        one.curve.arm: {
            **{f"labels_to_{goal}": one.labels_to.get(goal) for goal in GOALS},
            "area": one.area if one.curve.is_complete and _spans(one, judged) else None,
            "seeds": list(one.curve.seeds),
        }
        for one in judged
    }
    if reference is not None:
        content[REFERENCE] = {
            **{f"labels_to_{goal}": None for goal in GOALS},
            "area": float(reference.mean[-1]),
            "seeds": list(reference.seeds),
        }
    return content


def _spans(one: Efficiency, judged: Sequence[Efficiency]) -> bool:
    """Whether the area, of what all arms have, is that of this arm's whole curve."""
    return shared_labels({other.curve.arm: other.curve for other in judged}) == one.curve.labels


def section(
    data_set: str,
    judged: Sequence[Efficiency],
    reference: Curve | None,
    rounds: Sequence[Row],
    docs: Path,
    machines: Machines,
    pictures: list[Path],
) -> list[str]:
    """One data set: its picture and its tables."""
    path = docs / PICTURES / f"active_learning_{data_set}.png"
    label_curves(data_set, judged, reference, {one.curve.arm: arm_name(one.curve) for one in judged}, path)
    pictures.append(path)
    parts = [f"### {data_set_name(data_set)}: labels needed", reference_line(reference)]
    unfinished = [arm_name(one.curve) for one in judged if not one.curve.is_complete]
    if unfinished:
        planned = judged[0].curve.planned[-1]
        parts.append(f"**Not finished**, {planned} labels not reached: {'; '.join(unfinished)}.")
    parts.append(f"![Dice over the number of labels]({(PICTURES / path.name).as_posix()})")
    parts += [dice_table(judged, rounds, machines), needed_table(judged)]
    return parts


def arm_name(curve: Curve) -> str:
    """As shown."""
    return f"{method_name(curve.method)}, {STRATEGIES.get(curve.strategy, curve.strategy)}"


def reference_line(reference: Curve | None) -> str:
    """What the goals are shares of."""
    if reference is None:
        return f"`{REFERENCE}` was not run, so there is no goal to reach."
    full = float(reference.mean[-1])
    goals = ", ".join(f"{goal} % = {goal / 100 * full:.4f}" for goal in GOALS)
    seeds = ", ".join(str(seed) for seed in reference.seeds)
    return f"With all {reference.labels[-1]} labels (supervised, seeds {seeds}): Dice {full:.4f}; {goals}."


def dice_table(judged: Sequence[Efficiency], rounds: Sequence[Row], machines: Machines) -> str:
    """Dice at each number of labels; the CPU seconds are those of all its rounds, mean over seeds."""
    counts = sorted({count for one in judged for count in one.curve.labels})
    header = ["Dice at", *(str(count) for count in counts),
              "steps a round", "CPU s of training", "seeds", "commit", "on"]  # fmt: skip
    rows = []
    for one in judged:
        curve = one.curve
        at = dict(zip(curve.labels, curve.mean.tolist(), strict=True))
        mine = [row for row in rounds if row["arm"] == curve.arm and row["seed"] in curve.seeds]
        steps, _, commit, machine = origin(mine, machines)
        seeds = ", ".join(str(seed) for seed in curve.seeds)
        cost = sum(float(row["cpu_seconds"]) for row in mine) / len(curve.seeds)
        rows.append([arm_name(curve), *(number(at.get(count), 4) for count in counts),
                     steps, f"{cost:.0f}", seeds, commit, machine])  # fmt: skip
    return table(header, rows)


def needed_table(judged: Sequence[Efficiency]) -> str:
    """Labels to each goal, area, and how much it is above the random order with the same training
    and above stock practice."""
    shared = shared_labels({one.curve.arm: one.curve for one in judged})
    header = ["labels to", *(f"{goal} %" for goal in GOALS), f"mean Dice, {shared[0]} to {shared[-1]} labels",
              "less random order", "less stock practice"]  # fmt: skip
    rows = []
    for one in judged:
        cells = [
            _labels_cell(one.labels_to.get(goal), one.labels_intervals.get(goal), one.curve) for goal in GOALS
        ]
        mean = f"{number(one.area, 4)}{_ends(one.area_interval, '.4f')}"
        rows.append(
            [arm_name(one.curve), *cells, mean, _gain_cell(one.over_random), _gain_cell(one.over_stock)]
        )
    return table(header, rows)


def _gain_cell(gain: Gain | None) -> str:
    return "-" if gain is None else f"{gain.value:+.4f}{_ends(gain.interval, '+.4f')}"


def _labels_cell(value: float | None, ends: Interval | None, curve: Curve) -> str:
    last = curve.labels[-1]
    if ends is None:
        return "-"
    if value is None:
        shown = f"> {last}"
    elif value <= curve.labels[0]:
        shown = f"≤ {curve.labels[0]}"
    else:
        shown = f"{value:.1f}"
    low, high = (f"> {last}" if math.isinf(end) else f"{end:.1f}" for end in ends)
    return f"{shown} ({low} to {high})"


def _ends(ends: Interval | None, form: str) -> str:
    return "" if ends is None else f" ({ends.low:{form}} to {ends.high:{form}})"
