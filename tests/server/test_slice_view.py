"""Slices as radiologists expect them: every voxel says where it lies, whatever the file's axes are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from server.slice_view import PLANES, PatientAxes, cut, pixel_mm

SHAPE = (4, 5, 6)
SPACING = (1.0, 2.0, 3.0)
"""Of the patient's axes: right, anterior, superior."""


def stored(order: tuple[int, ...], flips: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A scan whose voxels hold 100 r + 10 a + s, its axes permuted and flipped; and its affine."""
    right, anterior, superior = np.indices(SHAPE)
    array = np.transpose(100 * right + 10 * anterior + superior, order)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, patient in enumerate(order):
        affine[patient, axis] = SPACING[patient] * flips[axis]
        if flips[axis] < 0:
            array = np.flip(array, axis)
            affine[patient, 3] = SPACING[patient] * (SHAPE[patient] - 1)
    return array, affine


ALL = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@pytest.mark.parametrize(("order", "flips"), ALL)
def test_each_corner_of_each_plane_is_where_its_edges_say(
    order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    array, affine = stored(order, flips)
    axes = PatientAxes(affine)
    turned = axes.turned(array)
    assert axes.spacing_mm == SPACING
    # Seen from the feet: the patient's right (r = 3) at the left, the front (a = 4) up.
    axial = cut(turned, 2, 1)
    assert (axial[0, 0], axial[0, -1], axial[-1, 0]) == (341, 41, 301)
    # From the front: right at the left, the head (s = 5) up.
    coronal = cut(turned, 1, 2)
    assert (coronal[0, 0], coronal[0, -1], coronal[-1, 0]) == (325, 25, 320)
    # From the left: the front at the left, the head up.
    sagittal = cut(turned, 0, 3)
    assert (sagittal[0, 0], sagittal[0, -1], sagittal[-1, 0]) == (345, 305, 340)


@pytest.mark.parametrize(("order", "flips"), ALL[::7])
def test_a_slice_of_the_file_is_found_among_those_of_the_patient(
    order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    array, affine = stored(order, flips)
    axes = PatientAxes(affine)
    for axis in range(3):
        place = axes.place(axis, 1, array.shape[axis])
        shown = cut(axes.turned(array), axes.plane(axis), place)
        assert sorted(shown.ravel()) == sorted(np.take(array, 1, axis).ravel())


def test_the_axes_of_an_oblique_scan_are_the_nearest_of_the_patients() -> None:
    turn = np.deg2rad(30)
    affine = np.eye(4)
    affine[:2, :2] = 1.5 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    axes = PatientAxes(affine)
    assert [axes.plane(axis) for axis in range(3)] == [0, 1, 2]
    assert axes.spacing_mm == pytest.approx((1.5, 1.5, 1.0))


def test_pixels_have_the_spacing_of_the_axes_they_lie_along() -> None:
    assert [pixel_mm(SPACING, number) for number in range(3)] == [(3.0, 2.0), (3.0, 1.0), (2.0, 1.0)]
    assert [plane.name for plane in PLANES] == ["sagittal", "coronal", "axial"]
