"""Series of a PACS as cases: listed, fetched once, exact, set aside with the reason, followed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lib.dicom.series import read_series
from lib.errors import Refusal
from lib.pacs import source
from lib.pacs.project import pacs_settings
from lib.pool import scan_version
from lib.settings import AppSettings
from lib.volumes import read_voxels
from lib.workspace import Workspace
from tests.dicom.phantom_series import PLANS
from tests.pacs.project_support import PacsProjectInTest, phantom, uid_of
from tests.pacs.small_pacs import SmallPacs


@pytest.fixture
def project(pacs: SmallPacs, tmp_path: Path) -> Iterator[PacsProjectInTest]:
    found = PacsProjectInTest(pacs.url, tmp_path / "work")
    yield found
    found.close()


def fetches(pacs: SmallPacs, uid: str) -> int:
    """How often a series, or an instance of it, travelled."""
    return sum(
        f"/series/{uid}" in path and not path.endswith("/instances")
        for method, path, status in pacs.requests
        if method == "GET" and status == 200
    )


@pytest.mark.parametrize("name", ["oblique_falling", "anisotropic", "sagittal"])
def test_series_becomes_a_case_at_the_same_millimeter(
    pacs: SmallPacs, project: PacsProjectInTest, name: str
) -> None:
    instances = phantom(1, PLANS[name])
    pacs.add(instances)
    project.look()
    uid = uid_of(instances)
    assert project.store.list_images() == [uid]
    array, affine = read_voxels(project.store.image_file(uid))
    series = read_series(instances)
    assert np.array_equal(array, series.volume.array)
    # NIfTI keeps affines as float32: a micrometer at the distance of a body.
    assert np.abs(affine - series.grid.affine).max() < 1e-4
    study = str(instances[0].StudyInstanceUID)
    assert project.store.dicom_uids([uid]) == {uid: (study, uid)}
    info = project.store.get_image_info(uid)
    assert (info["StudyInstanceUID"], info["SeriesInstanceUID"]) == (study, uid)


def test_listing_fetches_nothing_and_a_series_travels_once(
    pacs: SmallPacs, project: PacsProjectInTest
) -> None:
    instances = phantom()
    pacs.add(instances)
    project.look(voxels_s=0.0)
    uid = uid_of(instances)
    assert project.store.list_images() == [uid]
    assert fetches(pacs, uid) == 0
    assert project.store.image_files() == {}
    for _ in range(3):
        assert project.store.is_usable(uid)
        project.look()
    assert fetches(pacs, uid) == 1
    assert list(project.store.image_files()) == [uid]


def test_unusable_series_is_set_aside_with_its_uid_and_the_reason(
    pacs: SmallPacs, project: PacsProjectInTest
) -> None:
    gap = sorted(phantom(), key=lambda dataset: int(dataset.InstanceNumber))
    del gap[3]
    good = phantom()
    pacs.add(gap)
    pacs.add(good)
    project.look()
    assert project.store.list_images() == [uid_of(good)]
    (aside,) = project.store.status()["quarantined"]
    assert aside["file"] == uid_of(gap)
    assert "missing" in aside["reason"]
    with pytest.raises(Refusal, match="missing") as refused:
        project.store.image_file(uid_of(gap))
    assert refused.value.status_code == 404
    assert not project.pacs.source.cache.has(uid_of(gap))


def test_series_that_comes_and_goes_is_followed(pacs: SmallPacs, project: PacsProjectInTest) -> None:
    instances = phantom()
    pacs.add(instances)
    project.look()
    pacs.objects.clear()
    project.look()
    assert project.store.list_images() == []
    pacs.add(instances)
    project.look()
    assert project.store.list_images() == [uid_of(instances)]
    assert fetches(pacs, uid_of(instances)) == 1


def test_series_that_grows_is_read_again(pacs: SmallPacs, project: PacsProjectInTest) -> None:
    instances = sorted(phantom(), key=lambda dataset: int(dataset.InstanceNumber))
    pacs.add(instances[:-1])
    project.look()
    uid = uid_of(instances)
    before = scan_version(project.store.image_file(uid))
    pacs.add(instances[-1:])
    project.look()
    assert read_voxels(project.store.image_file(uid))[0].shape[2] == len(instances)
    assert scan_version(project.store.image_file(uid)) != before


def test_dropped_series_comes_back_as_the_same_scan(pacs: SmallPacs, project: PacsProjectInTest) -> None:
    first = phantom()
    pacs.add(first)
    project.look()
    uid = uid_of(first)
    before = scan_version(project.store.image_file(uid))
    project.pacs.source.cache.forget(uid)
    assert project.store.image_files() == {}
    assert project.store.list_images() == [uid]
    assert scan_version(project.store.image_file(uid)) == before


def test_room_is_made_for_series_but_not_at_the_cost_of_labeled_ones(pacs: SmallPacs, tmp_path: Path) -> None:
    all_series = [phantom(seed) for seed in range(3)]
    for instances in all_series:
        pacs.add(instances)
    project = PacsProjectInTest(pacs.url, tmp_path / "work", pacs_cache_gib=0.001)
    project.pacs.source.cache._max_bytes = 1  # less than one series
    try:
        labeled = uid_of(all_series[0])
        project.look(voxels_s=0.0)
        project.submit(labeled)
        for instances in all_series:
            project.store.image_file(uid_of(instances))
        assert set(project.store.image_files()) == {labeled, uid_of(all_series[2])}
        assert len(project.store.list_images()) == 3
    finally:
        project.close()


def test_work_goes_on_with_what_is_here_while_the_pacs_is_away(
    pacs: SmallPacs, project: PacsProjectInTest
) -> None:
    here, elsewhere = phantom(), phantom(1)
    pacs.add(here)
    project.look()
    pacs.add(elsewhere)
    project.look(voxels_s=0.0)
    pacs.faults += [("", 503)] * 50
    project.look()
    assert project.pacs.state()["reachable"] is False
    assert "503" in project.pacs.state()["trouble"]
    assert project.store.is_usable(uid_of(here))
    assert not project.store.is_usable(uid_of(elsewhere))
    with pytest.raises(Refusal, match="503"):
        project.pacs.source.fetch(f"{uid_of(elsewhere)}.nii.gz")
    assert uid_of(here) in project.store.list_images()
    pacs.faults.clear()
    project.look()
    assert project.pacs.state()["reachable"] is True
    assert project.store.is_usable(uid_of(elsewhere))
    assert sorted(project.store.list_images()) == sorted([uid_of(here), uid_of(elsewhere)])


def test_start_while_the_pacs_is_away_has_the_cases_it_knew(
    pacs: SmallPacs, project: PacsProjectInTest
) -> None:
    instances = phantom()
    pacs.add(instances)
    project.look()
    pacs.faults += [("", 503)] * 50
    again = project.reopen()
    try:
        assert again.store.list_images() == [uid_of(instances)]
        assert again.store.is_usable(uid_of(instances))
    finally:
        again.close()


def test_truncated_instance_is_fetched_again(pacs: SmallPacs, project: PacsProjectInTest) -> None:
    instances = phantom()
    pacs.add(instances)
    uid = uid_of(instances)
    pacs.faults += [(f"/series/{uid}", "alter")]
    project.look(voxels_s=0.0)
    project.look()
    assert project.store.is_usable(uid)
    assert np.array_equal(read_voxels(project.store.image_file(uid))[0], read_series(instances).volume.array)


def test_wrong_credentials_are_said_and_hide_nothing(pacs: SmallPacs, project: PacsProjectInTest) -> None:
    instances = phantom()
    pacs.add(instances)
    project.look()
    pacs.credentials = "Bearer other"
    project.look()
    assert "check user, password or token" in project.pacs.state()["trouble"]
    assert project.store.list_images() == [uid_of(instances)]


def test_images_are_added_and_removed_at_the_pacs_only(pacs: SmallPacs, project: PacsProjectInTest) -> None:
    instances = phantom()
    pacs.add(instances)
    project.look()
    for action in (
        lambda: project.store.remove_image(uid_of(instances)),
        lambda: project.store.add_image("x", "x.nii.gz", {}),
    ):
        with pytest.raises(Refusal, match="PACS") as refused:
            action()
        assert refused.value.status_code == 405


def test_password_and_token_come_from_the_environment_alone() -> None:
    given = AppSettings.from_conf(
        {"pacs_user": "reader", "pacs_search": "StudyDescription=RESEARCH&BodyPartExamined=HEART"}
    )
    found = pacs_settings("https://pacs.example/dicom-web/", given, {"UGMCL_PACS_PASSWORD": "s3cret"})
    assert (found.url, found.user, found.password) == ("https://pacs.example/dicom-web", "reader", "s3cret")
    assert found.search == {"StudyDescription": "RESEARCH", "BodyPartExamined": "HEART"}
    assert "s3cret" not in repr(found)
    with pytest.raises(ValueError, match="user with a password"):
        pacs_settings("https://pacs.example", given, {})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pacs_modalities", "US"),
        ("pacs_search", "HEART"),
        ("pacs_seg_form", "FRACTIONAL"),
        ("pacs_poll_s", "0"),
    ],
)
def test_other_settings_are_refused_with_what_is_allowed(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"--conf {key} is .*allowed"):
        AppSettings.from_conf({key: value})


def test_pacs_without_a_workspace_says_what_to_give() -> None:
    with pytest.raises(ValueError, match="--workspace DIR"):
        Workspace.of("http://127.0.0.1:8042/dicom-web")


def test_series_that_cannot_be_fetched_does_not_keep_the_others_waiting(
    pacs: SmallPacs, project: PacsProjectInTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = sorted([phantom(), phantom(1)], key=uid_of)
    broken, good = uid_of(both[0]), uid_of(both[1])  # the broken one is first in every order
    for instances in both:
        pacs.add(instances)
    project.look(voxels_s=0.0)
    pacs.faults += [(f"/series/{broken}", 500)] * 1000
    for _ in range(3):
        project.look()
    assert list(project.store.image_files()) == [good]
    (aside,) = project.store.quarantined()
    assert aside["file"] == broken
    assert "500" in aside["reason"]
    asked = 1000 - len(pacs.faults)
    project.look()
    assert 1000 - len(pacs.faults) == asked, "not before a while is over"
    pacs.faults.clear()
    later = time.monotonic() + 3600
    monkeypatch.setattr(source.time, "monotonic", lambda: later)
    project.look(voxels_s=0.0)
    assert project.store.is_usable(broken)
