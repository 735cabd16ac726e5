"""A real Orthanc: series listed and fetched, results stored; stopped in the middle and back again."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from lib.dicom.parametric_map import read_map, write_map
from lib.dicom.references import BY_HAND, Maker
from lib.dicom.segmentation_reading import read_segmentation
from lib.dicom.segmentation_writing import BINARY, write_segmentation
from lib.dicom.series import read_grid, read_series
from lib.pacs import cache as cache_module
from lib.pacs.cache import SeriesCache
from lib.pacs.connection import PacsConnection, PacsRefused, PacsUnavailable
from lib.pacs.dicomweb import DicomWeb
from lib.pacs.outbox import Outbox
from lib.pacs.settings import PacsSettings
from tests.dicom.labels import STRUCTURES, landmark_label, world_of
from tests.dicom.phantom_series import PLANS, UNIT_MM, encoded, enhanced_phantom, phantom_series
from tests.pacs.orthanc import Orthanc, require_orthanc
from tests.pacs.project_support import STRUCTURES as PROJECT_STRUCTURES, PacsProjectInTest

pytestmark = pytest.mark.viewer


@pytest.fixture(scope="module")
def installed() -> None:
    require_orthanc()


@pytest.fixture
def orthanc(installed: None, tmp_path: Path) -> Iterator[Orthanc]:
    folder = tmp_path / "orthanc"
    folder.mkdir()
    server = Orthanc(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def web(orthanc: Orthanc) -> Iterator[DicomWeb]:
    connection = PacsConnection(PacsSettings(orthanc.url, attempts=2, backoff_s=0.1, answer_s=20))
    yield DicomWeb(connection)
    connection.close()


def send(web: DicomWeb, instances: list[Dataset]) -> tuple[str, str]:
    study = str(instances[0].StudyInstanceUID)
    answer = web.store(study, [encoded(dataset) for dataset in instances])
    assert not answer.failed
    return study, str(instances[0].SeriesInstanceUID)


@pytest.mark.parametrize("name", ["axial", "oblique_falling", "anisotropic"])
def test_phantom_comes_back_at_the_same_millimeter(web: DicomWeb, tmp_path: Path, name: str) -> None:
    study, uid = send(web, phantom_series(PLANS[name], coordinate=1))
    (entry,) = web.list_series(PLANS[name].modality).series
    assert (entry.study_uid, entry.uid, entry.instances) == (study, uid, 7)
    series = read_series(SeriesCache(tmp_path / "cache", web).get(study, uid).files)
    indices = np.argwhere(np.ones(series.grid.shape, bool))
    world = world_of(series.grid, np.ones(series.grid.shape, bool))
    told = np.sort(series.volume.array[tuple(indices.T)])
    assert np.abs(told - np.sort(world[:, 1])).max() < 0.51 * UNIT_MM + 0.001


def test_label_and_map_are_stored_found_and_read_back(web: DicomWeb, tmp_path: Path) -> None:
    study, uid = send(web, phantom_series(PLANS["oblique"]))
    cache = SeriesCache(tmp_path / "cache", web)
    grid = read_grid(cache.get(study, uid).files)
    label = landmark_label(grid)
    values = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    maker = Maker("v0001-abc")
    objects = [write_segmentation(label, grid, STRUCTURES, maker, BINARY), write_map(values, grid, maker)]
    assert len(web.store(study, objects).stored) == 2
    (found,) = web.list_series("SEG").series
    (segmentation,) = cache.get(study, found.uid).files
    read = read_segmentation(segmentation, grid, STRUCTURES)
    assert np.array_equal(read.labels, label)
    assert read.by_model
    (found,) = web.list_series("OT").series
    (stored_map,) = cache.get(study, found.uid).files
    assert np.array_equal(read_map(stored_map, grid), values)


def test_enhanced_multi_frame_arrives_as_one_instance(web: DicomWeb, tmp_path: Path) -> None:
    study, uid = send(web, [enhanced_phantom(PLANS["axial"], 2)])
    grid = read_grid(SeriesCache(tmp_path / "cache", web).get(study, uid).files)
    assert grid.shape == PLANS["axial"].shape


def test_new_series_show_in_the_next_poll(web: DicomWeb) -> None:
    send(web, phantom_series(PLANS["axial"]))
    first = web.list_series("MR")
    same = web.list_series("MR", first)
    assert (first.changed, same.changed) == (True, False)
    send(web, phantom_series(PLANS["axial"]))
    third = web.list_series("MR", same)
    assert third.changed
    assert len(third.series) == 2
    assert web.list_series("CT").series == ()


def test_work_goes_on_while_it_is_down_and_is_delivered_when_it_is_back(
    web: DicomWeb, orthanc: Orthanc, tmp_path: Path
) -> None:
    study, uid = send(web, phantom_series(PLANS["axial"]))
    cache, outbox = SeriesCache(tmp_path / "cache", web), Outbox(tmp_path / "outbox", web)
    cache.get(study, uid)
    orthanc.stop()
    grid = read_grid(cache.refresh(study, uid).files)
    content = write_segmentation(landmark_label(grid), grid, STRUCTURES, BY_HAND)
    waiting = outbox.put(content)
    with pytest.raises(PacsUnavailable):
        outbox.deliver()
    with pytest.raises(PacsUnavailable):
        web.list_series("MR")
    assert outbox.waiting() == [waiting]
    orthanc.start()
    assert outbox.deliver() == 1
    (found,) = web.list_series("SEG").series
    (stored,) = cache.get(study, found.uid).files
    assert np.array_equal(read_segmentation(stored, grid, STRUCTURES).labels, landmark_label(grid))


def test_stopped_in_the_middle_of_a_fetch_it_goes_on_where_it_was(
    web: DicomWeb, orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, uid = send(web, phantom_series(PLANS["axial"]))
    cache = SeriesCache(tmp_path / "cache", web)
    fetched: list[str] = []
    original = web.fetch_instance

    def one_by_one(study: str, series: str, keep: Callable[[bytes], None]) -> int:
        """The series instance by instance; Orthanc stops after the third."""
        for instance in sorted(web_instances):
            if len(fetched) == 3:
                orthanc.stop()
            original(study, series, instance, keep)
            fetched.append(instance)
        return len(fetched)

    web_instances = web.list_instances(study, uid)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_FEW", 0)
        patch.setattr(web, "fetch_series", one_by_one)
        with pytest.raises(PacsUnavailable):
            cache.get(study, uid)
    assert cache.cached() == []
    assert len(list((tmp_path / "cache" / f"{uid}.partial").glob("*.dcm"))) == 3
    orthanc.start()
    asked: list[str] = []

    def counted(study: str, series: str, instance: str, keep: Callable[[bytes], None]) -> int:
        asked.append(instance)
        return original(study, series, instance, keep)

    monkeypatch.setattr(web, "fetch_instance", counted)
    assert len(cache.get(study, uid).files) == 7
    assert len(asked) == 4


def test_wrong_password_is_said_and_right_one_works(installed: None, tmp_path: Path) -> None:
    server = Orthanc(tmp_path, password="s3cret")
    server.start()
    try:
        wrong = PacsConnection(PacsSettings(server.url, user="reader", password="guess"))
        with pytest.raises(PacsRefused, match="check user, password or token"):
            DicomWeb(wrong).list_series("MR")
        wrong.close()
        right = PacsConnection(PacsSettings(server.url, user="reader", password="s3cret"))
        assert DicomWeb(right).list_series("MR").series == ()
        right.close()
    finally:
        server.stop()


@pytest.mark.real
@pytest.mark.parametrize("name", ["series_1", "series_2", "series_3"])
def test_real_series_travel_unchanged(web: DicomWeb, shared_data: Path, tmp_path: Path, name: str) -> None:
    import pydicom

    folder = shared_data / "hippocampus_dicom" / name
    if not folder.is_dir():
        pytest.skip(f"no DICOM series at {folder}")
    instances = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    for dataset in instances:  # the headers carry joke names
        dataset.PatientName, dataset.PatientID = "Anonymous^", "ANONYMOUS"
    study, uid = send(web, instances)
    cached = SeriesCache(tmp_path / "cache", web).get(study, uid)
    before, after = read_series(folder), read_series(cached.files)
    assert np.array_equal(before.volume.array, after.volume.array)
    assert np.array_equal(before.grid.affine, after.grid.affine)
    grid = after.grid
    content = write_segmentation(landmark_label(grid), grid, STRUCTURES, BY_HAND)
    assert web.store(study, [content]).stored


@pytest.mark.real
def test_real_series_are_labeled_and_the_label_lies_where_it_was_drawn(
    web: DicomWeb, orthanc: Orthanc, shared_data: Path, tmp_path: Path
) -> None:
    import pydicom

    folder = shared_data / "hippocampus_dicom"
    if not folder.is_dir():
        pytest.skip(f"no DICOM series at {folder}")
    for series in sorted(folder.iterdir()):
        instances = [pydicom.dcmread(path) for path in sorted(series.glob("*.dcm"))]
        for dataset in instances:  # the headers carry joke names
            dataset.PatientName, dataset.PatientID = "Anonymous^", "ANONYMOUS"
        send(web, instances)
    project = PacsProjectInTest(orthanc.url, tmp_path / "work")
    try:
        project.look()
        assert len(project.store.list_images()) == 3, project.store.quarantined()
        drawn = {
            case_id: project.submit(case_id, seed=i) for i, case_id in enumerate(project.store.list_images())
        }
        project.turn()
        found = web.list_series("SEG").series
        assert len(found) == 3
        for entry in found:
            contents: list[bytes] = []
            web.fetch_series(entry.study_uid, entry.uid, contents.append)
            dataset = pydicom.dcmread(io.BytesIO(contents[0]))
            assert dataset.PatientID == "ANONYMOUS"
            case_id = str(dataset.ReferencedSeriesSequence[0].SeriesInstanceUID)
            grid = project.pacs.source.grid(case_id)
            assert np.array_equal(read_segmentation(dataset, grid, PROJECT_STRUCTURES).labels, drawn[case_id])
    finally:
        project.close()
