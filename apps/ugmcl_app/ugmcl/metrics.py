"""metrics: how good a segmentation and its uncertainty are, on the file's grid, in millimeters.

An empty prediction of a structure that is there counts as a failure: Dice 0 and, as its distance, the
diagonal of the volume; the published evaluation counts it as distance 0, which is perfect.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.transforms.utils import distance_transform_edt
from numpy.typing import NDArray

from .distance import inner_boundary


def dice(prediction: NDArray[Any], reference: NDArray[Any]) -> float:
    """Dice of two masks of one shape, in [0, 1]; 1 when both are empty."""
    a, b = prediction.astype(bool), reference.astype(bool)
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


def hd95_mm(
    prediction: NDArray[Any], reference: NDArray[Any], spacing_mm: tuple[float, float, float]
) -> float:
    """95th percentile of the symmetric surface distance in mm; the volume's diagonal if one mask is empty.

    Args:
        prediction: Mask `(X, Y, Z)`.
        reference: Mask `(X, Y, Z)`.
        spacing_mm: Voxel edge lengths.

    Source: as medpy's `hd95`, which the published evaluation uses: one percentile over the distances of both
    directions together.
    """
    a, b = prediction.astype(bool), reference.astype(bool)
    if not a.any() or not b.any():
        diagonal = float(np.linalg.norm(np.array(a.shape) * np.array(spacing_mm)))
        return 0.0 if a.any() == b.any() else diagonal
    occupied = np.argwhere(a | b)
    low, high = np.maximum(occupied.min(axis=0) - 2, 0), occupied.max(axis=0) + 3
    window = tuple(slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))
    first, second = _surface(a[window]), _surface(b[window])
    to_second = _distance_to(second, spacing_mm)[first]
    to_first = _distance_to(first, spacing_mm)[second]
    return float(np.percentile(np.concatenate([to_second, to_first]), 95))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask voxels with a neighbor outside across a face; the volume's border is outside."""
    return inner_boundary(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]


def _distance_to(surface: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Distance of every voxel to the nearest surface voxel, in mm."""
    # MONAI transforms channel by channel, hence the leading axis.
    return np.asarray(distance_transform_edt(~surface[None], sampling=list(spacing_mm))[0], dtype=np.float64)


def auroc(score: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve by ranks with ties shared, in [0, 1]; `None` when one of the classes is empty.

    Source: Mann & Whitney 1947.
    """
    flags = positive.ravel()
    n_positive = int(flags.sum())
    n_negative = flags.size - n_positive
    if n_positive == 0 or n_negative == 0:
        return None
    _, inverse, counts = np.unique(score.ravel(), return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    mean_rank = last_rank - (counts - 1) / 2.0
    rank_sum = float(mean_rank[inverse.ravel()][flags].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2.0) / (n_positive * n_negative)


def evaluate_case(
    prediction: NDArray[Any],
    reference: NDArray[Any],
    spacing_mm: tuple[float, float, float],
    classes: int,
    uncertainty: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Metrics of one case.

    Args:
        prediction: Class values `(X, Y, Z)`, 0 to `classes`.
        reference: The expert's, same shape.
        spacing_mm: Voxel edge lengths.
        classes: Foreground classes F.
        uncertainty: Map `(X, Y, Z)` in [0, 1], or `None`.

    Returns:
        `dice` and `hd95_mm` averaged over classes, `dice_by_class`, and `error_auroc`: how well the map finds
        the wrongly labeled voxels, over the whole volume (`None` without a map or without errors).

    Raises:
        ValueError: If the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"Prediction and reference differ in shape: {prediction.shape} and {reference.shape}."
        )
    values = range(1, classes + 1)
    dices = [dice(prediction == value, reference == value) for value in values]
    distances = [hd95_mm(prediction == value, reference == value, spacing_mm) for value in values]
    errors = None if uncertainty is None else auroc(uncertainty, prediction != reference)
    return {
        "dice": float(np.mean(dices)),
        "hd95_mm": float(np.mean(distances)),
        "dice_by_class": dices,
        "error_auroc": errors,
    }


def average(cases: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Means of `dice`, `hd95_mm` and, where there is any, `error_auroc` over cases."""
    means = {name: float(np.mean([case[name] for case in cases.values()])) for name in ("dice", "hd95_mm")}
    areas = [case["error_auroc"] for case in cases.values() if case.get("error_auroc") is not None]
    if areas:
        means["error_auroc"] = float(np.mean(areas))
    return means
