"""The stock MONAI Label module of 3D Slicer, unchanged, on slicer-core's scene, with a real server."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.journeys.live_server import LiveServer
from tests.viewers.landmarks import GRIDS, drawn, positions
from tests.viewers.slicer_facts import CaseFacts, case_facts
from ugmcl.uncertainty import bands

pytestmark = [pytest.mark.viewer, pytest.mark.timeout(1800), pytest.mark.journey("slicer_stock_loop")]
CASES = [f"stock_{grid}" for grid in GRIDS]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, stock_facts: dict[str, Any]) -> CaseFacts:
    return case_facts(stock_facts, request.param)


def test_next_sample_offers_every_case_of_the_reader(stock_facts: dict[str, Any]) -> None:
    assert sorted(entry["case"] for entry in stock_facts["cases"]) == sorted(CASES)
    assert stock_facts["errors"] == []
    assert {"ugmcl", "ugmcl_uncertainty"} <= set(stock_facts["models"])
    assert stock_facts["told"] == ["Label-Mask saved into MONAI Label Server"] * len(CASES)


def test_segmentation_is_the_servers_label_voxel_for_voxel(case: CaseFacts) -> None:
    np.testing.assert_array_equal(case.arrays["label"], np.asarray(case.label.dataobj))


def test_bands_are_segments_on_the_scan(case: CaseFacts) -> None:
    assert case.seen["segments"] == ["foreground", "low", "medium", "high"]
    expected = bands(np.asarray(case.uncertainty.dataobj))
    for value, name in enumerate(("low", "medium", "high"), start=1):
        np.testing.assert_array_equal(case.arrays[name], expected == value)


def test_label_out_equals_label_in(case: CaseFacts, landmark_server: LiveServer) -> None:
    stored = nib.load(landmark_server.project.studies / "labels" / "final" / f"{case.name}.nii.gz")
    expected = drawn(positions(GRIDS[case.grid]))
    np.testing.assert_allclose(stored.affine, GRIDS[case.grid], atol=1e-4)
    np.testing.assert_array_equal(np.asarray(stored.dataobj), expected)
    np.testing.assert_array_equal(case.arrays["kept"], expected)  # as the module itself downloads it


def test_training_status_reaches_its_end(stock_facts: dict[str, Any]) -> None:
    assert stock_facts["training"][0] == 1  # started
    assert stock_facts["training"][-1] == 100
