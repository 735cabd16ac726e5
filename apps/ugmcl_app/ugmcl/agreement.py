"""agreement: how far several readers of one scan agree, and whose label stands for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .metrics import dice

AGREEMENT_DICE = 0.7
"""Dice from which two readers count as agreeing, in [0, 1]. Source: Zijdenbos et al. 1994 (IEEE Transactions
on Medical Imaging 13(4), 716-724), taken up by Zou et al. 2004 (Academic Radiology 11(2), 178-189): a Dice
above 0.7 is good overlap. It was set for small lesions; large organs deserve more."""


class PairAgreement(NamedTuple):
    """Two readers compared.

    Attributes:
        first: Index of one reader's label.
        second: Index of the other's, greater than `first`.
        dice: Dice of each class in [0, 1], 1 where both left the class out.
    """

    first: int
    second: int
    dice: tuple[float, ...]


def compare_pairs(labels: Sequence[NDArray[Any]], values: Sequence[int]) -> list[PairAgreement]:
    """Compare every two of several labels of one scan, class by class.

    Args:
        labels: Class values `(X, Y, Z)`, all on the scan's grid.
        values: The value of each class, background left out.

    Returns:
        One entry for each pair, ordered by `first` and `second`; none for a single label.

    Raises:
        ValueError: If the shapes differ, or there is no class.
    """
    if not values:
        raise ValueError("There is no class to compare; give the value of one or more.")
    shapes = sorted({label.shape for label in labels})
    if len(shapes) > 1:
        raise ValueError(f"Labels of one scan have one shape; these have {shapes}.")
    return [
        PairAgreement(
            first,
            second,
            tuple(dice(labels[first] == value, labels[second] == value) for value in values),
        )
        for first, second in combinations(range(len(labels)), 2)
    ]


def all_agree(pairs: Sequence[PairAgreement], threshold: float = AGREEMENT_DICE) -> bool:
    """Whether every class of every pair reaches the threshold; a single reader agrees with themselves.

    Args:
        pairs: As from `compare_pairs`.
        threshold: Dice in [0, 1].
    """
    return all(value >= threshold for pair in pairs for value in pair.dice)


def most_agreeing(pairs: Sequence[PairAgreement], count: int) -> int:
    """Index of the label whose mean Dice with the others is greatest; of equals, the first.

    Args:
        pairs: Every pair of `count` labels.
        count: Number of labels, 1 or more.
    """
    sums = np.zeros(count)
    for pair in pairs:
        sums[[pair.first, pair.second]] += np.mean(pair.dice)
    # Rounded: sums of the same numbers in another order must not decide between equals.
    return int(np.argmax(sums.round(12)))
