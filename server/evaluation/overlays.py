"""The worst test cases as pictures: both contours and the uncertainty, in the slice with most errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from server.evaluation.csv_files import COLUMNS, Row, read_rows
from server.evaluation.drawing import INK, figure, save
from server.evaluation.naming import data_set_name, measure_name, method_name
from server.evaluation.packs import LabeledSet, Predictions, Run
from server.evaluation.summary import Evaluated
from server.evaluation.surface import box_of

TRUE, PREDICTED = "#56b4e9", "#ff9d2e"
OUTLINE = [withStroke(linewidth=3.6, foreground="black")]
"""Keeps both contours visible on bright, dark and colored ground."""
CASES = 3
MARGIN = 5
"""Voxels shown around both masks."""
AXES = ("sagittal", "coronal", "axial")


def worst_cases(rows: Sequence[Row], run: Run) -> list[tuple[str, float]]:
    """The test cases of a run with the lowest Dice of all classes merged, worst first."""
    found = [
        (str(row["case"]), float(row["dice"])) for row in rows
        if row["run"] == run.name and row["role"] == run.model
        and row["class"] == "foreground" and row["largest_component"] == 0
    ]  # fmt: skip
    return sorted(found, key=lambda pair: (pair[1], pair[0]))[:CASES]


class Overlay(NamedTuple):
    """One case in one slice, arrays as drawn: rows from the top."""

    title: str
    where: str
    scan: NDArray[np.float64]
    true: NDArray[np.float64]
    predicted: NDArray[np.float64]
    uncertainty: NDArray[np.float64] | None


def worst_overlays(run: Run, pack: LabeledSet, cases: Sequence[tuple[str, float]], path: Path) -> bool:
    """One row a case: the scan with both contours, and its uncertainty; false without cases."""
    if not cases:
        return False
    predictions = run.predictions()
    measure = _measure(predictions.measures)
    found = [_overlay(run, predictions, pack, case, dice, measure) for case, dice in cases]
    # A panel is 3.5 inches wide; its height follows from the slice.
    heights = [3.5 * one.scan.shape[0] / one.scan.shape[1] + 0.35 for one in found]
    picture = figure(8, sum(heights) + 0.9)
    grid = picture.subplots(len(found), 2, squeeze=False, height_ratios=heights)
    drawn = None
    for (left, right), one in zip(grid, found, strict=True):
        for axes, title in ((left, one.title), (right, one.where)):
            _panel(axes, one)
            axes.set_title(title, loc="left", fontsize=11, color=INK)
        if one.uncertainty is not None:
            drawn = _uncertainty(right, one.uncertainty)
    if drawn is not None:
        bar = picture.colorbar(drawn, ax=grid, location="right", shrink=0.5, aspect=30, pad=0.02)
        bar.ax.tick_params(labelsize=10)
    _legend(picture, grid[0][0])
    picture.suptitle(
        f"{data_set_name(pack.data_set)}, {method_name(str(run.record['method']))}, "
        f"{run.record['labeled']} labels, seed {run.record['seed']}: its {len(cases)} worst cases",
        x=0.01, ha="left", fontsize=12, color=INK,
    )  # fmt: skip
    save(picture, path)
    return True


def _overlay(
    run: Run, predictions: Predictions, pack: LabeledSet, case: str, dice: float, measure: str | None
) -> Overlay:
    true = pack.label(case)
    predicted = predictions.labels(run.model, case, true)
    codes = predictions.map(measure, case, true) if measure else None
    cut = most_wrong_slice(predicted, true)
    name = measure_name(measure) + ", " if codes is not None and measure else ""
    return Overlay(
        f"{case}: Dice {dice:.3f}", f"{name}{AXES[cut[0]]} slice {cut[1]}",
        _shown(pack.image(case), cut), _shown(true > 0, cut), _shown(predicted > 0, cut),
        None if codes is None else _shown(codes, cut) / 255.0,
    )  # fmt: skip


def most_wrong_slice(
    predicted: NDArray[np.uint8], true: NDArray[np.uint8]
) -> tuple[int, int, tuple[slice, ...]]:
    """Axis and index of the slice with the most wrong voxels, and the box to show, with a margin."""
    wrong = predicted != true
    sums = [wrong.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    axis = int(np.argmax([int(counts.max()) for counts in sums]))
    there = (predicted > 0) | (true > 0)
    box = box_of(there, margin=MARGIN) if there.any() else tuple(slice(0, size) for size in true.shape)
    return axis, int(sums[axis].argmax()), box


def _shown(volume: NDArray[Any], cut: tuple[int, int, tuple[slice, ...]]) -> NDArray[np.float64]:
    axis, index, box = cut
    window: list[slice | int] = list(box)
    window[axis] = index
    # Array axes run right and up in these data sets; images are drawn row by row from the top.
    return np.asarray(volume[tuple(window)].T[::-1], dtype=np.float64)


def _panel(axes: Any, one: Overlay) -> None:
    low, high = np.percentile(one.scan, (1, 99))
    axes.imshow(one.scan, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    for mask, color, style in ((one.true, TRUE, "solid"), (one.predicted, PREDICTED, (0, (3, 1.5)))):
        if 0 < mask.sum() < mask.size:
            drawn = axes.contour(mask, levels=[0.5], colors=[color], linewidths=1.8, linestyles=[style])
            drawn.set(path_effects=OUTLINE)
    axes.set_axis_off()


def _uncertainty(axes: Any, uncertainty: NDArray[np.float64]) -> Any:
    shown = np.where(uncertainty < 0.05, np.nan, uncertainty)
    return axes.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=0.75, interpolation="nearest", zorder=1.5)


def _legend(picture: Any, axes: Any) -> None:
    for color, style, text in ((TRUE, "solid", "expert"), (PREDICTED, "dashed", "prediction")):
        axes.plot([], [], color=color, linestyle=style, linewidth=1.8, label=text, path_effects=OUTLINE)
    picture.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=11, labelcolor=INK)


def _measure(measures: Sequence[str]) -> str | None:
    return "predictive_entropy" if "predictive_entropy" in measures else next(iter(measures), None)


def draw_worst_cases(runs: Sequence[Run], packs: Sequence[Path], out: Path) -> list[Path]:
    """`worst_<data set>.png` of the first seed of each data set's headline method; the files written."""
    evaluated = Evaluated({name: read_rows(out, name) for name in COLUMNS})
    found = {run.name: run for run in runs}
    written = []
    for pack in (LabeledSet(path) for path in packs):
        headline = evaluated.headline(pack.data_set)
        names = [str(row["run"]) for row in evaluated.runs(pack.data_set, *(headline or ()))]
        run = next((found[name] for name in names if name in found), None)
        path = out / f"worst_{pack.data_set}.png"
        if run and worst_overlays(run, pack, worst_cases(evaluated.rows["cases"], run), path):
            written.append(path)
    return written
