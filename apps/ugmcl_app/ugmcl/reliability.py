"""reliability: whether the model is as often right as it says, on labeled cases, near the boundary."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

BINS = 10
"""Equal steps of probability as in Guo et al. 2017, fewer than their 15: validation sets are small here."""
BAND_VOXELS = 3
"""Half width of the band: voxels at most 3 away, along each axis, from a boundary of the expert or the model.
The experiments use the same width. Farther away nearly every voxel is sure and right, and with those counted
any model would look well calibrated."""


class Reliability:
    """Counts of one model over cases: predicted probability of foreground against how often it was there."""

    def __init__(self) -> None:
        self._voxels = np.zeros(BINS, np.int64)
        self._predicted = np.zeros(BINS, np.float64)
        self._observed = np.zeros(BINS, np.int64)
        self._cases = 0

    def add(
        self, foreground: NDArray[np.float32], labels: NDArray[np.uint8], reference: NDArray[Any]
    ) -> None:
        """Count one case.

        Args:
            foreground: Probability of any foreground class without dropout, `(X, Y, Z)` in [0, 1].
            labels: The model's class values, same shape.
            reference: The expert's, same shape.
        """
        band = boundary_band(labels, reference)
        probability = np.clip(foreground[band].astype(np.float64), 0.0, 1.0)
        bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
        self._voxels += np.bincount(bins, minlength=BINS)
        self._predicted += np.bincount(bins, weights=probability, minlength=BINS)
        self._observed += np.bincount(bins[reference[band] > 0], minlength=BINS)
        self._cases += 1

    def to_dict(self) -> dict[str, Any] | None:
        """Plain values for JSON; `None` while no voxel was counted.

        Returns:
            `cases`, `voxels` (in the band), `ece` (expected calibration error: the mean of |predicted -
            observed| over voxels, in [0, 1]; Guo et al. 2017), and `bins`, one entry for each step of
            probability that holds voxels: `voxels`, `predicted` (mean probability) and `observed` (share of
            the expert's foreground).
        """
        total = int(self._voxels.sum())
        if total == 0:
            return None
        bins = [
            {"voxels": int(n), "predicted": round(float(p / n), 6), "observed": round(float(o / n), 6)}
            for n, p, o in zip(self._voxels, self._predicted, self._observed, strict=True)
            if n
        ]
        ece = float(np.abs(self._predicted - self._observed).sum() / total)
        return {"cases": self._cases, "voxels": total, "ece": round(ece, 6), "bins": bins}


def boundary_band(labels: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels `(X, Y, Z)` within `BAND_VOXELS` of a boundary of either label map; none if neither has one."""
    band = np.zeros(labels.shape, bool)
    there = np.argwhere((labels > 0) | (reference > 0))
    if len(there) == 0:
        return band
    low, high = there.min(axis=0), there.max(axis=0) + 1
    margin = BAND_VOXELS + 1
    window = tuple(slice(max(0, int(a) - margin), int(b) + margin) for a, b in zip(low, high, strict=True))
    edges = _boundary(labels[window]) | _boundary(reference[window])
    # One pooling an axis: a cube of 7 voxels at the cost of 21 comparisons a voxel instead of 343.
    near = torch.from_numpy(edges)[None, None].float()
    for axis in range(3):
        near = _widest(near, axis)
    band[window] = near[0, 0].numpy() > 0
    return band


def _boundary(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels with a neighbor of another class across a face, on both sides of it."""
    edges = np.zeros(labels.shape, bool)
    for axis in range(3):
        swapped, marked = np.swapaxes(labels, 0, axis), np.swapaxes(edges, 0, axis)
        differs = swapped[1:] != swapped[:-1]
        marked[1:] |= differs
        marked[:-1] |= differs
    return edges


def _widest(values: Tensor, axis: int) -> Tensor:
    size, padding = [1, 1, 1], [0, 0, 0]
    size[axis], padding[axis] = 2 * BAND_VOXELS + 1, BAND_VOXELS
    return F.max_pool3d(values, size, stride=1, padding=padding)
