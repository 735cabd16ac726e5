"""case_source: where the scans of a project are: in its folder, or elsewhere and fetched when needed.

The catalogue names a scan by a file name, `<case id><extension>`, whatever its source. Labels are files below
`root` in every project.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from sqlalchemy.orm import Session

from ..pool import Finding, Signature, read_image
from . import folder_files


class CaseSource(Protocol):
    """What the catalogue asks of the place its scans come from."""

    root: Path
    """Labels are in `labels/<tag>/` below it."""
    is_folder: bool
    """Whether scans are added and removed here; else the source alone decides which there are."""

    @property
    def is_away(self) -> bool:
        """Whether scans cannot be fetched just now; what is known of them stays as it is meanwhile."""

    def list_files(self) -> dict[str, Signature]:
        """Every scan, and every label file as `labels/<tag>/<name>`; opens nothing.

        Raises:
            OSError: If nothing can be said; then nothing must be concluded.
        """

    def signature(self, name: str) -> Signature | None:
        """Of a scan or label as it is now; the same for the same content, fetched or not. None: no such."""

    def path(self, name: str) -> Path:
        """Where the file is, once it is at hand."""

    def read_image(self, name: str, voxels: bool) -> Finding:
        """Check a scan: as far as that needs no fetching, or with `voxels` all of it."""

    def fetch(self, name: str) -> Path:
        """The file of a scan, brought to this disk if it is not there.

        Raises:
            Refusal: 503 while its source is away, 422 for a scan that turns out unusable.
        """

    def at_hand(self, scans: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Path by id of those `(id, name)` that are on this disk."""

    def set_aside(self, session: Session) -> dict[str, str]:
        """Why each scan or label that is not in use is not, by what its owner calls it."""

    def uids(self, case_ids: list[str]) -> dict[str, tuple[str, str]]:
        """StudyInstanceUID and SeriesInstanceUID of those cases that have them."""


class FolderSource:
    """Scans as files of one flat folder."""

    is_folder, is_away = True, False

    def __init__(self, folder: Path | str) -> None:
        self.root = Path(folder).expanduser().resolve()

    def list_files(self) -> dict[str, Signature]:
        return folder_files.list_files(self.root)

    def signature(self, name: str) -> Signature | None:
        return Signature.of(self.root / name)

    def path(self, name: str) -> Path:
        return self.root / name

    def read_image(self, name: str, voxels: bool) -> Finding:
        return read_image(self.root / name, voxels)

    def fetch(self, name: str) -> Path:
        return self.root / name

    def at_hand(self, scans: Iterable[tuple[str, str]]) -> dict[str, str]:
        return {case_id: f"{self.root}{os.sep}{name}" for case_id, name in scans}

    def set_aside(self, session: Session) -> dict[str, str]:
        return folder_files.set_aside(session)

    def uids(self, case_ids: list[str]) -> dict[str, tuple[str, str]]:
        return {}
