"""Other people's programs accept what we write: dciodvfy finds no error, dcmqi reads the same voxels."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import nrrd
import numpy as np
import pytest

from lib.dicom.parametric_map import write_map
from lib.dicom.references import BY_HAND
from lib.dicom.refusals import UnusableSegmentation
from lib.dicom.segmentation_reading import read_segmentation
from lib.dicom.segmentation_writing import BINARY, LABELMAP, write_segmentation
from lib.dicom.series import SeriesGrid, read_grid
from lib.dicom.structures import StructureMap
from tests.dicom.labels import MAKER, STRUCTURES, in_order, landmark_label, world_of
from tests.dicom.phantom_series import PLANS, encoded, enhanced_phantom, phantom_series
from tests.dicom.test_parametric_map import REACH_MM, position_map

ALLOWED_ERRORS = {
    # Debian 12's dicom3tools (2022) is older than Supplement 243, which brought the label map in 2024: it
    # knows neither the SOP class nor that segment 0 is the background there.
    LABELMAP: ("SegmentNumber not monotonically increasing from one by one", "Information Object Not found"),
}
"""Errors of dciodvfy that are not ours, by form; nothing else is let through."""


def program(name: str) -> str:
    """The path of a validation program, on PATH or in the folder UGMCL_DCMQI; skips without it."""
    folder = os.environ.get("UGMCL_DCMQI")
    found = shutil.which(name, path=folder) if folder else None
    found = found or shutil.which(name)
    if found is None:
        package = "apt install dicom3tools" if name == "dciodvfy" else "pip install dcmqi into an own venv"
        pytest.skip(f"{name} is not installed ({package}; see docs/dicom.md)")
    return found


def errors_of(content: bytes, folder: Path) -> list[str]:
    path = folder / "object.dcm"
    path.write_bytes(content)
    done = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    assert "Segmentation" in done.stderr or "ParametricMap" in done.stderr or "Error" in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


SOURCES = {
    "MR": lambda: phantom_series(PLANS["oblique"]),
    "CT": lambda: phantom_series(PLANS["oblique_falling"]),
    "enhanced MR": lambda: [enhanced_phantom(PLANS["axial"])],
}


@pytest.mark.parametrize("form", [BINARY, LABELMAP])
@pytest.mark.parametrize("source", SOURCES)
def test_dciodvfy_finds_no_error_in_a_segmentation(source: str, form: str, tmp_path: Path) -> None:
    grid = read_grid(SOURCES[source]())
    kidneys = StructureMap.of({"left kidney": 1, "right kidney": 5})
    errors = errors_of(write_segmentation(landmark_label(grid), grid, kidneys, MAKER, form), tmp_path)
    assert not [e for e in errors if not any(allowed in e for allowed in ALLOWED_ERRORS.get(form, ()))]


def test_dciodvfy_finds_no_error_in_a_no_finding(tmp_path: Path) -> None:
    grid = read_grid(phantom_series(PLANS["axial"]))
    empty = np.zeros(grid.shape, dtype=np.uint8)
    content = write_segmentation(empty, grid, STRUCTURES, BY_HAND)
    assert not errors_of(content, tmp_path)


@pytest.mark.parametrize("source", SOURCES)
def test_dciodvfy_finds_no_error_in_a_map(source: str, tmp_path: Path) -> None:
    grid = read_grid(SOURCES[source]())
    values = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    assert not errors_of(write_map(values, grid, MAKER), tmp_path)


@pytest.mark.real
@pytest.mark.parametrize("name", ["series_1", "series_2", "series_3"])
def test_dciodvfy_finds_no_error_on_a_real_series(name: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "hippocampus_dicom" / name
    if not folder.is_dir():
        pytest.skip(f"no DICOM series at {folder}")
    grid = read_grid(folder)
    for header in grid.headers:  # the headers carry joke names
        header.PatientName, header.PatientID = "Anonymous", "ANONYMOUS"
    classes = StructureMap.of({"hippocampus": 1, "posterior": 2})
    assert not errors_of(write_segmentation(landmark_label(grid, (1, 2)), grid, classes, MAKER), tmp_path)
    assert not errors_of(write_map(np.zeros(grid.shape, np.float32), grid, MAKER), tmp_path)


def run_dcmqi(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([program(name), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    return done


@pytest.mark.parametrize(
    "name", ["axial", "one_axis_flipped", "sagittal", "anisotropic", "oblique", "oblique_falling"]
)
def test_dcmqi_reads_the_label_at_the_same_millimeter(name: str, tmp_path: Path) -> None:
    program("segimage2itkimage")
    grid = read_grid(phantom_series(PLANS[name]))
    label = landmark_label(grid)
    (tmp_path / "label.dcm").write_bytes(write_segmentation(label, grid, STRUCTURES, MAKER))
    options = {
        "--inputDICOM": "label.dcm",
        "--outputDirectory": ".",
        "--prefix": "out",
        "--outputType": "nrrd",
    }
    arguments = [
        str(tmp_path / v) if k in ("--inputDICOM", "--outputDirectory") else v for k, v in options.items()
    ]
    run_dcmqi("segimage2itkimage", *(part for pair in zip(options, arguments, strict=True) for part in pair))
    for number, value in ((1, 1), (2, 5)):
        voxels, header = nrrd.read(str(tmp_path / f"out-{number}.nrrd"))
        steps = np.asarray(header["space directions"], dtype=float)
        assert header["space"] == "left-posterior-superior"
        places = np.argwhere(voxels > 0) @ steps + np.asarray(header["space origin"], dtype=float)
        assert np.abs(in_order(places) - world_of(grid, label == value)).max() <= 0.0021
    described = json.loads((tmp_path / "out-meta.json").read_text())
    names = [entry[0]["SegmentLabel"] for entry in described["segmentAttributes"]]
    assert names == ["spleen", "sore spot"]


@pytest.mark.parametrize("name", ["axial", "one_axis_flipped", "sagittal", "anisotropic", "oblique_falling"])
def test_dcmqi_reads_the_map_at_the_same_millimeter(name: str, tmp_path: Path) -> None:
    grid = read_grid(phantom_series(PLANS[name]))
    for coordinate in range(3):
        (tmp_path / "map.dcm").write_bytes(write_map(position_map(grid, coordinate), grid, MAKER))
        run_dcmqi(
            "paramap2itkimage",
            *("--inputDICOM", str(tmp_path / "map.dcm"), "--outputDirectory", str(tmp_path)),
            *("--outputType", "nrrd", "--prefix", "out"),
        )
        voxels, header = nrrd.read(str(tmp_path / "out-pmap.nrrd"))
        steps = np.asarray(header["space directions"], dtype=float)
        indices = np.argwhere(np.ones(voxels.shape, bool))
        places = indices @ steps + np.asarray(header["space origin"], dtype=float)
        told = (voxels[tuple(indices.T)] - 0.5) * 2 * REACH_MM
        assert np.abs(told - places[:, coordinate]).max() < 0.005


def dcmqi_segmentation(grid: SeriesGrid, files: Path, label: np.ndarray, folder: Path) -> Path:
    """A DICOM SEG written by dcmqi of a label on the grid of a series."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3,
    }
    nrrd.write(str(folder / "label.nrrd"), label.astype(np.int16), header, index_order="F")

    def segment(number: int, name: str, code: str, meaning: str) -> dict[str, object]:
        category = {
            "CodeValue": "91723000",
            "CodingSchemeDesignator": "SCT",
            "CodeMeaning": "Anatomical Structure",
        }
        return {
            "labelID": number,
            "SegmentLabel": name,
            "SegmentDescription": name,
            "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": category,
            "SegmentedPropertyTypeCodeSequence": {
                "CodeValue": code,
                "CodingSchemeDesignator": "SCT",
                "CodeMeaning": meaning,
            },
            "recommendedDisplayRGBValue": [10 * number, 200, 60],
        }

    described = {
        "ContentCreatorName": "Reader",
        "ClinicalTrialSeriesID": "1",
        "ClinicalTrialTimePointID": "1",
        "SeriesDescription": "by dcmqi",
        "SeriesNumber": "300",
        "InstanceNumber": "1",
        "BodyPartExamined": "ABDOMEN",
        "segmentAttributes": [
            [segment(1, "Segment 1", "78961009", "Spleen"), segment(5, "sore spot", "85756007", "Tissue")]
        ],
    }
    (folder / "meta.json").write_text(json.dumps(described))
    run_dcmqi(
        "itkimage2segimage",
        *("--inputImageList", str(folder / "label.nrrd"), "--inputDICOMDirectory", str(files)),
        *("--inputMetadata", str(folder / "meta.json"), "--outputDICOM", str(folder / "dcmqi.dcm"), "--skip"),
    )
    return folder / "dcmqi.dcm"


