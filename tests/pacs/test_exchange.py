"""Labels between a project and its PACS: each saved one arrives, experts' SEGs are taken, models' are not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from lib.dicom.references import BY_HAND, SEMIAUTOMATIC, Maker
from lib.dicom.segmentation_reading import read_segmentation
from lib.dicom.segmentation_writing import write_segmentation
from lib.dicom.series import read_grid
from lib.errors import Refusal
from lib.volumes import read_label
from tests.dicom.phantom_series import encoded
from tests.pacs.project_support import STRUCTURES, PacsProjectInTest, expert_seg, phantom, uid_of
from tests.pacs.small_pacs import SmallPacs


@pytest.fixture
def series(pacs: SmallPacs) -> list[Dataset]:
    instances = phantom()
    pacs.add(instances)
    return instances


@pytest.fixture
def project(pacs: SmallPacs, series: list[Dataset], tmp_path: Path) -> Iterator[PacsProjectInTest]:
    found = PacsProjectInTest(pacs.url, tmp_path / "work")
    found.look()
    yield found
    found.close()


def stored_segs(pacs: SmallPacs) -> list[Dataset]:
    return [dataset for dataset in pacs.parsed() if dataset.Modality == "SEG"]


def current_label(project: PacsProjectInTest, case_id: str) -> np.ndarray:
    return read_label(project.store.get_label_uri(case_id, "final"))[0]


def test_saved_label_arrives_as_seg_and_is_not_taken_for_another_one(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    case_id = uid_of(series)
    array = project.submit(case_id, model_version="v0001-abc")
    project.turn()
    (seg,) = stored_segs(pacs)
    read = read_segmentation(seg, read_grid(series), STRUCTURES)
    assert np.array_equal(read.labels, array)
    assert {segment.algorithm_type for segment in read.segments} == {SEMIAUTOMATIC}
    for _ in range(2):
        project.turn()
    assert len(stored_segs(pacs)) == 1
    assert len(project.store.label_history(case_id)) == 1


def test_each_version_is_sent_once_also_after_a_restart(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    case_id = uid_of(series)
    project.submit(case_id)
    project.turn()
    posts = [method for method, _, _ in pacs.requests].count("POST")
    again = project.reopen()
    try:
        again.turn()
        assert [method for method, _, _ in pacs.requests].count("POST") == posts == 1
        second = again.submit(case_id, seed=5)
        again.turn()
        assert len(stored_segs(pacs)) == 2
        newest = read_segmentation(stored_segs(pacs)[-1], read_grid(series), STRUCTURES)
        assert np.array_equal(newest.labels, second)
        assert newest.segments[0].algorithm_type == "MANUAL"
    finally:
        again.close()


def test_another_server_does_not_take_a_label_that_was_sent_or_taken_before_for_a_new_one(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    case_id, other = uid_of(series), PacsProjectInTest(project.url, project.folder)
    try:
        other.look()
        project.submit(case_id)
        project.turn()
        assert len(stored_segs(pacs)) == 1
        second = project.submit(case_id, seed=1)
        other.turn()  # it sees the first one in the PACS, which is not the label any more
        assert np.array_equal(current_label(project, case_id), second)
        _, seg = expert_seg(series, BY_HAND, seed=2)
        pacs.add([seg])
        project.turn()
        assert project.store.label_history(case_id)[-1]["info"]["dicom_seg"] == seg.SOPInstanceUID
        corrected = project.submit(case_id, seed=3)
        other.turn()
        assert np.array_equal(current_label(project, case_id), corrected)
        assert len(project.store.label_history(case_id)) == 4
    finally:
        other.close()


def test_label_saved_while_the_pacs_is_away_is_delivered_when_it_is_back(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    pacs.faults += [("", 503)] * 100
    array = project.submit(uid_of(series))
    project.turn()
    state = project.pacs.state()
    assert (state["waiting"], state["reachable"]) == (1, False)
    assert "503" in state["delivery"]
    again = project.reopen()
    try:
        pacs.faults.clear()
        again.turn()
        (seg,) = stored_segs(pacs)
        assert np.array_equal(read_segmentation(seg, read_grid(series), STRUCTURES).labels, array)
        assert again.pacs.state()["waiting"] == 0
    finally:
        again.close()


def test_label_that_the_pacs_refuses_stays_a_label_and_is_told(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    pacs.faults += [("/studies/", 400)]
    project.submit(uid_of(series))
    project.pacs.exchange.work()
    assert len(project.pacs.state()["refused"]) == 1
    assert list(project.store.final_labels()) == [uid_of(series)]


@pytest.mark.parametrize("maker", [BY_HAND, Maker("v1", how=SEMIAUTOMATIC)])
def test_expert_seg_in_the_pacs_becomes_a_label(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset], maker: Maker
) -> None:
    array, seg = expert_seg(series, maker)
    heard: list[bool] = []
    project.store.on_labels_changed.append(lambda: heard.append(True))
    pacs.add([seg])
    project.turn()
    case_id = uid_of(series)
    assert np.array_equal(current_label(project, case_id), array)
    assert heard, "a round must hear of it"
    (version,) = project.store.label_history(case_id)
    assert version["info"]["dicom_seg"] == str(seg.SOPInstanceUID)
    project.turn()
    assert len(stored_segs(pacs)) == 1, "what came from the PACS is not sent back"
    assert len(project.store.label_history(case_id)) == 1


def test_result_of_a_model_is_no_label(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    _, seg = expert_seg(series, Maker("v0009-other"))
    pacs.add([seg])
    project.turn()
    assert project.store.final_labels() == {}
    assert project.store.status()["quarantined"] == []


def test_several_segs_count_in_the_order_in_which_they_were_drawn(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    newer, late = expert_seg(series, BY_HAND, seed=1)
    _, early = expert_seg(series, BY_HAND, seed=2)
    late.ContentDate, early.ContentDate = "20240102", "20240101"
    pacs.add([late])
    pacs.add([early])
    project.turn()
    assert np.array_equal(current_label(project, uid_of(series)), newer)
    assert len(project.store.label_history(uid_of(series))) == 2


def test_seg_that_cannot_be_a_label_is_set_aside_with_the_reason(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    _, seg = expert_seg(series, BY_HAND)
    seg.SegmentSequence[1].SegmentLabel = "kidney"  # has no code of its own
    pacs.add([seg])
    project.turn()
    assert project.store.final_labels() == {}
    (aside,) = project.store.status()["quarantined"]
    assert aside["file"] == str(seg.SeriesInstanceUID)
    assert "kidney" in aside["reason"]


def test_no_finding_travels_both_ways(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    case_id = uid_of(series)
    grid = project.pacs.source.grid(case_id)
    project.store.take_label(case_id, np.zeros(grid.shape, np.uint8), {})
    project.turn()
    (seg,) = stored_segs(pacs)
    assert seg.ContentLabel == "NO_FINDING"
    assert read_segmentation(seg, grid, STRUCTURES).is_empty


def test_new_workspace_takes_the_labels_back_from_the_pacs(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset], tmp_path: Path
) -> None:
    array = project.submit(uid_of(series))
    project.turn()
    fresh = PacsProjectInTest(pacs.url, tmp_path / "fresh")
    try:
        fresh.look()
        fresh.turn()
        assert np.array_equal(current_label(fresh, uid_of(series)), array)
    finally:
        fresh.close()


def test_seg_keeps_patient_and_study_of_its_series(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    project.submit(uid_of(series))
    project.turn()
    (seg,) = (pydicom.dcmread(io.BytesIO(c)) for c in pacs.objects.values() if b"UG-MCL Assist" in c)
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[keyword].value == series[0][keyword].value


def test_conditions_on_the_images_do_not_hide_what_is_drawn_on_them(
    pacs: SmallPacs, series: list[Dataset], tmp_path: Path
) -> None:
    project = PacsProjectInTest(pacs.url, tmp_path / "narrowed", pacs_search="SeriesDescription=T1")
    try:
        array, seg = expert_seg(series, BY_HAND)
        pacs.add([seg])
        project.look()
        asked = [query for query in pacs.searches if "SeriesDescription" in query]
        assert {query["Modality"][0] for query in asked} == {"MR", "CT"}
        project.turn()
        assert np.array_equal(current_label(project, uid_of(series)), array)
    finally:
        project.close()


def test_seg_of_a_study_without_cases_is_not_even_fetched(
    pacs: SmallPacs, project: PacsProjectInTest
) -> None:
    _, seg = expert_seg(phantom(1), BY_HAND)
    pacs.add([seg])
    project.turn()
    assert not [path for _, path, _ in pacs.requests if str(seg.SeriesInstanceUID) in path]


def test_label_that_is_submitted_and_stored_too_counts_once(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset], tmp_path: Path
) -> None:
    _, seg = expert_seg(series, BY_HAND)
    file = tmp_path / "seg.dcm"
    file.write_bytes(encoded(seg))
    project.pacs.save_label(uid_of(series), file, {"client_id": "ann"}, may_be_empty=False)
    pacs.add([seg])
    project.turn()
    (version,) = project.store.label_history(uid_of(series))
    assert (version["reader"], version["info"]["dicom_seg"]) == ("ann", str(seg.SOPInstanceUID))


def test_empty_seg_is_submitted_with_a_word_only(
    project: PacsProjectInTest, series: list[Dataset], tmp_path: Path
) -> None:
    grid = read_grid(series)
    file = tmp_path / "seg.dcm"
    file.write_bytes(write_segmentation(np.zeros(grid.shape, np.uint8), grid, STRUCTURES, BY_HAND))
    with pytest.raises(Refusal, match="no_finding") as refused:
        project.pacs.save_label(uid_of(series), file, {}, may_be_empty=False)
    assert refused.value.status_code == 422
    assert project.store.final_labels() == {}
    project.pacs.save_label(uid_of(series), file, {"no_finding": True}, may_be_empty=False)
    assert list(project.store.final_labels()) == [uid_of(series)]


def test_seg_with_voxels_is_no_no_finding(
    project: PacsProjectInTest, series: list[Dataset], tmp_path: Path
) -> None:
    grid = read_grid(series)
    values = np.zeros(grid.shape, np.uint8)
    values[1, 1, 1] = next(iter(project.store.labels.values()))
    file = tmp_path / "seg.dcm"
    file.write_bytes(write_segmentation(values, grid, STRUCTURES, BY_HAND))
    with pytest.raises(Refusal, match="1 voxels of the label") as refused:
        project.pacs.save_label(uid_of(series), file, {"no_finding": True}, may_be_empty=False)
    assert refused.value.status_code == 422
    assert project.store.final_labels() == {}


def test_what_a_look_finds_is_taken_up_at_once(
    pacs: SmallPacs, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    woken: list[str] = []
    project.pacs.source.on_news = lambda: woken.append("news")
    project.look()
    assert woken == [], "nothing is new"
    pacs.add([expert_seg(series, BY_HAND)[1]])
    project.look()
    assert woken == ["news"]
    pacs.faults += [("", 503)] * 4
    project.look()
    pacs.faults.clear()
    project.look()
    assert woken == ["news", "news"], "it is back"
