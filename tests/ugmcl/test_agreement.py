"""How far readers agree, on labels small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ugmcl.agreement import all_agree, compare_pairs, most_agreeing


def row(*values: int) -> NDArray[np.uint8]:
    return np.array(values, np.uint8).reshape(-1, 1, 1)


A, B, C = row(1, 1, 1, 1, 2, 2, 0), row(1, 1, 1, 0, 2, 2, 0), row(1, 0, 0, 0, 2, 0, 0)


def test_every_two_labels_are_compared_class_by_class() -> None:
    pairs = compare_pairs([A, B, C], [1, 2])
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    expected = [(6 / 7, 1.0), (2 / 5, 2 / 3), (2 / 4, 2 / 3)]
    assert [pair.dice for pair in pairs] == [pytest.approx(dice) for dice in expected]


def test_a_class_that_both_leave_out_agrees() -> None:
    assert compare_pairs([A, B], [3])[0].dice == (1.0,)


def test_all_agree_only_if_the_worst_class_of_the_worst_pair_does() -> None:
    pairs = compare_pairs([A, B, C], [1, 2])
    assert all_agree(pairs, 0.4)
    assert not all_agree(pairs, 0.41)
    assert all_agree([], 1.0), "one reader alone"


def test_the_label_that_agrees_most_with_the_others_is_found_and_of_equals_the_first() -> None:
    # Mean Dice over classes and others: A 13/14 + 8/15, B 13/14 + 7/12, C 8/15 + 7/12.
    assert most_agreeing(compare_pairs([A, B, C], [1, 2]), 3) == 1
    assert most_agreeing(compare_pairs([C, A, B], [1, 2]), 3) == 2
    assert most_agreeing(compare_pairs([A, B], [1, 2]), 2) == 0
    assert most_agreeing([], 1) == 0


def test_labels_of_different_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        compare_pairs([A, A[:-1]], [1])
    with pytest.raises(ValueError, match="no class"):
        compare_pairs([A, B], [])
