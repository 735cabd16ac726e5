"""Batches that are uncertain and unlike each other, by hand."""

import numpy as np
import pytest

from ugmcl.diversity import most_uncertain, most_uncertain_diverse

SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.1]
LINE = np.array([[0.0], [0.1], [4.0], [10.0], [9.5], [0.2], [100.0]])


def test_the_highest_scores_come_first_and_the_earlier_of_equals() -> None:
    assert most_uncertain([0.2, 0.5, 0.5, 0.9], 3) == [3, 1, 2]
    assert most_uncertain([0.2], 5) == [0]
    assert most_uncertain([], 2) == []


def test_each_further_case_is_the_farthest_from_its_nearest_neighbor_in_the_batch() -> None:
    # Within the six most uncertain: 10 is farthest from 0; then 4 is 4 away from 0, 9.5 only 0.5 from 10.
    assert most_uncertain_diverse(SCORES, LINE, 3, share=0.8) == [0, 3, 2]


def test_cases_outside_the_uncertain_part_are_not_chosen_however_far_they_are() -> None:
    assert 6 not in most_uncertain_diverse(SCORES, LINE, 3, share=0.8)
    assert most_uncertain_diverse(SCORES, LINE, 2, share=1.0) == [0, 6]


def test_the_choice_is_at_least_twice_the_batch() -> None:
    # A tenth of seven cases is one; for two places the choice is the four most uncertain.
    assert most_uncertain_diverse(SCORES, LINE, 2, share=0.1) == [0, 3]


def test_what_is_chosen_already_is_kept_away_from() -> None:
    # From 0 and 10 the distances are 0, 0.1, 4, 0, 0.5, 0.2: 4 first, then 9.5.
    assert most_uncertain_diverse(SCORES, LINE, 2, share=0.8, chosen=np.array([[0.0], [10.0]])) == [2, 4]
    assert most_uncertain_diverse(SCORES, LINE, 1, share=0.8, chosen=np.zeros((0, 1))) == [0]


def test_copies_are_taken_last_the_more_uncertain_first() -> None:
    features = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    assert most_uncertain_diverse([0.4, 0.3, 0.2, 0.1], features, 4) == [0, 3, 1, 2]


def test_more_than_there_are_gives_all_and_none_gives_none() -> None:
    assert sorted(most_uncertain_diverse(SCORES, LINE, 9)) == list(range(7))
    assert most_uncertain_diverse(SCORES, LINE, 0) == []
    assert most_uncertain_diverse([], np.zeros((0, 3)), 2) == []


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 7 scores"):
        most_uncertain_diverse(SCORES, LINE[:4], 2)
