"""Rows of cases.csv: overlap by hand, largest component, classes, failures, voxels beside millimeters."""

import numpy as np
import pytest

from server.evaluation.case_metrics import MERGED, case_rows, metrics
from server.evaluation.overlap import dice_and_jaccard, largest_component


def test_overlap_by_hand() -> None:
    a = np.array([1, 1, 1, 0, 0], bool)
    b = np.array([0, 1, 1, 1, 0], bool)
    assert dice_and_jaccard(a, b) == (4 / 6, 2 / 4)


@pytest.mark.parametrize(
    ("one", "other", "expected"), [(0, 0, (1.0, 1.0)), (0, 1, (0.0, 0.0)), (1, 0, (0.0, 0.0))]
)
def test_overlap_of_empty_masks(one: int, other: int, expected: tuple[float, float]) -> None:
    assert dice_and_jaccard(np.full(3, one, bool), np.full(3, other, bool)) == expected


def test_largest_component_joins_corners_and_drops_the_rest() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 1] = True  # one component through corners
    mask[5, 5, 4:6] = True
    kept = largest_component(mask)
    assert kept.sum() == 3
    assert kept[0, 0, 0]
    assert largest_component(np.zeros((3, 3, 3), bool)).sum() == 0


def test_a_far_speck_counts_without_and_not_with_largest_component() -> None:
    true = np.zeros((12, 12, 12), np.uint8)
    true[2:5, 2:5, 2:5] = 1
    predicted = true.copy()
    predicted[10, 10, 10] = 1
    raw, kept = case_rows(predicted, true, ["organ"], (1.0, 1.0, 1.0))
    assert (raw["largest_component"], kept["largest_component"]) == (0, 1)
    assert raw["dice"] == pytest.approx(54 / 55)
    assert raw["asd_voxel"] > 0
    assert (kept["dice"], kept["asd_voxel"], kept["hd95_voxel"]) == (1.0, 0.0, 0.0)


def test_several_classes_have_rows_of_their_own_beside_the_merged_one() -> None:
    true = np.zeros((6, 6, 6), np.uint8)
    true[1:3, 1:5, 1:5], true[3:5, 1:5, 1:5] = 1, 2
    swapped = np.where(true == 1, 2, np.where(true == 2, 1, 0)).astype(np.uint8)
    rows = list(case_rows(swapped, true, ["front", "back"], (1.0, 1.0, 1.0)))
    dice = {row["class"]: row["dice"] for row in rows if not row["largest_component"]}
    assert dice == {MERGED: 1.0, "front": 0.0, "back": 0.0}


def test_millimeters_follow_the_spacing_also_where_edges_differ() -> None:
    a, b = np.zeros((2, 8, 8, 8), bool)
    a[2, 2, 2], b[5, 6, 2] = True, True
    assert metrics(a, b, (0.5, 0.5, 0.5))["hd95_mm"] == 2.5
    uneven = metrics(a, b, (1.0, 2.0, 1.0))
    assert (uneven["hd95_voxel"], uneven["hd95_mm"]) == (5.0, pytest.approx(np.hypot(3, 8)))


def test_an_empty_prediction_is_a_failure_and_never_perfect() -> None:
    true = np.zeros((3, 4, 12), bool)
    true[1, 1, 1] = True
    found = metrics(np.zeros_like(true), true, (1.0, 1.0, 1.0))
    assert (found["dice"], found["jaccard"], found["hd95_voxel"], found["failed"]) == (0.0, 0.0, 13.0, 1.0)
    both = metrics(np.zeros_like(true), np.zeros_like(true), (1.0, 1.0, 1.0))
    assert (both["dice"], both["hd95_voxel"], both["failed"]) == (1.0, 0.0, 0.0)
