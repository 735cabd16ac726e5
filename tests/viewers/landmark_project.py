"""A project of landmark scans, and a server on it whose small model has learned what to find in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np

from tests.journeys.live_server import LiveServer, Project, serving
from tests.viewers.landmarks import CENTER, COORDINATES, GRIDS, positions

TRAINED = ("trained_r", "trained_a", "trained_s")
PICTURED = "picture_oblique"
MODULE_READER, STOCK_READER, PICTURE_READER = "module-reader", "stock-reader", "picture-reader"
QUIET = ("--conf", "debounce_s", "0", "--conf", "min_labels", "50", "--conf", "round_seconds", "900")
PATCH = (24, 24, 16)
"""The whole scan: inside a part of a ramp, normalized by itself, the plane could be anywhere."""
STEPS = 300
"""Enough for a small network to find a plane in a ramp; seconds on a quiet machine."""
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def landmark_project(folder: Path) -> Project:
    """Scans `<grid>_<coordinate>` for our module, `stock_<grid>` for the stock one, and some more.

    The voxels of each hold their R, A or S in mm; the grid "lps" comes as NRRD, which is LPS by itself. What
    is to be found is where the coordinate is above that of CENTER: a mirrored or shifted result is wrong.
    """
    scans = {f"{grid}_{c}": (GRIDS[grid], axis) for grid in GRIDS for axis, c in enumerate(COORDINATES)}
    scans |= {f"stock_{grid}": (affine, 0) for grid, affine in GRIDS.items()}
    scans |= {name: (GRIDS["ras"], axis) for axis, name in enumerate(TRAINED)}
    scans |= {PICTURED: (GRIDS["oblique"], 0)}
    project = Project(folder, list(TRAINED) + [name for name in scans if name not in TRAINED])
    project.studies.mkdir(parents=True)
    (folder / "reference").mkdir()
    for name, (affine, axis) in scans.items():
        values = positions(affine)[..., axis].astype(np.float32)
        if "lps" in name:
            _write_nrrd(project.studies / f"{name}.nrrd", values, affine)
        else:
            nib.save(nib.Nifti1Image(values, affine), project.image(name))
        label = (values > CENTER[axis]).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, affine), project.reference(name))
    return project


def _write_nrrd(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    in_lps = LPS @ affine
    header = {
        "space": "left-posterior-superior",
        "space directions": in_lps[:3, :3].T,
        "space origin": in_lps[:3, 3],
    }
    nrrd.write(str(path), array, header, index_order="F")


@contextlib.contextmanager
def trained_landmark_server(folder: Path) -> Iterator[LiveServer]:
    """A server on a landmark project, with a model; each reader has cases of their own."""
    project = landmark_project(folder)
    for case in TRAINED:
        project.put_label(case)
    project.set_training(patch=PATCH, steps=STEPS, min_steps=STEPS)
    with serving(project, *QUIET) as server:
        assert server.post("/train/ugmcl", json={}).status_code == 200
        server.wait_for_labels(*TRAINED)
        for case in project.ids[len(TRAINED) :]:
            reader = STOCK_READER if case.startswith("stock_") else MODULE_READER
            reader = PICTURE_READER if case == PICTURED else reader
            answer = server.request("PUT", f"/leases/{case}/plan", json={"assigned_to": reader})
            assert answer.status_code == 200, answer.text
        yield server
