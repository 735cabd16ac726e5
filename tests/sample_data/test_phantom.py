"""The phantoms themselves: that they look to a network like cardiac MR, not like a drawing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from sample_data.phantom import Phantom, make_phantom

SEED = 2022


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    """The first few cases of the default cohort."""
    return [make_phantom(SEED, index) for index in range(6)]


def test_same_seed_and_index_give_the_same_phantom() -> None:
    first, second = make_phantom(SEED, 2), make_phantom(SEED, 2)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.label, second.label)
    assert first.parameters == second.parameters


def test_grids_stay_in_range(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        rows, columns, slices = phantom.image.shape
        assert 64 <= rows <= 90
        assert 64 <= columns <= 90
        assert 36 <= slices <= 56


def test_label_is_one_atrium_of_plausible_size(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        sizes = np.sort(np.bincount(ndimage.label(phantom.label)[0].ravel())[1:])
        assert sizes[-1] / sizes.sum() > 0.98
        assert 35 < phantom.parameters["atrium_ml"] < 180


def test_affine_is_right_angled_with_the_stated_spacing(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        spacing = np.linalg.norm(phantom.affine[:3, :3], axis=0)
        np.testing.assert_allclose(spacing, phantom.parameters["spacing_mm"], atol=1e-9)
        directions = phantom.affine[:3, :3] / spacing
        np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)


def test_blood_is_bright_but_other_blood_is_as_bright(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        inside = phantom.image[phantom.label == 1]
        outside = phantom.image[phantom.label == 0]
        assert np.median(inside) > 1.25 * np.median(outside)
        # A threshold cannot solve the task: much of the rest is as bright as the atrium.
        assert (outside > np.percentile(inside, 25)).sum() > 0.4 * inside.size


def test_part_of_the_boundary_has_blood_on_both_sides(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        smooth = ndimage.gaussian_filter(phantom.image.astype(float), 1)
        rim = ndimage.binary_dilation(phantom.label, iterations=3) & ~ndimage.binary_dilation(phantom.label)
        bright = (smooth[rim] > 0.8 * np.median(smooth[phantom.label == 1])).mean()
        assert 0.02 < bright < 0.8


def test_noise_floor_is_rician_not_gaussian(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        image = phantom.image
        assert image.min() >= 0
        # Where there is next to no signal the magnitude of complex noise stays above zero.
        assert np.percentile(image, 1) > 0


def test_gain_and_shading_differ_between_scans(phantoms: list[Phantom]) -> None:
    levels = [float(np.median(phantom.image[phantom.label == 1])) for phantom in phantoms]
    assert max(levels) > 2 * min(levels)
