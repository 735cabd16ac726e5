"""Signed distance maps by hand-computed numbers, and the properties the losses rely on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from ugmcl import distance
from ugmcl.distance import (
    class_distance_maps,
    inner_boundary,
    published_maps_of_masks,
    published_signed_distance_map,
    sdm_to_probability,
    separable_distance,
    signed_distance_map,
)


def masks() -> st.SearchStrategy[NDArray[np.bool_]]:
    def draw(shape: tuple[int, int, int], seed: int, share: float) -> NDArray[np.bool_]:
        return np.random.default_rng(seed).random(shape) < share

    edge = st.integers(1, 7)
    return st.builds(draw, st.tuples(edge, edge, edge), st.integers(0, 10_000), st.floats(0.02, 0.98))


def test_the_surface_lies_half_a_voxel_from_both_sides() -> None:
    mask = np.zeros((6, 1, 1), bool)
    mask[:3] = True
    assert signed_distance_map(mask, 10.0).ravel() * 10 == pytest.approx([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])


def test_distances_are_measured_through_all_three_axes() -> None:
    mask = np.zeros((7, 7, 7), bool)
    mask[3, 3, 3] = True
    sdm = signed_distance_map(mask, 100.0) * 100
    assert sdm[3, 3, 3] == pytest.approx(-0.5)
    for neighbor in ((2, 3, 3), (3, 2, 3), (3, 3, 2)):
        assert sdm[neighbor] == pytest.approx(0.5)
    assert sdm[0, 0, 0] == pytest.approx(np.sqrt(27) - 0.5, rel=1e-5)
    assert sdm[3, 3, 6] == pytest.approx(2.5)


def test_both_sides_share_one_scale_and_saturate_at_the_truncation() -> None:
    mask = np.zeros((20, 1, 1), bool)
    mask[:10] = True
    sdm = signed_distance_map(mask, 4.0).ravel()
    assert sdm[[0, 5, 6, 9, 10, 13, 14, 19]] == pytest.approx([-1, -1, -0.875, -0.125, 0.125, 0.875, 1, 1])


@pytest.mark.parametrize(("filled", "value"), [(False, 1.0), (True, -1.0)])
def test_an_empty_or_full_mask_has_a_defined_map(filled: bool, value: float) -> None:
    assert (signed_distance_map(np.full((3, 4, 5), filled), 8.0) == value).all()


@settings(max_examples=60, deadline=None)
@given(mask=masks())
def test_the_map_gives_its_mask_back_exactly(mask: NDArray[np.bool_]) -> None:
    sdm = signed_distance_map(mask, 8.0)
    assert ((sdm < 0) == mask).all()
    assert sdm.dtype == np.float32
    assert np.abs(sdm).max() <= 1


@settings(max_examples=60, deadline=None)
@given(mask=masks())
def test_inverting_the_mask_negates_the_map(mask: NDArray[np.bool_]) -> None:
    assert (signed_distance_map(~mask, 8.0) == -signed_distance_map(mask, 8.0)).all()


@settings(max_examples=30, deadline=None)
@given(mask=masks(), axis=st.integers(0, 2))
def test_mirroring_commutes_with_the_map(mask: NDArray[np.bool_], axis: int) -> None:
    assert (
        signed_distance_map(np.flip(mask, axis), 8.0) == np.flip(signed_distance_map(mask, 8.0), axis)
    ).all()


def test_the_published_map_scales_each_side_by_its_own_maximum_and_zeroes_the_inner_boundary() -> None:
    mask = np.zeros((9, 1, 1), bool)
    mask[2:7] = True
    # inside distances 1 2 3 2 1, of which the ends are boundary; outside distances 2 1 | 1 2
    expected = [1, 0.5, 0, -2 / 3, -1, -2 / 3, 0, 0.5, 1]
    assert published_signed_distance_map(mask).ravel() == pytest.approx(expected)


def test_the_published_map_loses_the_boundary_voxels_of_its_mask() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[2:7, 2:7, 2:7] = True
    sdm = published_signed_distance_map(mask)
    assert (sdm < 0).sum() == 27
    assert ((sdm <= 0) == mask).all()


@pytest.mark.parametrize("filled", [False, True])
def test_the_published_map_of_an_empty_or_full_crop_is_zero(filled: bool) -> None:
    assert (published_signed_distance_map(np.full((3, 3, 3), filled)) == 0).all()


def test_the_crop_border_is_no_boundary() -> None:
    mask = np.zeros((5, 5, 5), bool)
    mask[:2] = True
    boundary = inner_boundary(mask)
    assert boundary[1].all()
    assert boundary.sum() == 25


def test_each_class_has_its_own_map() -> None:
    label = np.zeros((6, 4, 4), np.uint8)
    label[1:3], label[4:] = 1, 2
    maps = class_distance_maps(label, 3, "between_voxels", 8.0)
    assert maps.shape == (3, 6, 4, 4)
    assert ((maps[0] < 0) == (label == 1)).all()
    assert ((maps[1] < 0) == (label == 2)).all()
    assert (maps[2] == 1).all()
    assert class_distance_maps(label, 2, "published").shape == (2, 6, 4, 4)


def test_the_way_back_to_a_probability_is_a_falling_sigmoid() -> None:
    probability = sdm_to_probability(torch.tensor([-1.0, -0.0625, 0.0, 0.0625, 1.0]), 24.0)
    assert probability.tolist() == pytest.approx([1.0, 0.817574, 0.5, 0.182426, 0.0], abs=1e-5)


def test_the_shipped_sharpness_turns_within_about_one_voxel() -> None:
    mask = np.zeros((8, 1, 1), bool)
    mask[:4] = True
    probability = sdm_to_probability(torch.from_numpy(signed_distance_map(mask, 8.0)), 24.0).ravel()
    assert ((probability > 0.5).numpy() == mask.ravel()).all()
    assert probability[2] > 0.98
    assert probability[5] < 0.02


@settings(max_examples=40, deadline=None)
@given(mask=masks(), reach=st.sampled_from([None, 1, 3]))
def test_the_transform_without_scipy_gives_the_same_bits_within_its_reach(
    mask: NDArray[np.bool_], reach: int | None
) -> None:
    mask[0, 0, 0] = False
    exact = distance._distance_to_outside(mask)
    found = separable_distance(mask, reach)
    near = exact <= (np.inf if reach is None else reach)
    assert np.array_equal(found[near], exact[near])
    assert (found[~near] > (reach or 0)).all()


def test_a_machine_without_scipy_makes_the_same_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((12, 9, 10), bool)
    mask[3:8, 2:7, 4:8] = True
    with_scipy = published_signed_distance_map(mask), signed_distance_map(mask, 3.0)
    monkeypatch.setattr(distance, "HAS_SCIPY", False)
    without = published_signed_distance_map(mask), signed_distance_map(mask, 3.0)
    assert all(np.array_equal(one, other) for one, other in zip(with_scipy, without, strict=True))


@settings(max_examples=40, deadline=None)
@given(mask=masks())
def test_published_maps_of_a_whole_batch_have_the_bits_of_single_ones(mask: NDArray[np.bool_]) -> None:
    flipped = mask[::-1].copy()
    both = torch.from_numpy(np.stack([mask, flipped]))[:, None]
    expected = np.stack([published_signed_distance_map(one) for one in (mask, flipped)])[:, None]
    assert torch.equal(published_maps_of_masks(both), torch.from_numpy(expected))


def test_published_maps_of_a_batch_are_zero_in_empty_and_full_crops_only() -> None:
    half = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    half[:, :2] = True
    maps = published_maps_of_masks(torch.stack([half * False, half, half | True]))
    assert maps[0].abs().max() == maps[2].abs().max() == 0
    assert maps[1].abs().max() == 1
