"""docs/results.json: the layout that readers of the results rely on."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.evaluation.case_maps import DISTANCE
from server.evaluation.summary import (
    Evaluated,
    MethodFigures,
    ablation_rows,
    comparisons,
    distinct,
    main_methods,
)
from server.evaluation.uncertainty_summary import UncertaintyFigures

GPU_FIGURES = ("train_step_ms", "train_step_ratio", "volume_inference_ms", "device")
PAPER_REFERENCE = "supervised"


def results(
    evaluated: Evaluated, uncertainty: Mapping[str, UncertaintyFigures], gpu: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of results.json.

    Data set to label count, as a decimal string, to method to figures of the method's model over all classes
    as one and without any component removed: fractions in [0, 1], distances in voxels (`asd_voxel` one-sided,
    as the papers print it), `p_value_vs_supervised` of the Wilcoxon signed-rank test over cases, by Holm's
    correction for the methods of its table (the main one, or the ablation's). Then `uncertainty` by data set,
    and `gpu`. What was not measured is null, never NaN.
    """
    content: dict[str, Any] = {}
    for data_set in evaluated.data_sets():
        content[data_set] = {
            str(labels): _methods(evaluated, data_set, labels) for labels in evaluated.label_counts(data_set)
        }
    content["uncertainty"] = {name: uncertainty_entry(figures) for name, figures in uncertainty.items()}
    content["gpu"] = {name: gpu.get(name) for name in GPU_FIGURES}
    return content


def _methods(evaluated: Evaluated, data_set: str, labels: int) -> dict[str, Any]:
    figures = evaluated.figures(data_set, labels)
    tables = (ablation_rows(figures), main_methods(figures))
    compared = [one for part in tables for one in comparisons(part, PAPER_REFERENCE)]
    p_values = {one.method: one.wilcoxon_holm for one in compared}
    return {
        one.method: {
            **_entry(one, evaluated.runs(data_set, labels, one.method)),
            "p_value_vs_supervised": p_values.get(one.method),
        }
        for one in figures
    }


def _entry(figures: MethodFigures, runs: list[dict[str, Any]]) -> dict[str, Any]:
    mean = {name: figures.metrics[name].mean for name in ("dice", "jaccard", "asd_voxel", "hd95_voxel")}
    steps = [int(run["steps"]) for run in runs]
    return {
        "dice": mean["dice"],
        "dice_std_over_seeds": figures.metrics["dice"].std,
        "jaccard": mean["jaccard"],
        "asd_voxel": mean["asd_voxel"],
        "hd95_voxel": mean["hd95_voxel"],
        "seeds": list(figures.seeds),
        "steps": round(sum(steps) / len(steps)),
        "device": ", ".join(distinct(runs, "device")) or None,
        "commit": ", ".join(distinct(runs, "commit")) or None,
    }


def uncertainty_entry(figures: UncertaintyFigures) -> dict[str, float | None]:
    """The chosen measure on the test cases, scaled where a scaling was fitted, and the distance map."""
    chosen = figures.of(figures.shown_measure(), scaled=True)
    distance = figures.of(DISTANCE, scaled=False)
    of_chosen = chosen.test if chosen else {}
    score = next((one for one in figures.scores if one.score == figures.best_score), None)
    return {
        "error_auroc_band": of_chosen.get("auroc_band"),
        "distance_auroc_band": distance.test.get("auroc_band") if distance else None,
        "ece_band": of_chosen.get("ece_band"),
        "error_auroc_volume": of_chosen.get("auroc_volume"),
        "score_dice_spearman": score.test if score else None,
    }


def read_gpu(folder: Path) -> dict[str, Any]:
    """The one row of gpu.csv with the columns `GPU_FIGURES`; empty where there is no such file.

    Raises:
        ValueError: If a column is missing or holds a word where a number belongs.
    """
    path = folder / "gpu.csv"
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file))
        return {name: row[name] if name == "device" else float(row[name]) for name in GPU_FIGURES}
    except (OSError, StopIteration, KeyError, TypeError, ValueError) as error:
        wanted = ", ".join(GPU_FIGURES)
        raise ValueError(f"{path} needs one row with the columns {wanted} ({error!r}).") from error


def to_json(content: dict[str, Any]) -> str:
    """The text of the file; six digits after the point are more than a run repeats."""
    return json.dumps(_rounded(content), indent=1, allow_nan=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    # A p-value may be far below six digits after the point.
    return float(f"{value:.6g}") if isinstance(value, float) else value
