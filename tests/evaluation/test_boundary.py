"""Distance to a boundary, the band and the distance map by hand."""

import numpy as np
import pytest

from server.evaluation.boundary import (
    boundary_band,
    boundary_distance,
    distance_codes,
    label_boundary_distance,
)
from server.evaluation.error_counts import auroc, count_errors


def half(size: int = 12) -> np.ndarray:
    mask = np.zeros((size, 3, 3), bool)
    mask[: size // 2] = True
    return mask


def test_voxels_on_either_side_are_one_away() -> None:
    assert boundary_distance(half())[:, 1, 1].tolist() == [6, 5, 4, 3, 2, 1, 1, 2, 3, 4, 5, 6]


def test_without_boundary_the_distance_is_infinite() -> None:
    for mask in (np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)):
        assert np.isinf(boundary_distance(mask)).all()


def test_a_boundary_between_two_classes_counts() -> None:
    labels = np.ones((6, 3, 3), np.uint8)
    labels[3:] = 2
    assert label_boundary_distance(labels)[:, 0, 0].tolist() == [3, 2, 1, 1, 2, 3]


def test_band_holds_three_voxels_on_both_sides_of_both_boundaries() -> None:
    moved = np.roll(half(20), 1, axis=0)
    moved[0] = True
    band = boundary_band(boundary_distance(half(20)), boundary_distance(moved))
    assert np.flatnonzero(band[:, 1, 1]).tolist() == list(range(7, 14))


def test_distance_map_falls_by_e_every_one_and_a_half_voxels() -> None:
    codes, levels = distance_codes(boundary_distance(half()))
    shown = levels[codes][:, 1, 1]
    assert shown[5] == pytest.approx(np.exp(-1 / 1.5))
    assert shown[3] == pytest.approx(np.exp(-3 / 1.5))


def test_without_boundary_the_distance_map_is_zero_and_knows_nothing() -> None:
    codes, levels = distance_codes(np.full((2, 2, 2), np.inf))
    assert np.all(levels[codes] == 0)
    wrong = np.arange(8).reshape(2, 2, 2) < 3
    assert auroc(count_errors(codes, wrong, levels)) == 0.5
