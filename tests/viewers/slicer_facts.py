"""What a program saw of a case in Slicer, beside what the server itself says of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from tests.journeys.live_server import LiveServer
from tests.journeys.replies import nifti_of, parts_of
from tests.viewers.landmarks import CENTER, COORDINATES, GRIDS


@dataclass(frozen=True)
class Reply:
    """A reply of the server in NIfTI, read by nibabel."""

    params: dict[str, Any]
    label: nib.Nifti1Image
    uncertainty: nib.Nifti1Image


@dataclass(frozen=True)
class CaseFacts:
    """One case of a loop.

    Attributes:
        name: The case.
        seen: What the program wrote down as JSON.
        arrays: What it wrote down as arrays, in the file's voxel order `(I, J, K)`.
        reply: The server's own answer, by the model that the loop had.
    """

    name: str
    seen: dict[str, Any]
    arrays: dict[str, np.ndarray]
    reply: Reply

    @property
    def grid(self) -> str:
        return next(part for part in self.name.split("_") if part != "stock" and len(part) > 1)

    @property
    def axis(self) -> int:
        """Which of R, A, S the voxels hold."""
        last = self.name.rpartition("_")[2]
        return COORDINATES.index(last) if last in COORDINATES else 0

    @property
    def spacing_mm(self) -> float:
        """Between voxels along the axis of the grid that runs closest to the coordinate they hold."""
        affine = GRIDS[self.grid][:3, :3]
        return float(np.linalg.norm(affine[:, np.abs(affine[self.axis]).argmax()]))

    @property
    def params(self) -> dict[str, Any]:
        return self.reply.params

    @property
    def label(self) -> nib.Nifti1Image:
        return self.reply.label

    @property
    def uncertainty(self) -> nib.Nifti1Image:
        return self.reply.uncertainty


def replies_of(server: LiveServer, cases: list[str]) -> dict[str, Reply]:
    """What the live model answers for each case."""
    found = {}
    for case in cases:
        parts = parts_of(server.infer(case, uncertainty=True, result_extension=".nii.gz"))
        files = [nifti_of(part.content) for part in parts[1:]]
        found[case] = Reply(json.loads(parts[0].content), *files)
    return found


def case_facts(facts: dict[str, Any], case: str) -> CaseFacts:
    seen = {entry["case"]: entry for entry in facts["cases"]}
    assert case in seen, f"the loop did not get to {case}, only to {sorted(seen)}"
    with np.load(facts["folder"] / f"{case}.npz") as arrays:
        return CaseFacts(case, seen[case], dict(arrays), facts["replies"][case])


def plane_mm(label: np.ndarray, coordinate: np.ndarray, axis: int) -> float:
    """Where a label begins along a coordinate, in mm from CENTER, if it is all that lies above some plane."""
    in_order = np.sort(coordinate, axis=None)
    return float(in_order[int((label == 0).sum())] - CENTER[axis])
