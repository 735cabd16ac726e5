"""A label goes out as DICOM SEG and comes back with its values, at the same millimeter."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import highdicom
import numpy as np
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from lib.dicom.references import BY_HAND, Maker
from lib.dicom.refusals import UnusableSegmentation, UnusableSeries
from lib.dicom.segmentation_reading import read_segmentation
from lib.dicom.segmentation_writing import FORMS, write_segmentation
from lib.dicom.series import SeriesGrid, read_grid
from lib.dicom.structures import StructureMap
from tests.dicom.labels import MAKER, STRUCTURES, frames_by_header, in_order, landmark_label, parsed, world_of
from tests.dicom.phantom_series import PLANS, encoded, enhanced_phantom, phantom_series

Change = Callable[[Dataset], object]


@pytest.fixture
def grid() -> SeriesGrid:
    return read_grid(phantom_series(PLANS["oblique"]))


def edited(grid: SeriesGrid, change: Change, form: str = "BINARY") -> Dataset:
    """A segmentation as another program might have left it."""
    dataset = parsed(write_segmentation(landmark_label(grid), grid, STRUCTURES, MAKER, form))
    change(dataset)
    return dataset


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PLANS)
def test_label_returns_voxel_for_voxel_with_its_values(name: str, form: str) -> None:
    grid = read_grid(phantom_series(PLANS[name]))
    label = landmark_label(grid)
    found = read_segmentation(write_segmentation(label, grid, STRUCTURES, MAKER, form), grid, STRUCTURES)
    assert np.array_equal(found.labels, label)
    assert set(np.unique(found.labels)) == {0, 1, 5}


@pytest.mark.parametrize("name", PLANS)
def test_segment_voxels_lie_at_the_millimeter_of_the_label(name: str) -> None:
    grid = read_grid(phantom_series(PLANS[name]))
    label = landmark_label(grid)
    dataset = parsed(write_segmentation(label, grid, STRUCTURES, MAKER))
    points: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for number, pixels, places in frames_by_header(dataset):
        groups = dataset.PerFrameFunctionalGroupsSequence[number - 1]
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        points[segment].append(places[pixels > 0])
    for segment, value in ((1, 1), (2, 5)):
        drawn = in_order(np.concatenate(points[segment]))
        assert np.abs(drawn - world_of(grid, label == value)).max() <= 0.0011


def test_each_frame_refers_to_the_instance_it_lies_on(grid: SeriesGrid) -> None:
    dataset = parsed(write_segmentation(landmark_label(grid), grid, STRUCTURES, MAKER))
    position = {str(h.SOPInstanceUID): np.array(h.ImagePositionPatient, dtype=float) for h in grid.headers}
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        assert place == pytest.approx(position[str(source.ReferencedSOPInstanceUID)], abs=1e-4)
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == grid.uid
    assert len(dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == grid.shape[2]
    assert dataset.FrameOfReferenceUID == grid.frame_of_reference_uid
    assert dataset.StudyInstanceUID == grid.study_uid


def test_a_multi_frame_source_keeps_its_frames_apart() -> None:
    # Its frames are scrambled: frame i of the source is not slice i of the volume.
    grid = read_grid([enhanced_phantom(PLANS["oblique"])])
    label = landmark_label(grid)
    content = write_segmentation(label, grid, STRUCTURES, MAKER)
    assert np.array_equal(read_segmentation(content, grid, STRUCTURES).labels, label)
    drawn = [places[pixels > 0] for _, pixels, places in frames_by_header(parsed(content))]
    assert np.abs(in_order(np.concatenate(drawn)) - world_of(grid, label > 0)).max() <= 0.0011


def test_highdicom_reads_the_same_label(grid: SeriesGrid) -> None:
    label = landmark_label(grid)
    read = highdicom.seg.Segmentation.from_dataset(parsed(write_segmentation(label, grid, STRUCTURES, MAKER)))
    pixels = read.get_pixels_by_source_instance(
        [source.instance_uid for source in grid.slices],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    assert np.array_equal(pixels.T, np.select([label == 1, label == 5], [1, 2], 0))


def test_header_names_algorithm_version_and_codes(grid: SeriesGrid) -> None:
    dataset = parsed(write_segmentation(landmark_label(grid), grid, STRUCTURES, MAKER))
    spleen, spot = dataset.SegmentSequence
    algorithm = spleen.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("UG-MCL", "v0003-3fa1c2")
    assert spleen.SegmentAlgorithmType == "AUTOMATIC"
    assert spleen.SegmentedPropertyTypeCodeSequence[0].CodeValue == "78961009"
    assert spot.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert (spleen.SegmentNumber, spot.SegmentNumber) == (1, 2)
    assert dataset.SegmentationType == "BINARY"


def test_labelmap_numbers_its_segments_by_value(grid: SeriesGrid) -> None:
    dataset = parsed(write_segmentation(landmark_label(grid), grid, STRUCTURES, MAKER, "LABELMAP"))
    assert {int(s.SegmentNumber) for s in dataset.SegmentSequence} - {0} == {1, 5}
    assert set(np.unique(dataset.pixel_array)) == {0, 1, 5}


@pytest.mark.parametrize("form", FORMS)
def test_no_finding_can_be_written_and_read(grid: SeriesGrid, form: str) -> None:
    empty = np.zeros(grid.shape, dtype=np.uint8)
    content = write_segmentation(empty, grid, STRUCTURES, BY_HAND, form)
    found = read_segmentation(content, grid, STRUCTURES)
    assert found.is_empty
    assert not found.by_model
    assert parsed(content).ContentLabel == "NO_FINDING"


def test_a_class_without_voxels_stays_described(grid: SeriesGrid) -> None:
    content = write_segmentation(landmark_label(grid, (5,)), grid, STRUCTURES, MAKER)
    found = read_segmentation(content, grid, STRUCTURES)
    assert set(np.unique(found.labels)) == {0, 5}
    assert [segment.structure.value for segment in found.segments] == [1, 5]


def test_a_models_result_is_told_from_an_experts_label(grid: SeriesGrid) -> None:
    label = landmark_label(grid)
    by_model = write_segmentation(label, grid, STRUCTURES, MAKER)
    by_expert = write_segmentation(label, grid, STRUCTURES, BY_HAND)
    assert read_segmentation(by_model, grid, STRUCTURES).by_model
    assert not read_segmentation(by_expert, grid, STRUCTURES).by_model


@pytest.mark.parametrize("how", ["SEMIAUTOMATIC", "MANUAL"])
def test_header_says_how_a_label_was_made(grid: SeriesGrid, how: str) -> None:
    dataset = parsed(write_segmentation(landmark_label(grid), grid, STRUCTURES, Maker("v1", how=how)))
    for segment in dataset.SegmentSequence:
        assert segment.SegmentAlgorithmType == how
        # By hand: no algorithm may be named.
        assert ("SegmentationAlgorithmIdentificationSequence" in segment) == (how == "SEMIAUTOMATIC")
    assert not read_segmentation(dataset, grid, STRUCTURES).by_model
    with pytest.raises(ValueError, match="AUTOMATIC, SEMIAUTOMATIC or MANUAL"):
        Maker("v1", how="BY MAGIC")


def renumber(dataset: Dataset) -> None:
    """Segments in another order and with other numbers, as an editor may save them."""
    dataset.SegmentSequence = list(reversed(dataset.SegmentSequence))
    for segment in dataset.SegmentSequence:
        segment.SegmentNumber = 3 - segment.SegmentNumber
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        identified = groups.SegmentIdentificationSequence[0]
        identified.ReferencedSegmentNumber = 3 - identified.ReferencedSegmentNumber


def reverse_frames(dataset: Dataset) -> None:
    pixels = dataset.pixel_array[::-1]
    dataset.PerFrameFunctionalGroupsSequence = list(reversed(dataset.PerFrameFunctionalGroupsSequence))
    dataset.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes()


def mirror_rows(dataset: Dataset) -> None:
    """The same voxels with rows running the other way, as writers on other image libraries have them."""
    pixels = dataset.pixel_array[:, :, ::-1]
    dataset.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes()
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    width = float(shared.PixelMeasuresSequence[0].PixelSpacing[1]) * (dataset.Columns - 1)
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        place = groups.PlanePositionSequence[0]
        moved = np.array(place.ImagePositionPatient, dtype=float) + width * cosines[:3]
        place.ImagePositionPatient = [f"{value:.9g}" for value in moved]
    turned = np.concatenate([-cosines[:3], cosines[3:]])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [f"{value:.9g}" for value in turned]


def orientation_in_each_frame(dataset: Dataset) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        groups.PlaneOrientationSequence = copy.deepcopy(shared.PlaneOrientationSequence)
        groups.PixelMeasuresSequence = copy.deepcopy(shared.PixelMeasuresSequence)
    dataset.SharedFunctionalGroupsSequence = [Dataset()]


def positions_only_by_reference(dataset: Dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        del groups.PlanePositionSequence


def other_name(dataset: Dataset) -> None:
    dataset.SegmentSequence[0].SegmentLabel = "Segment 1"  # its code still says spleen


HARMLESS: dict[str, Change] = {
    "segments renumbered": renumber,
    "frames reversed": reverse_frames,
    "rows mirrored": mirror_rows,
    "orientation in each frame": orientation_in_each_frame,
    "positions only by reference": positions_only_by_reference,
    "renamed but coded": other_name,
    "no list of references": lambda dataset: dataset.__delattr__("ReferencedSeriesSequence"),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_other_writers_do_changes_no_voxel(grid: SeriesGrid, change: Change) -> None:
    found = read_segmentation(edited(grid, change), grid, STRUCTURES)
    assert np.array_equal(found.labels, landmark_label(grid))


def shift(dataset: Dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        place = groups.PlanePositionSequence[0]
        place.ImagePositionPatient = [float(value) + 0.3 for value in place.ImagePositionPatient]


def widen(dataset: Dataset) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].PixelSpacing = [2.2, 1.6]


def far_away(dataset: Dataset) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    row = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient[:3], dtype=float)
    columns_mm = float(shared.PixelMeasuresSequence[0].PixelSpacing[1])
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        place = groups.PlanePositionSequence[0]
        moved = np.array(place.ImagePositionPatient, dtype=float) + 12 * columns_mm * row
        place.ImagePositionPatient = [f"{value:.9g}" for value in moved]


def as_bytes(dataset: Dataset, full: int) -> None:
    pixels = dataset.pixel_array
    dataset.SegmentationType, dataset.MaximumFractionalValue = "FRACTIONAL", 255
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = (pixels * full).astype(np.uint8).tobytes()


def fractional(dataset: Dataset) -> None:
    as_bytes(dataset, 100)


def overlap(dataset: Dataset) -> None:
    dataset.PixelData = b"\xff" * len(dataset.PixelData)


def put(keyword: str, value: object) -> Change:
    return lambda dataset: setattr(dataset, keyword, value)


def unnamed(dataset: Dataset) -> None:
    dataset.SegmentSequence[1].SegmentLabel = "Segment 2"  # and its code is the generic one


def contradicting(dataset: Dataset) -> None:
    dataset.SegmentSequence[1].SegmentLabel = "spleen"
    dataset.SegmentSequence[0].SegmentLabel = "sore spot"


def undescribed(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 7


def another_series(dataset: Dataset) -> None:
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


def fewer_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:20]


REFUSED: dict[str, tuple[Change, str]] = {
    "another frame of reference": (put("FrameOfReferenceUID", "1.2.3"), "frame of reference 1.2.3"),
    "another series": (another_series, "refers to the series 1.2.3"),
    "another grid": (shift, "lies on another grid"),
    "another spacing": (widen, "lies on another grid"),
    "outside": (far_away, "reaches outside"),
    "overlap": (overlap, "overlap"),
    "parts of voxels": (fractional, "parts of voxels"),
    "a form of its own": (put("SegmentationType", "OTHER"), "of the type 'OTHER'"),
    "no segmentation": (put("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"), "no DICOM SEG"),
    "a segment without a class": (unnamed, "'Segment 2' .* is no class of this project"),
    "label against code": (contradicting, "make label and code agree"),
    "an undescribed segment": (undescribed, "segment 7, which it does not describe"),
    "pixels cut off": (fewer_pixels, "damaged"),
    "frames undescribed": (lambda d: d.PerFrameFunctionalGroupsSequence.pop(), "damaged|describes"),
    "no segments": (lambda d: d.__delattr__("SegmentSequence"), "damaged or misses"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_label_of_the_series_is_refused(grid: SeriesGrid, change: Change, reason: str) -> None:
    dataset = edited(grid, change)
    with pytest.raises(UnusableSegmentation, match=reason):
        read_segmentation(dataset, grid, STRUCTURES)


@pytest.mark.parametrize("full", [1, 255])
def test_a_mask_that_calls_itself_fractional_is_read(grid: SeriesGrid, full: int) -> None:
    # dcmjs does so when it compresses a mask, and then stores 1 for 255.
    dataset = edited(grid, lambda dataset: as_bytes(dataset, full))
    assert np.array_equal(read_segmentation(dataset, grid, STRUCTURES).labels, landmark_label(grid))


def test_names_of_people_reach_the_object_and_no_warning(grid: SeriesGrid) -> None:
    # highdicom would quote a name of one part in a warning; the test run turns warnings into errors.
    for header in grid.headers:
        header.PatientName = "Single"
    dataset = parsed(write_segmentation(landmark_label(grid), grid, STRUCTURES, MAKER))
    assert dataset.PatientName == "Single"
    assert dataset.PatientID == "PHANTOM"
    assert {str(header.PatientName) for header in grid.headers} == {"Single"}


ODD = {
    "StudyDate": b"24.1.2024",
    "PatientBirthDate": b"unknown ",
    "StudyTime": b"noon",
    "PatientSex": b"female and more than sixteen",
    "AccessionNumber": b"longer than sixteen characters",
    "PatientID": b"P" * 90,
}


@pytest.mark.parametrize("keyword", ODD)
def test_odd_patient_and_study_attributes_pass_unchanged_and_unsaid(
    keyword: str, caplog: pytest.LogCaptureFixture
) -> None:
    contents = []
    for dataset in phantom_series(PLANS["axial"]):
        element = RawDataElement(
            Tag(keyword), dictionary_VR(keyword), len(ODD[keyword]), ODD[keyword], 0, False, True
        )
        dataset[Tag(keyword)] = element
        contents.append(encoded(dataset))
    with caplog.at_level(logging.DEBUG):
        grid = read_grid(contents)
        content = write_segmentation(landmark_label(grid), grid, STRUCTURES, MAKER)
    assert str(parsed(content)[keyword].value).encode() == ODD[keyword].strip()
    assert ODD[keyword].decode().strip() not in caplog.text


def test_names_keep_their_letters() -> None:
    instances = phantom_series(PLANS["axial"])
    for dataset in instances:
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Jörg"
    grid = read_grid([encoded(dataset) for dataset in instances])
    assert (
        parsed(write_segmentation(landmark_label(grid), grid, STRUCTURES, MAKER)).PatientName == "Müller^Jörg"
    )


def test_bytes_that_are_no_dicom_are_refused(grid: SeriesGrid) -> None:
    with pytest.raises(UnusableSegmentation, match="no DICOM object"):
        read_segmentation(b"nothing", grid, STRUCTURES)
    content = write_segmentation(landmark_label(grid), grid, STRUCTURES, MAKER)
    with pytest.raises(UnusableSegmentation):
        read_segmentation(content[: len(content) // 2], grid, STRUCTURES)


def test_the_one_segment_of_a_project_without_names_may_have_any(grid: SeriesGrid) -> None:
    unnamed_project = StructureMap.of({"foreground": 1})
    content = write_segmentation(landmark_label(grid, (1,)), grid, StructureMap.of({"liver": 1}), MAKER)
    assert read_segmentation(content, grid, unnamed_project).labels.any()
    with pytest.raises(UnusableSegmentation):
        read_segmentation(edited(grid, lambda dataset: None), grid, unnamed_project)


def test_a_value_without_a_class_is_not_written(grid: SeriesGrid) -> None:
    with pytest.raises(ValueError, match=r"values \[2\], which no class"):
        write_segmentation(landmark_label(grid, (1, 2)), grid, STRUCTURES, MAKER)
    with pytest.raises(ValueError, match="shape"):
        write_segmentation(np.zeros((2, 2, 2), np.uint8), grid, STRUCTURES, MAKER)
    with pytest.raises(ValueError, match="allowed: BINARY, LABELMAP"):
        write_segmentation(landmark_label(grid), grid, STRUCTURES, MAKER, "FRACTIONAL")


def test_values_beyond_a_byte_survive_both_forms(grid: SeriesGrid) -> None:
    classes = StructureMap.of({"one": 1, "far": 300})
    label = landmark_label(grid).astype(np.uint16)
    label[label == 5] = 300
    for form in FORMS:
        found = read_segmentation(write_segmentation(label, grid, classes, MAKER, form), grid, classes)
        assert np.array_equal(found.labels, label)


def test_a_series_without_frame_of_reference_cannot_be_referred_to() -> None:
    instances = phantom_series(PLANS["axial"])
    for dataset in instances:
        del dataset.FrameOfReferenceUID
    grid = read_grid(instances)
    with pytest.raises(UnusableSeries, match="no FrameOfReferenceUID"):
        write_segmentation(landmark_label(grid), grid, STRUCTURES, MAKER)


def test_header_attributes_missing_in_the_source_do_not_stop_the_writer() -> None:
    instances = phantom_series(PLANS["axial"])
    for dataset in instances:
        for keyword in ("PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "SliceThickness"):
            delattr(dataset, keyword)
    grid = read_grid(instances)
    assert write_segmentation(landmark_label(grid), grid, STRUCTURES, MAKER)
    assert "PatientSex" not in grid.headers[0]
