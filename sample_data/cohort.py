"""The cohort on disk: scans for the server, references where the server cannot train on them, held-out cases.

    OUT/studies/<id>.nii.gz                    every case's scan
    OUT/studies/labels/final/<id>.nii.gz       labels of the first few cases
    OUT/reference/labels/<id>.nii.gz           reference labels of every case
    OUT/reference/heldout/{images,labels}/     cases the server never sees, to measure it on
    OUT/cohort.json                            what was drawn for every case; written last

A cohort appears under OUT in one rename, so there is never half of one, and the same arguments give the same
bytes. A complete cohort is left as it is, with whatever labels have been saved into it since.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from sample_data.phantom import make_phantom

GENERATOR = 1
"""Number of the drawing rules; a cohort of other rules is not mistaken for this one."""

DEFAULT_SEED = 2022

COHORT_FILE = "cohort.json"


class CohortError(ValueError):
    """A cohort cannot be made as asked; the message says why and what to do."""


@dataclass(frozen=True)
class CohortPlan:
    """What a cohort consists of."""

    generator: int
    seed: int
    cases: int
    labeled: int
    heldout: int

    def __post_init__(self) -> None:
        for name, lowest in (("cases", 1), ("labeled", 0), ("heldout", 0)):
            if getattr(self, name) < lowest:
                raise CohortError(f"{name} is {getattr(self, name)}; it must be {lowest} or more.")
        if self.labeled > self.cases:
            raise CohortError(f"labeled is {self.labeled}, but there are only {self.cases} cases to label.")

    def case_ids(self) -> list[str]:
        """Names of the server's cases, in order; the first `labeled` of them have a final label."""
        return [f"la_{number + 1:03d}" for number in range(self.cases)]

    def heldout_ids(self) -> list[str]:
        """Names of the held-out cases, in order."""
        return [f"heldout_{number + 1:03d}" for number in range(self.heldout)]

    def files(self, case: str) -> tuple[list[str], list[str]]:
        """Where a case's scan and where its label goes, relative to the cohort's folder."""
        name = f"{case}.nii.gz"
        if case.startswith("heldout_"):
            return [f"reference/heldout/images/{name}"], [f"reference/heldout/labels/{name}"]
        labels = [f"reference/labels/{name}"]
        if self.case_ids().index(case) < self.labeled:
            labels.append(f"studies/labels/final/{name}")
        return [f"studies/{name}"], labels


def generate(
    out: Path,
    cases: int = 24,
    labeled: int = 4,
    heldout: int = 6,
    seed: int = DEFAULT_SEED,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the cohort, unless it is there already.

    Args:
        out: Folder of the cohort; absent, empty, or holding this very cohort.
        cases: Scans for the server, 1 or more.
        labeled: How many of them, the first ones, come with a final label.
        heldout: Further cases kept from the server.
        seed: Of everything that is drawn.
        workers: Processes to draw with; the result does not depend on it.
        progress: Called with (cases done, cases in all) as the cohort grows.

    Returns:
        The studies folder to start a server on, `out/studies`.

    Raises:
        CohortError: For impossible numbers, or when `out` holds anything but this cohort.
    """
    plan = CohortPlan(GENERATOR, seed, cases, labeled, heldout)
    out = Path(out)
    if out.is_dir() and any(out.iterdir()):
        _check_complete(out, plan)
        return out / "studies"
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        drawn = _draw(building, plan, workers, progress)
        description = {**asdict(plan), "cases_drawn": drawn}
        (building / COHORT_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        building.chmod(0o755)
        _move_into_place(building, out, plan)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out / "studies"


def _draw(
    folder: Path, plan: CohortPlan, workers: int, progress: Callable[[int, int], None] | None
) -> dict[str, dict[str, Any]]:
    """Draw every case into `folder`; what was drawn, by case."""
    names = plan.case_ids() + plan.heldout_ids()
    for name in names:
        images, labels = plan.files(name)
        for file in images + labels:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
    # A spawned process starts clean; a forked one could inherit the locks of a running server's threads.
    context = multiprocessing.get_context("spawn")
    drawn: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(max(1, workers), mp_context=context) as pool:
        jobs = [(str(folder), plan, index, name) for index, name in enumerate(names)]
        for name, parameters in zip(names, pool.map(_draw_case, jobs), strict=True):
            drawn[name] = parameters
            if progress:
                progress(len(drawn), len(names))
    return drawn


def _draw_case(job: tuple[str, CohortPlan, int, str]) -> dict[str, Any]:
    """Draw one case (in a worker process) and write its files."""
    folder, plan, index, name = job
    phantom = make_phantom(plan.seed, index)
    images, labels = plan.files(name)
    for files, array in ((images, phantom.image), (labels, phantom.label)):
        data = nifti_bytes(array, phantom.affine)
        for file in files:
            (Path(folder) / file).write_bytes(data)
    return phantom.parameters


def nifti_bytes(array: NDArray[np.generic], affine: NDArray[np.float64]) -> bytes:
    """A `.nii.gz` file's bytes, the same for the same input at any time (gzip's clock is set to zero)."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def _check_complete(out: Path, plan: CohortPlan) -> None:
    """Raise CohortError unless `out` holds all of the planned cohort; labels saved since do not matter."""
    try:
        found = json.loads((out / COHORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CohortError(
            f"{out} is not empty and holds no sample cohort ({COHORT_FILE} is missing or unreadable); "
            "choose a new folder, or empty this one."
        ) from None
    wanted = asdict(plan)
    held = {name: found.get(name) if isinstance(found, dict) else None for name in wanted}
    if held != wanted:
        raise CohortError(
            f"{out} holds another sample cohort ({_listing(held)}) than the one asked for "
            f"({_listing(wanted)}); choose a new folder, or delete this one."
        )
    for name in plan.case_ids() + plan.heldout_ids():
        images, labels = plan.files(name)
        for file in [*images, labels[0]]:
            if not (out / file).is_file():
                raise CohortError(
                    f"The sample cohort in {out} lacks {file}; delete the folder and generate it again."
                )


def _listing(values: dict[str, Any]) -> str:
    """Values for a message: "seed 2022, cases 24"."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _move_into_place(building: Path, out: Path, plan: CohortPlan) -> None:
    """Give the finished cohort its name; when another run was faster, its equal cohort stays."""
    try:
        os.replace(building, out)
    except OSError:
        if not (out.is_dir() and any(out.iterdir())):
            raise
        _check_complete(out, plan)
