"""The rows on a run's uncertainty: does it find the errors, is it calibrated, does it rank the cases."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.evaluation.boundary import label_boundary_distance
from server.evaluation.calibration import Scaling, fit_platt, fit_temperature
from server.evaluation.case_maps import (
    EIGHT_BITS,
    ERROR_PROBABILITY,
    PROBABILITIES,
    Boundary,
    case_counts,
    case_scores,
    read_case,
)
from server.evaluation.error_counts import (
    ErrorCounts,
    aupr,
    auroc,
    ece,
    reliability,
    risk_coverage_area,
    risks,
)
from server.evaluation.overlap import dice_and_jaccard
from server.evaluation.packs import SETS, LabeledSet, Run

COVERAGES = np.linspace(0.05, 1.0, 20)

CountsOf = dict[tuple[str, str, str, str], ErrorCounts]
"""Set, case, measure and region to counts."""
Probabilities = dict[tuple[str, str], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Measure and case to voxels at each stored probability: all, and those in the segmentation."""


class UncertaintyRows(NamedTuple):
    """Rows for four files, without the run's identity, and the fitted temperature."""

    uncertainty: list[dict[str, Any]]
    reliability: list[dict[str, Any]]
    risk_coverage: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    temperature: float | None


def measured_boundary(_: str, label: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The distance to the true boundary, measured each time."""
    return label_boundary_distance(label)


def uncertainty_rows(
    run: Run, pack: LabeledSet, true_boundary: Boundary = measured_boundary
) -> UncertaintyRows:
    """Judge the uncertainty of a run's model on its test and ranking cases.

    Args:
        run: A finished run.
        pack: Its data set.
        true_boundary: Distance to the true boundary of a case, given id and label; lets a caller keep them.
    """
    predictions = run.predictions()
    counts: CountsOf = {}
    scores: list[dict[str, Any]] = []
    probabilities: Probabilities = {}
    for which in SETS:
        for case in predictions.cases(which):
            if not predictions.has(run.model, case):
                continue
            maps = read_case(predictions, run.model, case, pack, true_boundary)
            counts |= {(which, case, *key): value for key, value in case_counts(maps).items()}
            dice = dice_and_jaccard(maps.predicted > 0, maps.true > 0)[0]
            kept = {**predictions.scores(case), **case_scores(maps, predictions, case)}
            scores += [
                {"set": which, "case": case, "score": name, "value": value, "dice": dice}
                for name, value in kept.items()
            ]
            for measure, stored in maps.foreground.items():
                probabilities[measure, case] = _histogram(stored, maps.predicted > 0)
    scalings = fit_scalings(counts)
    scores += _tempered_scores(scores, probabilities, scalings)
    temperature = scalings.get(ERROR_PROBABILITY)
    return UncertaintyRows(
        _figures(counts, scalings), _bins(counts, scalings), _curves(counts), scores,
        1.0 / temperature.slope if temperature is not None else None,
    )  # fmt: skip


def fit_scalings(counts: CountsOf) -> dict[str, Scaling]:
    """The scaling of each measure, from the band of the ranking cases; none where there are none."""
    pooled: dict[str, ErrorCounts] = {}
    for (which, _, measure, region), one in counts.items():
        if (which, region) == ("ranking", "band"):
            pooled[measure] = pooled[measure].plus(one) if measure in pooled else one
    fitted = {
        measure: fit_temperature(one) if measure in PROBABILITIES else fit_platt(one)
        for measure, one in pooled.items()
    }
    return {measure: scaling for measure, scaling in fitted.items() if scaling is not None}


def _figures(counts: CountsOf, scalings: dict[str, Scaling]) -> list[dict[str, Any]]:
    rows = []
    for (which, case, measure, region), one in counts.items():
        row = {"set": which, "case": case, "measure": measure, "region": region,
               "voxels": one.n_voxels, "errors": one.n_errors, "auroc": auroc(one), "aupr": aupr(one),
               "risk_coverage_area": risk_coverage_area(one)}  # fmt: skip
        rows.append({**row, "scaling": "none", "ece": ece(one)})
        if measure in scalings:
            scaling = scalings[measure]
            scaled = one.with_values(scaling.apply(one.values))
            # A scaling keeps the order, so the other figures are those of the measure itself.
            rows.append({**row, "scaling": scaling.name, "ece": ece(scaled)})
    return rows


def _pooled_test(counts: CountsOf) -> dict[tuple[str, str], ErrorCounts]:
    pooled: dict[tuple[str, str], ErrorCounts] = {}
    for (which, _, measure, region), one in counts.items():
        if which == "test":
            key = measure, region
            pooled[key] = pooled[key].plus(one) if key in pooled else one
    return {key: one for key, one in pooled.items() if one.n_voxels}


def _bins(counts: CountsOf, scalings: dict[str, Scaling]) -> list[dict[str, Any]]:
    rows = []
    for (measure, region), one in _pooled_test(counts).items():
        variants = {"none": one}
        if measure in scalings:
            scaling = scalings[measure]
            variants[scaling.name] = one.with_values(scaling.apply(one.values))
        for name, variant in variants.items():
            identity = {"set": "test", "measure": measure, "scaling": name, "region": region}
            rows += [{**identity, **found._asdict()} for found in reliability(variant)]
    return rows


def _curves(counts: CountsOf) -> list[dict[str, Any]]:
    rows = []
    for (measure, region), one in _pooled_test(counts).items():
        identity = {"set": "test", "measure": measure, "region": region}
        points = zip(COVERAGES, risks(one, COVERAGES), strict=True)
        rows += [{**identity, "coverage": float(kept), "risk": float(risk)} for kept, risk in points]
    return rows


def _histogram(
    foreground: NDArray[np.uint8], segmentation: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Voxels at each stored probability: all, and those in the segmentation."""
    whole = np.bincount(foreground.ravel(), minlength=256).astype(np.float64)
    return whole, np.bincount(foreground[segmentation], minlength=256).astype(np.float64)


def _tempered_scores(
    scores: list[dict[str, Any]], probabilities: Probabilities, scalings: dict[str, Scaling]
) -> list[dict[str, Any]]:
    """The expected Dice loss at the fitted temperature, for every case that has it without."""
    rows = []
    for row in scores:
        measure, _, name = str(row["score"]).partition(".")
        if name == "expected_dice_loss" and measure in scalings:
            levels = scalings[measure].apply(EIGHT_BITS)
            # A stored 0 is background for sure: what rounding hid must not add up over a large volume.
            levels[0] = 0.0
            whole, segmented = probabilities[measure, row["case"]]
            total = float((whole * levels).sum() + segmented.sum())
            loss = 1.0 - 2.0 * float((segmented * levels).sum()) / total if total > 0 else 0.0
            rows.append({**row, "score": f"{row['score']}.temperature", "value": min(max(loss, 0.0), 1.0)})
    return rows
