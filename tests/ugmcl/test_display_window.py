"""Gray values of a picture from the intensities of a scan."""

import numpy as np
import pytest

from ugmcl.intensities import SAMPLED_VOXELS, display_window, windowed


def test_a_few_extreme_voxels_do_not_darken_the_rest() -> None:
    scan = np.linspace(0, 100, 30**3).reshape(30, 30, 30)
    scan[0, 0, :3] = 1e6
    low, high = display_window(scan)
    assert low == pytest.approx(1.0, abs=0.1)
    assert high == pytest.approx(99.5, abs=0.1)


def test_the_window_of_a_large_scan_is_that_of_all_its_voxels() -> None:
    scan = np.random.default_rng(0).normal(0, 1, (100, 100, 2 * SAMPLED_VOXELS // 10_000 + 7))
    assert display_window(scan) == pytest.approx(tuple(np.percentile(scan, (1, 99.5))), abs=0.03)


def test_a_scan_of_two_values_or_one_has_a_window_too() -> None:
    scan = np.zeros((10, 10, 10), np.int16)
    assert display_window(scan) == (0.0, 1.0)
    scan[0, 0, 0] = 7
    assert display_window(scan) == (0.0, 7.0)


def test_gray_values_run_from_black_to_white_and_are_cut_off_beyond() -> None:
    shown = windowed(np.array([[-5, 0], [5, 10], [25, 10]], np.int16), (0.0, 10.0))
    assert shown.dtype == np.uint8
    assert shown.tolist() == [[0, 0], [128, 255], [255, 255]]
