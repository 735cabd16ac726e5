"""Which slices of a map to look at first, and where in them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST_SCORE = 0.25
"""Slices with less than this part of the worst slice's mean uncertainty are not worth a jump."""
LEAST_GAP = 3
"""Voxels between two slices of one axis, as in the server's `top_slices`: neighbors show the same."""


class Place(NamedTuple):
    """A slice of a volume.

    Attributes:
        axis: 0 to 2, in the file's voxel order.
        slice_index: Along that axis.
        score: Its mean uncertainty over that of the least sure slice, in (0, 1].
    """

    axis: int
    slice_index: int
    score: float


def least_sure_first(uncertainty: NDArray[Any], named: list[dict[str, Any]]) -> list[Place]:
    """The slices to visit, least sure first.

    Args:
        uncertainty: Map `(X, Y, Z)` in [0, 1].
        named: `top_slices` of the server's reply; they lead, and the map adds those further down.
    """
    chosen = [Place(int(s["axis"]), int(s["index"]), float(s["score"])) for s in named]
    chosen = [p for p in chosen if 0 <= p.axis < 3 and 0 <= p.slice_index < uncertainty.shape[p.axis]]
    means = [
        uncertainty.mean(axis=tuple(other for other in range(3) if other != axis), dtype=np.float64)
        for axis in range(3)
    ]
    peak = max(float(values.max()) for values in means)
    if peak <= 0:
        return chosen
    candidates = [
        Place(axis, index, float(value) / peak)
        for axis, values in enumerate(means)
        for index, value in enumerate(values)
        if value >= LEAST_SCORE * peak
    ]
    for place in sorted(candidates, key=lambda p: (-p.score, p.axis, p.slice_index)):
        if all(p.axis != place.axis or abs(p.slice_index - place.slice_index) >= LEAST_GAP for p in chosen):
            chosen.append(place)
    return chosen


def center_of_doubt(uncertainty: NDArray[Any], place: Place) -> tuple[int, int, int]:
    """The voxel `(i, j, k)` about which the uncertainty of a slice lies."""
    plane = uncertainty.take(place.slice_index, axis=place.axis).astype(np.float64)
    total = plane.sum()
    within = [
        round(float((along * plane).sum() / total)) if total > 0 else length // 2
        for along, length in zip(np.indices(plane.shape), plane.shape)
    ]
    within.insert(place.axis, place.slice_index)
    return within[0], within[1], within[2]
