"""A voxel that holds its own position is there after every path through the server and into a viewer.

The scans hold their R, A or S in mm (`landmarks`). What the model finds in them is where that is above the
middle, so its segmentation must begin at that millimeter on every grid, and its doubt must lie there.
"""

from __future__ import annotations

import io
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.journeys.live_server import LiveServer
from tests.journeys.replies import nifti_of
from tests.viewers.landmarks import CENTER, COORDINATES, GRIDS, drawn, positions
from tests.viewers.slicer_facts import CaseFacts, case_facts, plane_mm

pytestmark = [pytest.mark.viewer, pytest.mark.timeout(1800), pytest.mark.journey("geometry_all_paths")]
MODULE_CASES = [f"{grid}_{coordinate}" for grid in GRIDS for coordinate in COORDINATES]
STOCK_CASES = [f"stock_{grid}" for grid in GRIDS]
EXACT_MM = 1e-3
PLANE_VOXELS = 2
"""How rough the boundary of the small network is, on every grid alike."""


@pytest.fixture(params=MODULE_CASES + STOCK_CASES)
def case(request: pytest.FixtureRequest) -> CaseFacts:
    """Of both loops; each test below holds for both."""
    loop = "stock_facts" if request.param in STOCK_CASES else "module_facts"
    return case_facts(request.getfixturevalue(loop), request.param)


def test_scan_in_slicer_is_where_its_voxels_say(case: CaseFacts) -> None:
    where = positions(case.arrays["image_to_ras"], case.arrays["image"].shape)[..., case.axis]
    np.testing.assert_allclose(case.arrays["image"], where, atol=EXACT_MM)


def test_segmentation_in_slicer_begins_at_the_same_millimeter(case: CaseFacts) -> None:
    coordinate, label = case.arrays["image"], case.arrays["label"]
    plane = plane_mm(label, coordinate, case.axis)
    assert abs(plane) < PLANE_VOXELS * case.spacing_mm
    agreement = ((coordinate - CENTER[case.axis] > plane) == (label > 0)).mean()
    assert (
        agreement > 0.75
    )  # of a small network that trained for seconds; a mirrored answer has less than 0.25


def test_stored_label_is_where_it_was_drawn(case: CaseFacts, landmark_server: LiveServer) -> None:
    stored = nib.load(landmark_server.project.studies / "labels" / "final" / f"{case.name}.nii.gz")
    inside = np.asarray(stored.dataobj) > 0
    where = positions(GRIDS[case.grid])
    np.testing.assert_array_equal(inside, drawn(where))
    # And by the positions that the scan's voxels hold, not by any header.
    held, drawn_at = case.arrays["image"][inside], where[drawn(where)][:, case.axis]
    assert held.min() == pytest.approx(drawn_at.min(), abs=EXACT_MM)
    assert held.max() == pytest.approx(drawn_at.max(), abs=EXACT_MM)


@pytest.mark.parametrize("name", MODULE_CASES)
def test_uncertainty_in_slicer_lies_about_the_same_millimeter(
    name: str, module_facts: dict[str, Any]
) -> None:
    case = case_facts(module_facts, name)
    np.testing.assert_allclose(case.arrays["uncertainty_to_ras"], case.arrays["image_to_ras"], atol=EXACT_MM)
    doubt = case.arrays["uncertainty"].astype(float)
    middle = (doubt * (case.arrays["image"] - CENTER[case.axis])).sum() / doubt.sum()
    assert abs(middle) < PLANE_VOXELS * case.spacing_mm


@pytest.mark.parametrize("coordinate", COORDINATES)
def test_the_same_scan_stored_in_ras_and_in_lps_gives_the_same_answer_at_every_position(
    coordinate: str, module_facts: dict[str, Any]
) -> None:
    """The two grids have the same voxels in another order, so not one may differ."""
    ras, lps = (case_facts(module_facts, f"{grid}_{coordinate}") for grid in ("ras", "lps"))
    to_index = np.linalg.inv(lps.arrays["image_to_ras"])
    index = positions(to_index @ ras.arrays["image_to_ras"])
    at = tuple(np.moveaxis(np.rint(index).astype(int), -1, 0))
    np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
    np.testing.assert_allclose(lps.arrays["image"][at], ras.arrays["image"], atol=EXACT_MM)
    np.testing.assert_array_equal(lps.arrays["label"][at], ras.arrays["label"])
    np.testing.assert_allclose(lps.arrays["uncertainty"][at], ras.arrays["uncertainty"], atol=1e-4)


@pytest.mark.parametrize("name", MODULE_CASES)
def test_files_of_the_interface_are_on_the_scans_grid(name: str, landmark_server: LiveServer) -> None:
    grid = GRIDS[name.rpartition("_")[0]]
    answer = landmark_server.get(f"/uncertainty/{name}?format=nifti")
    assert answer.status_code == 200
    np.testing.assert_allclose(nifti_of(answer.content).affine, grid, atol=1e-4)
    scan = landmark_server.get(f"/datastore/image?image={name}").content
    if not scan.startswith(b"NRRD"):
        image = nib.Nifti1Image.from_stream(io.BytesIO(_plain(scan)))
        np.testing.assert_allclose(image.affine, grid, atol=1e-4)


def _plain(content: bytes) -> bytes:
    import gzip

    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
