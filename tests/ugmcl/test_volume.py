"""A scan on its own grid."""

import numpy as np
import pytest

from ugmcl.volume import Volume


def test_spacing_is_read_from_an_oblique_affine() -> None:
    angle = np.deg2rad(30)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.5, 2.0, 3.0])
    assert Volume(np.zeros((2, 3, 4)), affine).spacing_mm == pytest.approx((0.5, 2.0, 3.0))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 2)])
def test_a_volume_has_three_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{len(shape)}"):
        Volume(np.zeros(shape), np.eye(4))


def test_an_affine_is_four_by_four() -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        Volume(np.zeros((2, 2, 2)), np.eye(3))
