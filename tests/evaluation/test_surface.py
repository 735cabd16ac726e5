"""Surface distances by hand: two boxes with a known offset, on grids with edges of different length."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from server.evaluation.surface import SurfaceDistances, box_of, directed_distances, surface, surface_distances
from ugmcl.metrics import hd95_mm


def cube(start: tuple[int, int, int], edge: int = 4, size: int = 16) -> NDArray[np.bool_]:
    mask = np.zeros((size, size, size), bool)
    mask[tuple(slice(first, first + edge) for first in start)] = True
    return mask


def test_surface_leaves_out_the_inside_only() -> None:
    assert surface(cube((3, 3, 3))).sum() == 4**3 - 2**3


def test_the_border_of_the_volume_is_surface() -> None:
    assert surface(np.ones((3, 3, 3), bool)).sum() == 26


def test_single_voxels_are_as_far_apart_as_their_offset() -> None:
    a, b = cube((2, 2, 2), edge=1), cube((5, 6, 2), edge=1)
    assert surface_distances(a, b) == SurfaceDistances(5.0, 5.0, 5.0, False)


def test_distance_is_weighed_by_the_spacing_of_each_axis() -> None:
    a, b = cube((2, 2, 2), edge=1), cube((5, 6, 2), edge=1)
    assert surface_distances(a, b, (2.0, 0.5, 1.0)).hd95 == pytest.approx(np.hypot(3 * 2.0, 4 * 0.5))


def test_shifted_cubes_by_hand() -> None:
    # Two cubes of edge 2 (all voxels are surface), one shifted by 1 along x: half of each lies on the other.
    found = surface_distances(cube((4, 4, 4), edge=2), cube((5, 4, 4), edge=2))
    assert (found.asd, found.assd, found.hd95) == (0.5, 0.5, 1.0)


def test_asd_looks_from_the_prediction_only_and_assd_from_both() -> None:
    # 1 voxel predicted; of 8 true ones at distances 0, 1 (3), sqrt 2 (3), sqrt 3 the far ones are missed.
    found = surface_distances(cube((4, 4, 4), edge=1), cube((4, 4, 4), edge=2))
    assert found.asd == 0.0
    assert found.assd == pytest.approx((0 + 3 + 3 * np.sqrt(2) + np.sqrt(3)) / 9)


def test_the_percentile_pools_both_directions() -> None:
    # MONAI's would be the larger of the two directed percentiles.
    rng = np.random.default_rng(0)
    a, b = rng.random((12, 10, 8)) > 0.6, rng.random((12, 10, 8)) > 0.9
    there, back = directed_distances(a, b, (1.0, 1.0, 1.0))
    assert surface_distances(a, b).hd95 == np.percentile(np.concatenate([there, back]), 95)


def test_an_empty_prediction_costs_the_diagonal_and_is_a_failure() -> None:
    reference = np.zeros((3, 4, 12), bool)
    reference[1, 1, 1] = True
    assert surface_distances(np.zeros_like(reference), reference) == SurfaceDistances(13.0, 13.0, 13.0, True)
    assert surface_distances(reference, np.zeros_like(reference), (2.0, 2.0, 2.0)).hd95 == 26.0


def test_two_empty_masks_agree() -> None:
    empty = np.zeros((3, 3, 3), bool)
    assert surface_distances(empty, empty) == SurfaceDistances(0.0, 0.0, 0.0, False)


def test_box_holds_every_voxel_and_its_margin_stops_at_the_volume() -> None:
    mask = np.zeros((5, 6, 7), bool)
    mask[1, 2:4, 6] = True
    assert mask[box_of(mask)].shape == (1, 2, 1)
    assert mask[box_of(mask, margin=2)].shape == (4, 6, 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 3.0), st.floats(0.3, 3.0))
def test_agrees_with_distance_transforms_and_is_symmetric(seed: int, y: float, z: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random((7, 6, 5)) > 0.7, rng.random((7, 6, 5)) > 0.7
    spacing = (1.0, y, z)
    found = surface_distances(a, b, spacing)
    assert found.hd95 == pytest.approx(hd95_mm(a, b, spacing))
    back = surface_distances(b, a, spacing)
    assert (found.hd95, found.assd) == pytest.approx((back.hd95, back.assd))