@pytest.mark.parametrize("name", ["axial", "one_axis_flipped", "anisotropic", "oblique", "oblique_falling"])
def test_a_segmentation_by_dcmqi_reads_voxel_for_voxel(name: str, tmp_path: Path) -> None:
    program("itkimage2segimage")
    instances = phantom_series(PLANS[name])
    files = tmp_path / "series"
    files.mkdir()
    for index, dataset in enumerate(instances):
        (files / f"{index}.dcm").write_bytes(encoded(dataset))
    grid = read_grid(instances)
    label = landmark_label(grid)
    found = read_segmentation(dcmqi_segmentation(grid, files, label, tmp_path), grid, STRUCTURES)
    assert np.array_equal(found.labels, label)
    assert not found.by_model
    with pytest.raises(UnusableSegmentation):
        read_segmentation(tmp_path / "dcmqi.dcm", read_grid(phantom_series(PLANS[name])), STRUCTURES)


def dcmjs_segmentation(
    files: list[Path], grid: SeriesGrid, label: np.ndarray, folder: Path, rle: bool
) -> Path:
    """A DICOM SEG written by dcmjs, which writes OHIF's; its segments are numbered 1 and 2."""
    library = os.environ.get("UGMCL_DCMJS")
    if shutil.which("node") is None or not library:
        pytest.skip(
            "no dcmjs: install node and npm's dcmjs, and set UGMCL_DCMJS to its folder (docs/dicom.md)"
        )
    numbered = np.select([label == 1, label == 5], [1, 2], 0).astype(np.uint8)
    slices = [
        {
            "position": ((grid.affine @ [0, 0, index, 1])[:3] * [-1, -1, 1]).tolist(),
            "pixels": base64.b64encode(np.ascontiguousarray(numbered[:, :, index].T).tobytes()).decode(),
        }
        for index in range(grid.shape[2])
    ]

    def segment(name: str, code: str, meaning: str) -> dict[str, object]:
        category = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}
        return {
            "SegmentedPropertyCategoryCodeSequence": category,
            "SegmentLabel": name,
            "SegmentAlgorithmType": "SEMIAUTOMATIC",
            "SegmentAlgorithmName": "OHIF Brush",
            "SegmentedPropertyTypeCodeSequence": {
                "CodeValue": code,
                "CodingSchemeDesignator": "SCT",
                "CodeMeaning": meaning,
            },
        }

    segments = [segment("Segment 1", "78961009", "Spleen"), segment("sore spot", "85756007", "Tissue")]
    job = {"files": [str(file) for file in files], "slices": slices, "segments": segments, "rle": rle}
    (folder / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("write_with_dcmjs.cjs")
    command = ["node", str(script), library, str(folder / "job.json"), str(folder / "dcmjs.dcm")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    return folder / "dcmjs.dcm"


@pytest.mark.parametrize("rle", [False, True], ids=["packed", "rle"])
@pytest.mark.parametrize("name", ["axial", "one_axis_flipped", "anisotropic", "oblique", "oblique_falling"])
def test_a_segmentation_by_dcmjs_reads_voxel_for_voxel(name: str, rle: bool, tmp_path: Path) -> None:
    instances = phantom_series(PLANS[name])
    files = [tmp_path / f"{index}.dcm" for index in range(len(instances))]
    for file, dataset in zip(files, instances, strict=True):
        file.write_bytes(encoded(dataset))
    grid = read_grid(instances)
    label = landmark_label(grid)
    found = read_segmentation(dcmjs_segmentation(files, grid, label, tmp_path, rle), grid, STRUCTURES)
    assert np.array_equal(found.labels, label)
    assert not found.by_model
