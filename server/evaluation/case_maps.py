"""One case's maps on one grid: what each measure says of every voxel, and the scores of the whole scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.evaluation.boundary import (
    BAND_VOXELS,
    boundary_band,
    distance_codes,
    label_boundary_distance,
)
from server.evaluation.error_counts import ErrorCounts, count_errors
from server.evaluation.overlap import dice_and_jaccard
from server.evaluation.packs import LabeledSet, Predictions
from ugmcl.uncertainty import expected_dice_loss, region_scores

DISTANCE = "distance"
"""The map exp(-d / 1.5) of the predicted boundary, beside which every measure is shown."""
ERROR_PROBABILITY = "error_probability"
"""1 - max p of the stored foreground probability: the one measure that is a probability of an error. With
several classes it does not see a confusion of two foreground classes."""
MC_ERROR_PROBABILITY = "mc_error_probability"
"""The same of the mean of the dropout passes."""
PROBABILITIES = {ERROR_PROBABILITY: "probs", MC_ERROR_PROBABILITY: "mc_probs"}
EIGHT_BITS = np.arange(256) / 255.0
Boundary = Callable[[str, NDArray[np.uint8]], NDArray[np.float64]]


class CaseMaps(NamedTuple):
    """What is known of one case: labels, distances to the two boundaries, and maps as codes with levels.

    `foreground` has the stored foreground probabilities, by the measure that is made of them.
    """

    predicted: NDArray[np.uint8]
    true: NDArray[np.uint8]
    to_predicted: NDArray[np.float64]
    to_true: NDArray[np.float64]
    foreground: dict[str, NDArray[np.uint8]]
    maps: dict[str, tuple[NDArray[Any], NDArray[np.float64]]]


def read_case(
    predictions: Predictions, role: str, case: str, pack: LabeledSet, true_boundary: Boundary
) -> CaseMaps:
    """Read a case and make the two maps that every run has: the distance map and, with `probs`, 1 - max p."""
    true = pack.label(case)
    predicted = predictions.labels(role, case, true)
    to_predicted = label_boundary_distance(predicted)
    maps: dict[str, tuple[NDArray[Any], NDArray[np.float64]]] = {DISTANCE: distance_codes(to_predicted)}
    for measure in predictions.measures:
        found = predictions.map(measure, case, true)
        if found is not None:
            maps[measure] = found, EIGHT_BITS
    foreground = {}
    for measure, kind in PROBABILITIES.items():
        stored = predictions.foreground(case, true, kind)
        if stored is not None:
            foreground[measure] = stored
            maps[measure] = np.minimum(stored, 255 - stored), EIGHT_BITS
    return CaseMaps(predicted, true, to_predicted, true_boundary(case, true), foreground, maps)


def case_counts(maps: CaseMaps) -> dict[tuple[str, str], ErrorCounts]:
    """Counts by measure and region; an error is any voxel whose class is wrong."""
    wrong = maps.predicted != maps.true
    band = boundary_band(maps.to_predicted, maps.to_true)
    found = {}
    for measure, (codes, levels) in maps.maps.items():
        found[measure, "band"] = count_errors(codes[band], wrong[band], levels)
        found[measure, "volume"] = count_errors(codes, wrong, levels)
    return found


def case_scores(maps: CaseMaps, predictions: Predictions, case: str) -> dict[str, float]:
    """Candidate scores of a scan from its maps alone, higher = less sure; none looks at the true label."""
    segmentation = maps.predicted > 0
    near = maps.to_predicted <= BAND_VOXELS
    scores: dict[str, float] = {}
    for measure, (codes, levels) in maps.maps.items():
        uncertainty = levels[codes].astype(np.float32)
        for name, value in region_scores(uncertainty, uncertainty, segmentation).items():
            if name != "expected_dice_loss":  # it looks at probabilities, not at the measure
                scores[f"{measure}.{name}"] = value
        # Without any predicted boundary nothing is surer than the least sure scan.
        scores[f"{measure}.boundary_mean"] = float(uncertainty[near].mean()) if near.any() else 1.0
    for measure, stored in maps.foreground.items():
        scores[f"{measure}.expected_dice_loss"] = expected_dice_loss(EIGHT_BITS[stored], segmentation)
    if predictions.has("teacher", case) and predictions.has("student", case):
        teacher, student = (predictions.labels(role, case, maps.true) > 0 for role in ("teacher", "student"))
        scores["teacher_student_dice_loss"] = 1.0 - dice_and_jaccard(teacher, student)[0]
    return scores
