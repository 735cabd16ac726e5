"""A project of two classes, from the names of a viewer's segments to both names in the answer."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.journeys.conftest import MakeProject
from tests.journeys.live_server import Project, serving
from tests.journeys.replies import dice, nifti_of, parts_of, voxels

ORGANS = ("atrium", "wall")
DICE_FLOOR = 0.3
"""Dice of each class on an unlabeled case after 150 steps; by chance, about 0.04."""


def make_two_classes(project: Project) -> None:
    """The upper half of each ball becomes the second class, brighter than the first."""
    for case in project.ids:
        image, label = nib.load(project.image(case)), nib.load(project.reference(case))
        values = np.asarray(label.dataobj).astype(np.uint8)
        middle = int(np.argwhere(values)[:, 2].mean())
        values[:, :, middle:] *= 2
        scan = np.asarray(image.dataobj) + 80 * (values == 2)
        nib.save(nib.Nifti1Image(scan.astype(np.float32), image.affine), project.image(case))
        nib.save(nib.Nifti1Image(values, label.affine), project.reference(case))


def stored_values(project: Project, case: str) -> np.ndarray:
    return voxels(Path(project.studies / "labels" / "final" / f"{case}.nii.gz"))


@pytest.mark.timeout(600)
def test_two_classes_are_labeled_trained_and_named_in_the_answer(make_project: MakeProject) -> None:
    project = make_project("phantoms", 4)
    make_two_classes(project)
    project.set_training(labels=ORGANS, steps=150, min_steps=150, learning_rate=2e-2)
    first, second, shown = project.ids[0], project.ids[1], project.ids[3]
    label = nib.load(project.reference(second))
    plain = np.asarray(label.dataobj)
    nib.save(nib.Nifti1Image(np.array([0, 2, 1], np.uint8)[plain], label.affine), project.reference(second))
    with serving(project, "--conf", "labels", ",".join(ORGANS), "--conf", "debounce_s", "0.5") as server:
        assert server.get("/info/").json()["models"]["ugmcl"]["labels"] == {"atrium": 1, "wall": 2}
        unknown = server.submit(
            first, {"label_info": [{"name": "atrium", "idx": 1}, {"name": "x", "idx": 2}]}
        )
        assert unknown.status_code == 422
        assert "1 (atrium), 2 (wall)" in unknown.json()["detail"]
        # Slicer left "background" out: idx counts from 2, the values from 1.
        slicers = [{"name": "atrium", "idx": 2}, {"name": "wall", "idx": 3}]
        assert server.submit(first, {"label_info": slicers}).status_code == 200
        # The names decide: here 1 stands for the wall.
        exchanged = [{"name": "wall", "idx": 1}, {"name": "atrium", "idx": 2}]
        assert server.submit(second, {"label_info": exchanged}).status_code == 200
        np.testing.assert_array_equal(stored_values(project, first), voxels(project.reference(first)))
        np.testing.assert_array_equal(stored_values(project, second), plain)
        done = server.wait_for_labels(first, second)
        assert done["promoted"] is True

        params, image, uncertainty = parts_of(server.infer(shown, uncertainty=True, mc_samples=2))
        assert json.loads(params.content)["label_names"] == {"atrium": 1, "wall": 2}
        found, reference = np.asarray(nifti_of(image.content).dataobj), voxels(project.reference(shown))
        overlaps = {name: dice(found == value, reference == value) for value, name in enumerate(ORGANS, 1)}
        assert min(overlaps.values()) > DICE_FLOOR, overlaps
        values = np.asarray(nifti_of(uncertainty.content).dataobj)
        assert 0 <= values.min() < values.max() <= 1
