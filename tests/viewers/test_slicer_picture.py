"""What 3D Slicer draws: the colors of the uncertainty are on the screen where the map says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import maximum_filter, minimum_filter

from tests.journeys.live_server import LiveServer
from tests.viewers.conftest import OUR_MODULE, RunInSlicer
from tests.viewers.landmark_project import PICTURE_READER

pytestmark = [
    pytest.mark.viewer,
    pytest.mark.timeout(1800),
    pytest.mark.journey("slicer_module_loop"),
]


@pytest.fixture(scope="module")
def picture(run_in_slicer: RunInSlicer, landmark_server: LiveServer) -> dict[str, Any]:
    """Of a case that the loops leave alone."""
    return run_in_slicer("picture", landmark_server.url, PICTURE_READER, str(OUR_MODULE))


def test_colors_are_drawn_where_the_map_is_above_the_threshold_and_nowhere_else(
    picture: dict[str, Any],
) -> None:
    with np.load(picture["folder"] / "pixels.npz") as pixels:
        pixels = dict(pixels)
    uncertainty, threshold = pixels["uncertainty"], picture["threshold"]
    # The view interpolates between voxels: what is between two that disagree may be drawn or not.
    certain = maximum_filter(uncertainty, 3) < threshold
    doubtful = minimum_filter(uncertainty, 3) > threshold
    to_voxel = np.linalg.inv(pixels["uncertainty_to_ras"])
    compared = 0
    for view in range(len(pixels["with_colors"])):
        shown = np.abs(pixels["with_colors"][view].astype(int) - pixels["without"][view]).max(axis=-1) > 8
        rows, columns = np.indices(shown.shape)
        xy = np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)], axis=-1).astype(float)
        where = (xy @ (to_voxel @ pixels["xy_to_ras"][view]).T)[..., :3]
        beyond = ((where < -1) | (where > uncertainty.shape)).any(axis=-1)
        assert not shown[beyond].any()
        # The outer half of the outermost voxels may be drawn or not, too.
        inside = ((where >= 0) & (where <= np.array(uncertainty.shape) - 1)).all(axis=-1)
        at = tuple(np.moveaxis(np.rint(where).astype(int), -1, 0)[:, inside])
        assert shown[inside][doubtful[at]].all()
        assert not shown[inside][certain[at]].any()
        compared += int(doubtful[at].sum())
    assert compared > 1000, "the views show no doubtful voxel, so nothing was compared"
