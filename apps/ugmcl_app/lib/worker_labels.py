"""worker_labels: the labels of one round, taken once, checked against their scans."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ugmcl.sampling import LoadCase, TrainingCase
from ugmcl.volume import Volume

from .checks import check_label
from .errors import Refusal
from .round_record import TRAIN
from .volumes import read_volume

CAME_LATE = "its label came when the round was more than half done; the next round learns it"


class TakenLabels:
    """The labels as this round reads them: copies, so that a label replaced meanwhile cannot mix two states.

    Attributes:
        read: Image id -> SHA-256 of the copied bytes.
        set_aside: Image id -> why the round goes on without it.
    """

    def __init__(self) -> None:
        self.read: dict[str, str] = {}
        self.set_aside: dict[str, str] = {}
        self._cases: list[tuple[str, TrainingCase]] = []

    def add(self, case: dict[str, str], folder: Path) -> None:
        """Copy and hash one label; a file that is gone or unreadable is set aside."""
        source = Path(case["label"])
        # The id may hold any character a file name may; the copy's name only needs to keep the extension.
        copy = folder / f"{len(self._cases):05d}{''.join(source.suffixes[-2:])}"
        try:
            content = source.read_bytes()
        except OSError as error:
            self.set_aside[case["id"]] = f"its label file could not be read ({error.strerror})"
            return
        copy.write_bytes(content)
        digest = self.read[case["id"]] = hashlib.sha256(content).hexdigest()
        self._cases.append((case["role"], TrainingCase(case["id"], case["image"], str(copy), digest)))

    def cases(self, role: str | None = None) -> list[TrainingCase]:
        """The copied cases of one role, or of both."""
        return [case for its_role, case in self._cases if role in (None, its_role)]

    def came_late(self, learned: dict[str, str]) -> list[str]:
        """Leave out of `read` what the round did not learn; returns the cases that the next round must learn.

        Args:
            learned: Image id -> SHA-256 of the training labels that count, as of `FitResult.learned`. One
                that was replaced late counts as its former self, one that was removed late is among them.
        """
        present = {case.id: case.label_version for case in self.cases(TRAIN)}
        late = sorted({image_id for image_id, _ in present.items() ^ learned.items()})
        for image_id in late:
            if image_id not in learned:
                self.set_aside[image_id] = CAME_LATE
        self.read = {i: digest for i, digest in self.read.items() if i not in present} | learned
        return late

    def sentence(self) -> str:
        """Which cases were set aside and why; empty when none was."""
        if not self.set_aside:
            return ""
        return (
            " Set aside: " + "; ".join(f"{case}: {why}" for case, why in sorted(self.set_aside.items())) + "."
        )


def take_labels(job: dict[str, Any], workdir: Path) -> TakenLabels:
    """Copy all labels of a job into the work folder."""
    folder = workdir / "labels"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    taken = TakenLabels()
    for case in job["labeled"]:
        taken.add(case, folder)
    return taken


def label_loader(labels: list[str]) -> LoadCase:
    """The `load` of `ugmcl.trainer.fit`: scans and labels from disk, labels checked against their scan.

    The returned function raises ValueError with a sentence for a scan or label that cannot be used.
    """
    values = {name: index + 1 for index, name in enumerate(labels)}

    def load(case: TrainingCase) -> tuple[Volume, NDArray[np.uint8] | None]:
        volume = read_volume(Path(case.image))
        if case.label is None:
            return volume, None
        try:
            # An empty label was accepted when it was saved ("no finding"), so it is not questioned again
            # here.
            array = check_label(Path(case.label), volume, values, None, no_finding=True, allow_empty=True)
        except Refusal as refusal:
            raise ValueError(str(refusal.detail)) from refusal
        return volume, np.asarray(array).astype(np.uint8)

    return load
