"""Overlap of two masks, and the largest component, with and without which the literature reports."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def dice_and_jaccard(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[float, float]:
    """Dice and Jaccard of two masks of one shape, in [0, 1].

    Both empty: 1 and 1, nothing was there and nothing was found. One empty: 0 and 0.
    """
    intersection = int(np.count_nonzero(prediction & reference))
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    if total == 0:
        return 1.0, 1.0
    return 2.0 * intersection / total, intersection / (total - intersection)


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest 26-connected component of a mask `(X, Y, Z)`, the first of two as large; empty stays so.

    Source: `getLargestCC` of the DTC code (skimage's `label`, whose default is full connectivity).
    """
    labeled: Any
    labeled, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count <= 1:
        return mask
    sizes = np.bincount(labeled.ravel())
    sizes[0] = 0
    return np.asarray(labeled == int(sizes.argmax()))
