"""run_predictions: what a trained run says of the test cases, packed for an evaluation elsewhere.

The bare machine has neither surface distances nor statistics, so it returns label maps, probabilities and
uncertainty maps in 8 bits, on the grid of the scans.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import Config
from .experiment import Experiment, model_of
from .inference import Prediction, Predictor
from .precision import Precision
from .sampling import LoadCase
from .uncertainty import region_scores

FORMAT = "ugmcl-predictions-1"


def measures_of(config: Config) -> tuple[str, ...]:
    """The uncertainty measures that a model of this configuration has, best known first."""
    shared = ("predictive_entropy", "mutual_information")
    return (*shared, "head_disagreement") if config.learns_distances else shared


def predict_run(
    experiment: Experiment,
    load: LoadCase,
    checkpoints: Path,
    path: Path,
    precision: Precision,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Predict the test and ranking cases with student and teacher, and write them to `path` atomically.

    Args:
        experiment: A trained run.
        load: Reads a case.
        checkpoints: Folder with `student.pt` and, where the method has one, `teacher.pt`.
        path: The file: `student/<id>` and `teacher/<id>` label maps, `map/<measure>/<id>` in 1/255,
            `probs/<id>` and `mc_probs/<id>` the foreground probability of the model in 1/255, without dropout
            and as the mean of the dropout passes; all uint8 `(X, Y, Z)`. `meta` has the ids and the scores.
        precision: Number format and device.
        should_stop: Asked after every case.

    Returns:
        False when `should_stop` ended it; nothing is then written.
    """
    role, measures = model_of(experiment.config), measures_of(experiment.config)
    model = Predictor(experiment.network(checkpoints / f"{role}.pt"), precision=precision, measures=measures)
    other = None
    if role == "teacher":
        other = Predictor(experiment.network(checkpoints / "student.pt"), precision=precision)
    arrays: dict[str, NDArray[Any]] = {}
    scores: dict[str, dict[str, float]] = {}
    for case in [*experiment.test, *experiment.ranking]:
        scan, _ = load(case)
        prediction = model.predict(scan)
        assert prediction.uncertainty is not None
        assert prediction.foreground is not None
        kept = {f"{role}/{case.id}": prediction.labels, **_maps(prediction, case.id)}
        if other is not None:
            student = other.predict(scan, uncertainty=False)
            kept[f"student/{case.id}"] = student.labels
            difference = np.abs(prediction.probs - student.probs).max(axis=0)
            kept[f"map/teacher_student_disagreement/{case.id}"] = eight_bits(difference)
        arrays.update(kept)
        found = prediction.labels > 0
        plain = 1.0 - prediction.probs[0]
        scores[case.id] = region_scores(prediction.uncertainty, prediction.foreground, found, plain)
        if should_stop():
            return False
    meta = {
        "format": FORMAT,
        "test": [case.id for case in experiment.test],
        "ranking": [case.id for case in experiment.ranking],
        "model": role,
        "score": scores,
    }
    _write(path, arrays, meta)
    return True


def _maps(prediction: Prediction, case: str) -> dict[str, NDArray[np.uint8]]:
    """Probabilities and maps of the model."""
    assert prediction.foreground is not None
    maps = {f"map/{name}/{case}": eight_bits(values) for name, values in prediction.maps.items()}
    certain = eight_bits(prediction.probs[1:].sum(axis=0))
    return {**maps, f"probs/{case}": certain, f"mc_probs/{case}": eight_bits(prediction.foreground)}


def eight_bits(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """round(255 u) of values in [0, 1], any shape; values a rounding beyond the ends are clipped."""
    return np.asarray(np.rint(np.clip(values, 0.0, 1.0) * 255.0), dtype=np.uint8)


def _write(path: Path, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        text = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, meta=text, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
