"""The demo's picture: the learning curve, and one held-out case with contours and the uncertainty over it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.demo_screen import RoundResult
from server.slice_view import PREDICTION, REFERENCE, PatientAxes, cut, pixel_mm

CURVE, AUROC = "#0072B2", "#D55E00"
AXIAL = 2


@dataclass(frozen=True)
class ShownCase:
    """A held-out case for the picture; arrays (X, Y, Z) on the scan's grid, `affine` voxel to RAS mm."""

    name: str
    image: NDArray[Any]
    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    uncertainty: NDArray[np.float32]
    affine: NDArray[np.float64]
    dice: float


@dataclass(frozen=True)
class Slice:
    """One axial slice as it is drawn: rows from anterior down, columns from the patient's right."""

    image: NDArray[Any]
    reference: NDArray[Any]
    prediction: NDArray[Any]
    uncertainty: NDArray[Any]
    aspect: float


def draw_picture(path: Path, results: list[RoundResult], case: ShownCase | None) -> None:
    """Write the picture as PNG; without a case only the curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        columns = 1 if case is None else 3
        widths = [1.15] + [1.0] * (columns - 1)
        figure, axes = plt.subplots(
            1, columns, figsize=(4.4 * columns, 4.3), width_ratios=widths, layout="constrained", squeeze=False
        )
        _draw_curve(axes[0, 0], results)
        if case is not None:
            _draw_case(figure, axes[0, 1], axes[0, 2], case)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _draw_curve(axes: Any, results: list[RoundResult]) -> None:
    """Dice against labels, each held-out case as a dot, and the AUROC of the uncertainty for errors."""
    labels = [result.labeled for result in results]
    for result in results:
        dices = list(result.dice_by_case.values())
        axes.plot([result.labeled] * len(dices), dices, "o", color=CURVE, alpha=0.25, markersize=4, mew=0)
    axes.plot(
        labels, [result.dice for result in results], "-o", color=CURVE, lw=2, label="Dice (mean; dots: cases)"
    )
    known = [(result.labeled, result.error_auroc) for result in results if result.error_auroc is not None]
    if known:
        axes.plot(
            *zip(*known, strict=True),
            "--s",
            color=AUROC,
            lw=1.5,
            markersize=4,
            label="uncertainty\u2013error AUROC",
        )
    axes.set_xticks(sorted(set(labels)))
    axes.set_xlabel("expert labels")
    axes.set_ylabel("on held-out cases")
    lowest = min(
        [
            *(d for r in results for d in r.dice_by_case.values()),
            *(value for r in results for value in (r.dice, r.error_auroc or 1.0)),
        ]
    )
    axes.set_ylim(max(0.0, lowest - 0.08), 1.0)
    axes.grid(axis="y", color="0.9")
    axes.legend(frameon=False, loc="lower right")
    axes.set_title("Learning curve", loc="left", fontweight="bold")


def _draw_case(figure: Any, plain: Any, overlay: Any, case: ShownCase) -> None:
    """The case's most uncertain axial slice: with the two contours, and with the uncertainty over it."""
    from matplotlib.lines import Line2D

    shown = most_uncertain_slice(case)
    top = float(np.percentile(case.image, 99.5))
    for axes in (plain, overlay):
        axes.imshow(shown.image, cmap="gray", vmin=0, vmax=top, aspect=shown.aspect, interpolation="bilinear")
        axes.set_axis_off()
    for mask, color in ((shown.reference, REFERENCE), (shown.prediction, PREDICTION)):
        if mask.any():
            plain.contour(mask, [0.5], colors=[color], linewidths=1.6)
    # Clear where the model is sure, so that the anatomy stays to be seen.
    veil = np.clip(shown.uncertainty * 1.6, 0.0, 0.85)
    map_ = overlay.imshow(
        shown.uncertainty,
        cmap="inferno",
        vmin=0,
        vmax=1,
        alpha=veil,
        aspect=shown.aspect,
        interpolation="bilinear",
    )
    if shown.prediction.any():
        # White: the orange of the model's contour would drown in the middle of the uncertainty's colors.
        overlay.contour(shown.prediction, [0.5], colors=["white"], linewidths=1.0)
    figure.colorbar(map_, ax=overlay, shrink=0.72, pad=0.02).set_label("uncertainty")
    lines = [Line2D([], [], color=REFERENCE, lw=2), Line2D([], [], color=PREDICTION, lw=2)]
    plain.legend(
        lines, ["expert", "model"], loc="lower left", frameon=True, framealpha=0.6, facecolor="black",
        edgecolor="none", labelcolor="white",
    )  # fmt: skip
    plain.set_title(f"{case.name}, Dice {case.dice:.2f}", loc="left", fontweight="bold")
    overlay.set_title("Where the model is unsure", loc="left", fontweight="bold")


def most_uncertain_slice(case: ShownCase) -> Slice:
    """The axial slice with the most uncertainty among those the atrium fills well, in radiological view."""
    axes = PatientAxes(case.affine)
    image, reference, prediction, uncertainty = (
        axes.turned(array) for array in (case.image, case.reference, case.prediction, case.uncertainty)
    )
    area = (reference > 0).sum((0, 1))
    weight = np.where(area >= 0.5 * area.max(), uncertainty.sum((0, 1)), -1.0)
    index = int(np.argmax(weight))
    picked = [cut(array, AXIAL, index) for array in (image, reference, prediction, uncertainty)]
    height, width = pixel_mm(axes.spacing_mm, AXIAL)
    return Slice(picked[0], picked[1], picked[2], picked[3], height / width)
