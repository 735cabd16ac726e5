"""diversity: a batch of cases that are uncertain and unlike each other, for readers who work side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNCERTAIN_SHARE = 0.25
"""Share of the pool, its most uncertain part, within which a batch is spread out."""
LEAST_CHOICE = 2
"""Cases to choose from for each place in the batch, where the pool has as many."""


def most_uncertain(scores: Sequence[float], size: int) -> list[int]:
    """The `size` highest scores, highest first; the earlier of equal ones first.

    Args:
        scores: Higher = less sure.
        size: Of the batch, >= 0; more than there are gives all.

    Returns:
        Indices into `scores`.
    """
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return order[:size]


def uncertain_part(total: int, size: int, share: float = UNCERTAIN_SHARE) -> int:
    """How many of the most uncertain of `total` cases a batch of `size` is chosen from."""
    return max(math.ceil(share * total), LEAST_CHOICE * size)


def most_uncertain_diverse(
    scores: Sequence[float],
    features: NDArray[np.floating[Any]],
    size: int,
    share: float = UNCERTAIN_SHARE,
    chosen: NDArray[np.floating[Any]] | None = None,
) -> list[int]:
    """A batch spread out over the most uncertain part of the pool: k-center, greedily.

    The first is the most uncertain case, unless some are `chosen`; each further one is, of the uncertain
    part, the case farthest from its nearest neighbor in the batch; of equally far ones the more uncertain.

    Args:
        scores: Higher = less sure, one a case.
        features: `(N, C)`; distances are Euclidean.
        size: Of the batch, >= 0; more than there are gives all.
        share: Which part of the pool counts as uncertain, in (0, 1]; at least `LEAST_CHOICE` cases for each
            place in the batch do.
        chosen: `(M, C)`, the features of cases that count as the batch's beginning; none by default.

    Returns:
        Indices into `scores`, in the order in which they were chosen.

    Raises:
        ValueError: If there are not as many features as scores.

    Source: the greedy 2-approximation of Gonzalez 1985, for active learning as Sener & Savarese 2018; there
    the labeled cases are centers from the start and the whole pool is the choice.
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) != len(scores):
        raise ValueError(
            f"Features of shape {values.shape} do not fit {len(scores)} scores; give (N, C) for N scores."
        )
    part = most_uncertain(scores, uncertain_part(len(scores), size, share))
    choice = values[part]
    nearest = np.full(len(part), np.inf)
    for center in () if chosen is None else np.asarray(chosen, dtype=np.float64):
        nearest = np.minimum(nearest, np.linalg.norm(choice - center, axis=1))
    taken: list[int] = []
    while len(taken) < min(size, len(part)):
        taken.append(int(nearest.argmax()))  # the first of equals: `part` is in order of the score
        nearest = np.minimum(nearest, np.linalg.norm(choice - choice[taken[-1]], axis=1))
        nearest[taken] = -1.0
    return [part[place] for place in taken]
