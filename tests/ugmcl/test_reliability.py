"""Calibration on cases whose counts are known by hand."""

import numpy as np
import pytest

from ugmcl.reliability import BAND_VOXELS, Reliability, boundary_band


def half(edge: int = 20, at: int = 10) -> np.ndarray:
    """Class 1 from `at` on along the first axis."""
    label = np.zeros((edge, 4, 4), np.uint8)
    label[at:] = 1
    return label


def test_the_band_reaches_the_same_width_on_both_sides_of_either_boundary() -> None:
    band = boundary_band(half(at=8), half(at=12))
    (rows,) = np.nonzero(band.all(axis=(1, 2)))
    assert band.any(axis=(1, 2)).sum() == len(rows)
    assert (rows.min(), rows.max()) == (8 - 1 - BAND_VOXELS, 12 + BAND_VOXELS)


def test_the_band_is_a_cube_around_a_single_voxel_and_ends_at_the_scan() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[10, 10, 0] = 1
    reach = 2 * (BAND_VOXELS + 1) + 1
    # Its boundary is the voxel and its face neighbors: a cross of 3, widened by 3 voxels.
    band = boundary_band(label, np.zeros_like(label))
    assert np.array_equal(np.ptp(np.argwhere(band), axis=0) + 1, [reach, reach, BAND_VOXELS + 2])
    assert not boundary_band(np.zeros_like(label), np.zeros_like(label)).any()


def test_counts_by_hand_and_the_error_they_give() -> None:
    reference = half()
    probability = np.zeros(reference.shape, np.float32)
    probability[:10] = 0.25  # in the band 4 rows of 16 voxels, none of them foreground
    probability[10:] = 0.95  # in the band 4 rows of 16 voxels, all of them foreground
    counts = Reliability()
    counts.add(probability, reference, reference)
    assert counts.to_dict() == {
        "cases": 1,
        "voxels": 128,
        "ece": pytest.approx((0.25 + 0.05) / 2),
        "bins": [
            {"voxels": 64, "predicted": 0.25, "observed": 0.0},
            {"voxels": 64, "predicted": 0.95, "observed": 1.0},
        ],
    }


def test_cases_add_up_and_a_probability_of_one_is_in_the_last_bin() -> None:
    counts, reference = Reliability(), half()
    counts.add(reference.astype(np.float32), reference, reference)
    counts.add(reference.astype(np.float32), reference, half(at=11))
    found = counts.to_dict()
    assert found is not None
    assert (found["cases"], [entry["predicted"] for entry in found["bins"]]) == (2, [0.0, 1.0])
    # 5 rows of the second case are called foreground, of which one is not: 1 of 9 rows.
    assert [entry["observed"] for entry in found["bins"]] == [0.0, pytest.approx(8 / 9, abs=1e-5)]


def test_nothing_to_count_gives_nothing() -> None:
    counts, empty = Reliability(), np.zeros((8, 8, 8), np.uint8)
    assert counts.to_dict() is None
    counts.add(empty.astype(np.float32), empty, empty)
    assert counts.to_dict() is None
