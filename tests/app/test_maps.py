"""Maps: one file each, the catalogue says which is a case's, and what a crash leaves is cleared away."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.maps import MapStore, StoredMap
from lib.volumes import read_voxels
from lib.workspace import Workspace

SUMMARY: dict[str, Any] = {"mc_samples": 8, "score": 0.5}


def keep(store: MapStore, scans: Path, value: float, version: str = "v1") -> StoredMap:
    values = np.full((4, 5, 6), value, np.float32)
    return store.keep("a", scans / "a.nii.gz", values, np.eye(4), version, SUMMARY)


def test_a_map_of_another_process_is_found_and_replaced_with_its_files(
    scans: Path, project: Workspace
) -> None:
    one, other = MapStore(project), MapStore(Workspace(project.root))
    first = keep(one, scans, 0.25)
    one.as_nrrd("a")
    found = other.find("a", scans / "a.nii.gz")
    assert found == first
    second = keep(other, scans, 0.75, "v2")
    assert one.find("a", scans / "a.nii.gz") == second
    assert float(read_voxels(one.as_nrrd("a"))[0].max()) == 0.75
    assert {path.name.split(".", 2)[2] for path in project.maps.iterdir()} == {"nii.gz", "nrrd"}
    assert not first.path.exists()


def test_a_start_clears_away_the_maps_that_a_killed_process_did_not_enter(
    scans: Path, project: Workspace
) -> None:
    kept = keep(MapStore(project), scans, 0.25)
    old, young = project.maps / "a.0123456789ab.nii.gz", project.maps / "b.0123456789ab.nii.gz"
    for path in (old, young):
        path.write_bytes(b"half of a publication")
    os.utime(old, (time.time() - 3600,) * 2)
    os.utime(kept.path, (time.time() - 3600,) * 2)
    assert MapStore(project).find("a", scans / "a.nii.gz") == kept
    assert not old.exists()
    assert young.exists(), "another process may be about to enter it"


def test_a_map_whose_file_is_gone_is_made_again(scans: Path, project: Workspace) -> None:
    store = MapStore(project)
    keep(store, scans, 0.25).path.unlink()
    assert store.find("a", scans / "a.nii.gz") is None
    assert keep(store, scans, 0.5).path.exists()


def test_a_map_that_is_replaced_while_it_is_converted_is_asked_for_again(
    scans: Path, project: Workspace
) -> None:
    store = MapStore(project)
    keep(store, scans, 0.25).path.unlink()  # as another process does just after this one looked
    with pytest.raises(FileNotFoundError, match="replaced"):
        store.as_nrrd("a")
