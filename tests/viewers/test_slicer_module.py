"""Our module in 3D Slicer: its own panel on Qt, slicer-core's scene, and a real server."""

from __future__ import annotations

import re
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.journeys.live_server import LiveServer
from tests.viewers.landmark_project import MODULE_READER
from tests.viewers.landmarks import COORDINATES, GRIDS, drawn, positions
from tests.viewers.slicer_facts import CaseFacts, case_facts

pytestmark = [
    pytest.mark.viewer,
    pytest.mark.timeout(1800),
    pytest.mark.journey("slicer_module_loop"),
]
CASES = [f"{grid}_{coordinate}" for grid in GRIDS for coordinate in COORDINATES]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, module_facts: dict[str, Any]) -> CaseFacts:
    return case_facts(module_facts, request.param)


def test_every_case_of_the_reader_is_offered_once(module_facts: dict[str, Any]) -> None:
    assert sorted(entry["case"] for entry in module_facts["cases"]) == sorted(CASES)
    assert module_facts["errors"] == []


def test_nothing_is_discarded_or_submitted_empty_without_a_question(module_facts: dict[str, Any]) -> None:
    empty, following, instead = module_facts["asked"]
    assert empty == "The segmentation is empty. Submit that there is nothing to find in this case?"
    assert following.endswith("Discard them and open the next case?")
    assert instead.endswith("Discard them and draw the model's segmentation instead?")
    assert module_facts["still"] == module_facts["cases"][0]["case"]
    # Later on, each correction is submitted before the next case, and nothing is asked.
    assert module_facts["questions"] == [instead]


def test_overlapping_segments_and_a_lost_lease_are_said(module_facts: dict[str, Any]) -> None:
    assert module_facts["overlap"].startswith("The segments foreground and another overlap")
    case = module_facts["still"]
    assert module_facts["lost"] == f"{case} is not leased to you any more: another reader may get it."


def test_segments_are_the_servers_label_voxel_for_voxel(case: CaseFacts) -> None:
    assert case.seen["segments"] == ["foreground"]
    np.testing.assert_array_equal(case.arrays["label"], np.asarray(case.label.dataobj))


def test_uncertainty_is_the_servers_map_voxel_for_voxel(case: CaseFacts) -> None:
    np.testing.assert_array_equal(case.arrays["uncertainty"], np.asarray(case.uncertainty.dataobj))


def test_uncertainty_lies_over_the_scan_as_the_sliders_say(case: CaseFacts) -> None:
    seen = case.seen
    assert seen["background"]
    assert seen["foreground"]
    assert (seen["threshold"], seen["opacity"]) == (0.1, 0.7)
    assert seen["window"] == [0.0, 1.0]
    assert seen["colors"] == "UGMCL uncertainty"


def test_the_servers_least_sure_slices_lead_the_walk(case: CaseFacts) -> None:
    named = [(s["axis"], s["index"], s["score"]) for s in case.params["uncertainty"]["top_slices"]]
    assert [tuple(place) for place in case.seen["places"][: len(named)]] == named


def test_the_walk_goes_on_where_the_server_names_no_more(module_facts: dict[str, Any]) -> None:
    facts = [case_facts(module_facts, name) for name in CASES]
    assert any(len(case.seen["places"]) > len(case.params["uncertainty"]["top_slices"]) for case in facts)


def test_views_show_the_slice_that_is_walked_to(case: CaseFacts) -> None:
    to_ras = case.arrays["image_to_ras"]
    for (axis, index, _), offsets in zip(case.seen["places"], case.seen["walked"], strict=True):
        normal = to_ras[:3, axis] / np.linalg.norm(to_ras[:3, axis])
        at = float(normal @ (to_ras[:3, axis] * index + to_ras[:3, 3]))
        # A view may look from the other side; the other two axes are orthogonal and do not matter.
        assert min(abs(abs(offset) - abs(at)) for offset in offsets) < 0.01
    assert case.seen["back"] == case.seen["walked"][-2]


def test_label_out_equals_label_in(case: CaseFacts, landmark_server: LiveServer) -> None:
    stored = nib.load(landmark_server.project.studies / "labels" / "final" / f"{case.name}.nii.gz")
    np.testing.assert_allclose(stored.affine, GRIDS[case.grid], atol=1e-4)
    np.testing.assert_array_equal(np.asarray(stored.dataobj), drawn(positions(GRIDS[case.grid])))
    assert case.seen["submitted"].startswith(f"The label of {case.name} is stored.")
    assert (case.seen["edited"], case.seen["edited_after"]) == (True, False)


def test_the_label_says_who_with_what_and_why(case: CaseFacts, landmark_server: LiveServer) -> None:
    versions = landmark_server.get(f"/datastore/label/history?label={case.name}").json()["versions"]
    assert len(versions) == 1
    kept = {key: versions[0][key] for key in ("reader", "comment", "model_version", "tool")}
    assert kept == {
        "reader": MODULE_READER,
        "comment": f"checked {case.name}",
        "model_version": case.params["model_version"],
        "tool": "3D Slicer, UGMCLAssist",
    }


def test_the_panel_follows_the_round(module_facts: dict[str, Any]) -> None:
    assert module_facts["status"].startswith("Model v0001-")
    assert re.search(r"Round r0002 (is being prepared, with|trains on) 15 labels", module_facts["running"])
    assert "Last round r0002: " in module_facts["finished"]
    panel = module_facts["folder"] / "panel.png"
    assert panel.stat().st_size > 5000
