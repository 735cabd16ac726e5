"""From the file's grid to the working grid and back, for every orientation."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from ugmcl.config import PreprocessConfig
from ugmcl.preprocessing import (
    orient,
    orientation,
    oriented_spacing,
    preprocess_image,
    preprocess_label,
    restore,
    standardize,
    working_grid,
)
from ugmcl.volume import Volume

ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
NATIVE = PreprocessConfig(spacing_mm=(1.0, 1.0, 1.0))


def affine_of(
    order: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> NDArray[np.float64]:
    """File axis `order[i]` runs along world axis i with the sign `signs[i]`; spacing is in file axes."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for world, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * spacing[axis]
    affine[:3, 3] = (-7.0, 11.0, 3.0)
    return affine


def oblique(rng: np.random.Generator, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    return affine


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_all_48_orientations_come_to_the_same_working_image_and_back_exactly(
    order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    world = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)  # along R, A, S
    file = np.transpose(np.flip(world, [i for i in range(3) if signs[i] < 0]), np.argsort(order))
    volume = Volume(file, affine_of(order, signs))
    image, grid = preprocess_image(volume, NATIVE)
    assert torch.equal(image[0], torch.from_numpy(standardize(world, NATIVE)))
    assert (orient(file, grid) == world).all()
    back = restore(torch.from_numpy(world.copy())[None], grid)
    assert back.shape[1:] == file.shape
    assert (back[0].numpy() == file).all()
    assert (restore(preprocess_label(file.astype(np.uint8), grid)[None], grid)[0].numpy() == file).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_any_oblique_grid_comes_back_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = rng.normal(size=tuple(rng.integers(1, 7, 3)))
    volume = Volume(array, oblique(rng, (1.0, 1.0, 1.0)))
    grid = working_grid(volume, NATIVE)
    assert sorted(grid.axes) == [0, 1, 2]
    there = orient(array, grid)
    assert (restore(torch.from_numpy(there)[None], grid)[0].numpy() == array).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_the_working_axes_run_to_the_right_the_front_and_up(seed: int) -> None:
    affine = oblique(np.random.default_rng(seed), (1.0, 2.0, 3.0))
    axes, flips = orientation(affine)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = [
        directions[i, axis] * (-1 if flip else 1)
        for i, (axis, flip) in enumerate(zip(axes, flips, strict=True))
    ]
    assert min(along) >= 0
    best = max(sum(abs(directions[i, p[i]]) for i in range(3)) for p in itertools.permutations(range(3)))
    assert sum(along) == pytest.approx(best)


def test_spacing_follows_its_axis() -> None:
    volume = Volume(np.zeros((2, 3, 4)), affine_of((2, 0, 1), (1, -1, 1), (0.5, 2.0, 3.0)))
    assert oriented_spacing(volume) == pytest.approx((3.0, 0.5, 2.0))
    grid = working_grid(volume, NATIVE)
    assert grid.oriented_shape == (4, 2, 3)
    assert grid.shape == (12, 1, 6)


def test_spacings_within_one_percent_are_not_resampled() -> None:
    assert working_grid(Volume(np.zeros((50, 50, 50)), np.diag([1.009, 1, 0.991, 1])), NATIVE).shape == (
        50,
        50,
        50,
    )
    assert working_grid(Volume(np.zeros((50, 50, 50)), np.diag([1.02, 1, 0.5, 1])), NATIVE).shape == (
        51,
        50,
        25,
    )


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (1.5, 0.8, 2.5), (3.0, 1.0, 0.7)])
def test_a_resampled_label_comes_back_within_a_voxel(spacing: tuple[float, float, float]) -> None:
    edge = np.array([36, 40, 32])
    x, y, z = np.indices(edge)
    label = ((x - 17) ** 2 + (y - 21) ** 2 + (z - 15) ** 2 < 100).astype(np.uint8)
    volume = Volume(label.astype(np.float32), affine_of((1, 0, 2), (-1, 1, -1), spacing))
    grid = working_grid(volume, NATIVE)
    back = restore(preprocess_label(label, grid)[None].float(), grid)[0].numpy() > 0.5
    wrong = np.argwhere(back != (label > 0))
    # No wrong voxel lies further from the surface than one voxel of the coarser of the two grids.
    reach = np.maximum(1.0, 1.0 / np.array(spacing)).max() + 0.01
    distance = np.abs(np.linalg.norm(wrong - np.array([17, 21, 15]), axis=1) - 10.0)
    assert distance.max(initial=0.0) <= reach
    overlap = 2 * (back & (label > 0)).sum() / (back.sum() + label.sum())
    assert overlap > 0.9


def test_resampling_keeps_the_center_of_mass() -> None:
    # Grids that share their outer edges do not shift the image; sharing voxel centers 0 and n-1 would.
    image = np.zeros((20, 20, 20), np.float32)
    image[4:8, 10:14, 12:16] = 1.0
    values, grid = preprocess_image(Volume(image, np.diag([2.0, 2.0, 2.0, 1.0])), NATIVE)
    positive = (values[0] - values.min()).double()
    position = torch.arange(40).double()
    center = [
        (positive.sum(tuple(o for o in range(3) if o != a)) * position).sum() / positive.sum()
        for a in range(3)
    ]
    assert [float(c) for c in center] == pytest.approx([2 * c + 0.5 for c in (5.5, 11.5, 13.5)], abs=1e-4)
    assert grid.shape == (40, 40, 40)


def test_a_scan_has_zero_mean_and_unit_variance_whatever_its_intensities() -> None:
    rng = np.random.default_rng(0)
    config = PreprocessConfig(clip_percentiles=(0.0, 100.0))
    array = rng.normal(size=(12, 12, 12))
    plain = standardize(array, config)
    assert plain.dtype == np.float32
    assert plain.mean() == pytest.approx(0.0, abs=1e-5)
    assert plain.std() == pytest.approx(1.0, abs=1e-5)
    assert np.allclose(standardize(array + 1e6, config), plain, atol=1e-4)


def test_outliers_are_clipped_to_the_percentiles() -> None:
    array = np.random.default_rng(0).normal(size=(20, 20, 20))
    outlier = array.copy()
    outlier[0, 0, 0] = 1e9
    assert np.allclose(standardize(outlier, NATIVE)[1:], standardize(array, NATIVE)[1:], atol=0.02)
    assert standardize(outlier, NATIVE)[0, 0, 0] < 3
    assert standardize(outlier, PreprocessConfig(clip_percentiles=(0.0, 100.0)))[0, 0, 0] > 50


def test_a_structure_of_a_few_voxels_in_an_even_background_is_not_clipped_away() -> None:
    array = np.zeros((20, 20, 20))
    array[4:7, 4:7, 4:7] = 1.0
    assert standardize(array, NATIVE)[5, 5, 5] > 5


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -3.7])
def test_a_constant_scan_becomes_zero(value: float) -> None:
    assert (standardize(np.full((7, 9, 11), value), NATIVE) == 0).all()


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_any_number_type_gives_the_same_image(kind: type[np.generic]) -> None:
    array = np.random.default_rng(0).integers(0, 200, (6, 6, 6))
    image, _ = preprocess_image(Volume(array.astype(kind), np.eye(4)), NATIVE)
    assert image.dtype == torch.float32
    assert np.allclose(image[0].numpy(), standardize(array.astype(np.float64), NATIVE), atol=1e-6)
