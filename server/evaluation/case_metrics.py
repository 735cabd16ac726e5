"""The rows of cases.csv for one prediction: each class and all merged, with and without largest component."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.evaluation.overlap import dice_and_jaccard, largest_component
from server.evaluation.surface import Spacing, surface_distances

MERGED = "foreground"
"""The class name of a row in which all classes count as one."""
METRICS = (
    "dice", "jaccard", "asd_voxel", "assd_voxel", "hd95_voxel", "asd_mm", "assd_mm", "hd95_mm", "failed",
)  # fmt: skip


def case_rows(
    prediction: NDArray[np.uint8], reference: NDArray[np.uint8], classes: Sequence[str], spacing_mm: Spacing
) -> Iterator[dict[str, Any]]:
    """Metrics of one case.

    Args:
        prediction: Class values `(X, Y, Z)`: 0 and 1 to the number of classes.
        reference: The expert's, same shape.
        classes: Names of values 1, 2, ...
        spacing_mm: Voxel edge lengths.

    Yields:
        `class`, `largest_component` (0 or 1: only the prediction's largest component was kept) and `METRICS`:
        fractions in [0, 1], distances in voxels and in mm, `failed` 1 where exactly one mask is empty.
        One class gives the merged rows only, since its own would be the same.
    """
    masks = [(MERGED, prediction > 0, reference > 0)]
    if len(classes) > 1:
        numbered = enumerate(classes, start=1)
        masks += [(name, prediction == value, reference == value) for value, name in numbered]
    for name, predicted, expected in masks:
        raw = metrics(predicted, expected, spacing_mm)
        kept = largest_component(predicted)
        yield {"class": name, "largest_component": 0, **raw}
        # The mask itself comes back where there was nothing to remove.
        cleaned = raw if kept is predicted else metrics(kept, expected, spacing_mm)
        yield {"class": name, "largest_component": 1, **cleaned}


def metrics(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Spacing
) -> dict[str, float]:
    """`METRICS` of two masks `(X, Y, Z)`."""
    dice, jaccard = dice_and_jaccard(prediction, reference)
    voxels = surface_distances(prediction, reference)
    isotropic = len(set(spacing_mm)) == 1
    millimeters = (
        voxels.scaled(spacing_mm[0]) if isotropic else surface_distances(prediction, reference, spacing_mm)
    )
    return {
        "dice": dice,
        "jaccard": jaccard,
        "asd_voxel": voxels.asd,
        "assd_voxel": voxels.assd,
        "hd95_voxel": voxels.hd95,
        "asd_mm": millimeters.asd,
        "assd_mm": millimeters.assd,
        "hd95_mm": millimeters.hd95,
        "failed": float(voxels.failed),
    }
