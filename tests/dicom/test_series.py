"""A DICOM series becomes a volume at the same millimeter, or is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLosslessSV1, generate_uid

from lib.dicom.refusals import UnusableSeries
from lib.dicom.series import read_grid, read_series
from tests.dicom.phantom_series import PLANS, UNIT_MM, StackPlan, encoded, enhanced_phantom, phantom_series

Change = Callable[[list[Dataset]], object]


def lps_coordinates(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return (indices @ affine[:3, :3].T + affine[:3, 3]) * [-1, -1, 1]


@pytest.mark.parametrize("coordinate", [0, 1, 2])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_voxel_lies_where_its_value_says(plan: StackPlan, coordinate: int) -> None:
    series = read_series(phantom_series(plan, coordinate))
    expected = lps_coordinates(series.grid.affine, series.grid.shape)[..., coordinate]
    assert series.volume.array.dtype == np.float32
    assert np.abs(series.volume.array - expected).max() < 0.51 * UNIT_MM
    assert np.linalg.det(series.grid.affine[:3, :3]) > 0
    assert series.grid.spacing_mm == pytest.approx(plan.spacing, abs=1e-6)


@pytest.mark.parametrize("coordinate", [0, 1, 2])
@pytest.mark.parametrize("name", ["axial", "oblique", "oblique_falling", "anisotropic"])
def test_enhanced_multi_frame_lies_where_its_values_say(name: str, coordinate: int) -> None:
    series = read_series([enhanced_phantom(PLANS[name], coordinate)])
    expected = lps_coordinates(series.grid.affine, series.grid.shape)[..., coordinate]
    assert np.abs(series.volume.array - expected).max() < 0.51 * UNIT_MM


def test_slices_know_the_instance_they_came_from() -> None:
    instances = phantom_series(PLANS["oblique_falling"])
    grid = read_series(instances).grid
    position = {str(d.SOPInstanceUID): np.array(d.ImagePositionPatient, dtype=float) for d in instances}
    for index, source in enumerate(grid.slices):
        corner = (grid.affine @ [0, 0, index, 1])[:3] * [-1, -1, 1]
        assert corner == pytest.approx(position[source.instance_uid], abs=1e-6)
        assert grid.slice_of(source.instance_uid) == index
    assert grid.slice_of(generate_uid()) is None


def test_slices_of_a_multi_frame_instance_know_their_frame() -> None:
    dataset = enhanced_phantom(PLANS["axial"])
    grid = read_grid([dataset])
    for index, source in enumerate(grid.slices):
        assert source.frame is not None
        frame = dataset.PerFrameFunctionalGroupsSequence[source.frame - 1]
        height = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        assert height == pytest.approx((grid.affine @ [0, 0, index, 1])[2])


def test_a_folder_reads_as_its_bytes_do_and_headers_give_the_same_grid(tmp_path: Path) -> None:
    instances = phantom_series(PLANS["anisotropic"])
    for index, dataset in enumerate(instances):
        (tmp_path / f"{index}.dcm").write_bytes(encoded(dataset))
    (tmp_path / "DICOMDIR").write_bytes(b"")
    from_files, from_bytes = read_series(tmp_path), read_series([encoded(d) for d in instances])
    assert np.array_equal(from_files.volume.array, from_bytes.volume.array)
    grid = read_grid(tmp_path)
    assert np.array_equal(grid.affine, from_files.grid.affine)
    assert grid.slices == from_files.grid.slices
    assert all("PixelData" not in header for header in from_files.grid.headers)


def drop_one(instances: list[Dataset]) -> None:
    instances.remove(next(d for d in instances if d.InstanceNumber == 4))


def move(number: int, by_mm: float, axis: int) -> Change:
    def change(instances: list[Dataset]) -> None:
        dataset = next(d for d in instances if d.InstanceNumber == number)
        position = [float(value) for value in dataset.ImagePositionPatient]
        position[axis] += by_mm
        dataset.ImagePositionPatient = position

    return change


def second_phase(instances: list[Dataset]) -> None:
    for dataset in phantom_series(PLANS["axial"]):
        for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
            setattr(dataset, keyword, getattr(instances[0], keyword))
        instances.append(dataset)


def put(keyword: str, value: object) -> Change:
    return lambda instances: setattr(instances[2], keyword, value)


def tilt(instances: list[Dataset]) -> None:
    for dataset in instances:
        position = [float(value) for value in dataset.ImagePositionPatient]
        dataset.ImagePositionPatient = [position[0], position[1] + 0.2 * dataset.InstanceNumber, position[2]]


def cut_pixels(instances: list[Dataset]) -> None:
    instances[2].PixelData = instances[2].PixelData[:-40]


def remove(keyword: str) -> Change:
    return lambda instances: delattr(instances[2], keyword)


REFUSALS: dict[str, tuple[Change, str]] = {
    "missing slice": (drop_one, "slices are missing: between 42.00 and 44.00 mm"),
    "two phases": (second_phase, "share a place"),
    "uneven": (move(4, 0.4, 2), "not evenly spaced"),
    "shifted sideways": (move(4, 0.4, 0), "beside its place"),
    "tilted gantry": (tilt, "tilted gantry"),
    "mixed orientation": (put("ImageOrientationPatient", [0, 1, 0, 0, 0, -1]), "oriented differently"),
    "no unit vectors": (put("ImageOrientationPatient", [1, 0, 0, 0, 2, 0]), "two unit vectors"),
    "mixed spacing": (put("PixelSpacing", [2, 2]), "pixel spacings"),
    "mixed size": (put("Rows", 12), "different sizes"),
    "other series": (put("SeriesInstanceUID", "1.2.3"), "mixed with those of 1 other series"),
    "other frame of reference": (put("FrameOfReferenceUID", "1.2.3"), "2 frames of reference"),
    "no position": (remove("ImagePositionPatient"), "does not say where it lies"),
    "position of text": (put("ImagePositionPatient", ["1", "2"]), "does not say where it lies"),
    "ultrasound": (put("Modality", "US"), "its modality is US; allowed are MR and CT"),
    "colors": (put("SamplesPerPixel", 3), "no image of one value a pixel"),
    "frames without positions": (put("NumberOfFrames", 3), "several frames without positions"),
    "pixels cut off": (cut_pixels, "its pixels end early"),
    "no pixels": (remove("PixelData"), "has no pixels"),
    "one slice": (lambda instances: instances.__delitem__(slice(1, None)), "a single slice"),
    "an instance twice": (lambda instances: instances.append(instances[0]), "is there twice"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_series_that_is_no_volume_is_refused_by_name_and_reason(change: Change, reason: str) -> None:
    instances = phantom_series(PLANS["axial"])
    uid = str(instances[0].SeriesInstanceUID)
    change(instances)
    with pytest.raises(UnusableSeries, match=r"^The series .* cannot be used: ") as refused:
        read_series(instances)
    assert reason in str(refused.value)
    assert uid in str(refused.value) or "1.2.3" in str(refused.value)
    assert "Phantom" not in str(refused.value)


@pytest.mark.parametrize("part", [0.02, 0.4, 0.9, 0.999])
def test_a_truncated_file_is_refused_whatever_is_left_of_it(tmp_path: Path, part: float) -> None:
    for index, dataset in enumerate(phantom_series(PLANS["axial"])):
        content = encoded(dataset)
        (tmp_path / f"{index}.dcm").write_bytes(
            content[: int(len(content) * part)] if index == 3 else content
        )
    with pytest.raises(UnusableSeries):
        read_series(tmp_path)


def test_unreadable_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableSeries, match="no instances"):
        read_series(tmp_path)
    (tmp_path / "notes.txt").write_text("no DICOM, but long enough to be looked into" * 10)
    with pytest.raises(UnusableSeries, match=r"the file notes\.txt"):
        read_series(tmp_path)
    with pytest.raises(UnusableSeries, match="the 7 bytes received"):
        read_series([b"nothing"])


def test_a_compression_that_cannot_be_read_is_named() -> None:
    instances = phantom_series(PLANS["axial"])
    for dataset in instances:
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8damaged"])
        dataset["PixelData"].is_undefined_length = True
    with pytest.raises(UnusableSeries, match="JPEG Lossless"):
        read_series(instances)


def test_positions_rounded_by_the_scanner_are_accepted() -> None:
    instances = phantom_series(replace(PLANS["oblique"], spacing=(0.8, 0.8, 0.6)))
    for dataset in instances:
        dataset.ImagePositionPatient = [f"{float(value):.2f}" for value in dataset.ImagePositionPatient]
    assert read_series(instances).grid.spacing_mm[2] == pytest.approx(0.6, abs=0.005)


@pytest.mark.real
@pytest.mark.parametrize("name", ["series_1", "series_2", "series_3"])
def test_real_series_read_with_their_header_quirks(shared_data: Path, name: str) -> None:
    folder = shared_data / "hippocampus_dicom" / name
    if not folder.is_dir():
        pytest.skip(f"no DICOM series at {folder}")
    series = read_series(folder)
    assert series.grid.shape[2] == len(list(folder.glob("*.dcm")))
    assert series.grid.spacing_mm == pytest.approx((1, 1, 1))
    assert series.volume.array.std() > 0
