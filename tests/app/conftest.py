"""Fixtures of the app's tests: a project folder with three usable scans, and what belongs to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.settings import AppSettings
from lib.workspace import Workspace
from tests.app.scan_support import scan, write_nifti


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of three usable scans: a, b, c."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for index, name in enumerate("abc"):
        write_nifti(folder / f"{name}.nii.gz", scan(seed=index))
    return folder


@pytest.fixture
def project(scans: Path) -> Workspace:
    """The workspace of `scans`."""
    return Workspace.of(scans)


@pytest.fixture
def app_settings() -> AppSettings:
    return AppSettings.from_conf({"device": "cpu"})
