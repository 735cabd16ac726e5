"""Metrics on shapes whose values are known."""

import numpy as np
import pytest

from ugmcl.metrics import auroc, average, dice, evaluate_case, hd95_mm


def box(low: tuple[int, int, int], high: tuple[int, int, int], edge: int = 20) -> np.ndarray:
    mask = np.zeros((edge, edge, edge), np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return mask


def test_dice_of_known_overlap() -> None:
    a, b = box((0, 0, 0), (4, 4, 4)), box((2, 0, 0), (6, 4, 4))
    assert dice(a, b) == 0.5
    assert dice(a, a) == 1.0
    assert dice(a, box((10, 10, 10), (12, 12, 12))) == 0.0


def test_two_empty_masks_agree_and_one_empty_mask_fails() -> None:
    empty, full = box((0, 0, 0), (0, 0, 0)), box((2, 2, 2), (5, 5, 5))
    assert dice(empty, empty) == 1.0
    assert hd95_mm(empty, empty, (1, 1, 1)) == 0.0
    assert dice(empty, full) == 0.0
    assert hd95_mm(empty, full, (1, 2, 2)) == pytest.approx(20 * 3.0)
    assert hd95_mm(full, empty, (1, 2, 2)) == pytest.approx(20 * 3.0)


@pytest.mark.parametrize(("axis", "expected"), [(0, 1.5), (1, 3.0), (2, 7.5)])
def test_the_distance_of_two_voxels_is_in_millimeters_of_their_axis(axis: int, expected: float) -> None:
    a, b = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    a[4, 4, 4] = True
    shifted = [4, 4, 4]
    shifted[axis] += 3
    b[tuple(shifted)] = True
    assert hd95_mm(a, b, (0.5, 1.0, 2.5)) == pytest.approx(expected)


def test_identical_masks_have_distance_zero_also_at_the_border() -> None:
    mask = box((0, 0, 0), (20, 5, 5))
    assert hd95_mm(mask, mask, (1, 1, 1)) == 0.0


def test_a_box_grown_by_one_slab_is_as_far_as_the_slab() -> None:
    a, b = box((5, 5, 5), (9, 9, 9)), box((5, 5, 5), (9, 9, 11))
    # 16 + of the 68 surface voxels lie 2 voxels of 2 mm off: more than 5 %
    assert hd95_mm(a, b, (1, 1, 2)) == pytest.approx(4.0)


def test_a_few_stray_voxels_do_not_count() -> None:
    a, b = box((3, 3, 3), (15, 15, 15)), box((3, 3, 3), (15, 15, 15))
    b[19, 19, 19] = 1
    assert hd95_mm(a, b, (1, 1, 1)) == 0.0


def test_auroc_by_hand() -> None:
    score = np.array([0.1, 0.4, 0.35, 0.8])
    assert auroc(score, np.array([False, False, True, True])) == 0.75
    assert auroc(score, score > 0.3) == 1.0
    assert auroc(-score, score > 0.3) == 0.0


def test_auroc_shares_ties() -> None:
    assert auroc(np.zeros(5), np.array([True, False, True, False, False])) == 0.5
    # pairs: (0.5 beats 0), (0.5 ties 0.5), (1 beats 0), (1 beats 0.5)
    assert auroc(np.array([0.5, 0.0, 1.0, 0.5]), np.array([True, False, True, False])) == 3.5 / 4


def test_auroc_equals_the_chance_that_a_positive_outranks_a_negative() -> None:
    rng = np.random.default_rng(0)
    score, flags = rng.integers(0, 6, 80) / 6.0, rng.random(80) < 0.3
    positive, negative = score[flags][:, None], score[~flags][None]
    pairs = ((positive > negative) + 0.5 * (positive == negative)).mean()
    assert auroc(score, flags) == pytest.approx(pairs)


def test_auroc_is_undefined_without_both_classes() -> None:
    assert auroc(np.arange(3.0), np.zeros(3, bool)) is None
    assert auroc(np.arange(3.0), np.ones(3, bool)) is None


def test_a_case_is_averaged_over_its_classes() -> None:
    reference = box((2, 2, 2), (6, 6, 6))
    reference[10:14, 10:14, 10:14] = 2
    prediction = reference.copy()
    prediction[prediction == 2] = 0
    prediction[12:16, 10:14, 10:14] = 2
    found = evaluate_case(prediction, reference, (1, 1, 1), 2)
    assert found["dice_by_class"] == [1.0, 0.5]
    assert found["dice"] == 0.75
    assert found["hd95_mm"] == pytest.approx(1.0)
    assert found["error_auroc"] is None


def test_a_map_that_marks_the_errors_has_area_one_and_a_perfect_case_has_none() -> None:
    reference = box((2, 2, 2), (6, 6, 6))
    prediction = reference.copy()
    prediction[2] = 0
    errors = (prediction != reference).astype(np.float32)
    assert evaluate_case(prediction, reference, (1, 1, 1), 1, errors)["error_auroc"] == 1.0
    assert evaluate_case(reference, reference, (1, 1, 1), 1, errors)["error_auroc"] is None


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(20, 20, 20\) and \(9, 9, 9\)"):
        evaluate_case(box((0, 0, 0), (1, 1, 1)), box((0, 0, 0), (1, 1, 1), 9), (1, 1, 1), 1)


def test_the_average_leaves_undefined_areas_out() -> None:
    cases = {
        "a": {"dice": 0.5, "hd95_mm": 2.0, "error_auroc": None},
        "b": {"dice": 1.0, "hd95_mm": 4.0, "error_auroc": 0.9},
    }
    assert average(cases) == pytest.approx({"dice": 0.75, "hd95_mm": 3.0, "error_auroc": 0.9})
