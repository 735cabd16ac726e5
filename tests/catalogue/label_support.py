"""Labels as files and a project's datastore, for the tests of the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.datastore import FolderDatastore
from lib.workspace import Workspace
from tests.app.scan_support import block, write_nifti

ONE = {"foreground": 1}
OPENED: list[Workspace] = []
"""What a test has opened; a fixture closes it."""


def label_file(folder: Path, variant: int = 0) -> Path:
    """A label that fits `scan_support.scan`; each variant has other bytes."""
    array = block()
    array.flat[variant] = 1
    return write_nifti(folder / f"label{variant}.nii.gz", array)


def open_store(scans: Path, workspace: Workspace, **options: Any) -> FolderDatastore:
    """The datastore over a fresh connection, as another process or a restart would have it."""
    other = Workspace(workspace.root, workspace.database_url)
    OPENED.append(other)
    return FolderDatastore(scans, other, ONE, **options)


def final_file(scans: Path, image_id: str) -> Path:
    return scans / "labels" / "final" / f"{image_id}.nii.gz"
