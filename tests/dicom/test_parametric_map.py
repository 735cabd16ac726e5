"""An uncertainty map goes out as Parametric Map and comes back, float for float, at the same millimeter."""

from __future__ import annotations

import highdicom
import numpy as np
import pytest
from pydicom.dataset import Dataset

from lib.dicom.parametric_map import read_map, write_map
from lib.dicom.refusals import UnusableMap
from lib.dicom.series import SeriesGrid, read_grid
from tests.dicom.labels import MAKER, frames_by_header, parsed
from tests.dicom.phantom_series import PLANS, enhanced_phantom, phantom_series

REACH_MM = 200.0


def position_map(grid: SeriesGrid, coordinate: int) -> np.ndarray:
    """A map whose values are one LPS coordinate, brought into [0, 1]."""
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    world = (indices @ grid.affine[:3, :3].T + grid.affine[:3, 3]) * [-1, -1, 1]
    return (world[..., coordinate] / (2 * REACH_MM) + 0.5).astype(np.float32)


@pytest.fixture
def grid() -> SeriesGrid:
    return read_grid(phantom_series(PLANS["oblique"]))


@pytest.mark.parametrize("coordinate", [0, 1, 2])
@pytest.mark.parametrize("name", PLANS)
def test_every_pixel_lies_where_its_value_says(name: str, coordinate: int) -> None:
    grid = read_grid(phantom_series(PLANS[name]))
    values = position_map(grid, coordinate)
    content = write_map(values, grid, MAKER)
    for _, pixels, places in frames_by_header(parsed(content)):
        told = (pixels - 0.5) * 2 * REACH_MM
        assert np.abs(told - places[..., coordinate]).max() < 0.001
    assert np.array_equal(read_map(content, grid), values)


def test_a_multi_frame_source_keeps_its_frames_apart() -> None:
    grid = read_grid([enhanced_phantom(PLANS["oblique"])])
    values = position_map(grid, 2)
    content = write_map(values, grid, MAKER)
    assert np.array_equal(read_map(content, grid), values)
    for _, pixels, places in frames_by_header(parsed(content)):
        assert np.abs((pixels - 0.5) * 2 * REACH_MM - places[..., 2]).max() < 0.001


def test_header_says_what_the_values_are_and_how_to_show_them(grid: SeriesGrid) -> None:
    dataset = parsed(write_map(position_map(grid, 0), grid, MAKER))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    mapping = shared.RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1.0, 0.0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "UNCERTAINTY"
    window = shared.FrameVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth) == (0.5, 1.0)
    assert window.VOILUTFunction == "LINEAR_EXACT"
    assert dataset.BitsAllocated == 32
    assert "FloatPixelData" in dataset
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == grid.uid
    assert MAKER.version in dataset.SoftwareVersions


def test_highdicom_reads_the_same_values(grid: SeriesGrid) -> None:
    values = position_map(grid, 1)
    read = highdicom.pm.ParametricMap.from_dataset(parsed(write_map(values, grid, MAKER)))
    volume = read.get_volume()
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    to_ours = np.linalg.inv(lps) @ volume.affine
    places = np.argwhere(np.ones(volume.array.shape, bool))
    ours = np.round(places @ to_ours[:3, :3].T + to_ours[:3, 3]).astype(int)
    assert np.allclose(volume.array.ravel(), values[tuple(ours.T)])


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf])
def test_values_outside_the_measure_are_not_written(grid: SeriesGrid, value: float) -> None:
    values = np.zeros(grid.shape, dtype=np.float32)
    values[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"allowed is \[0, 1\]"):
        write_map(values, grid, MAKER)


def without_a_slice(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence.pop()
    dataset.NumberOfFrames -= 1
    dataset.FloatPixelData = dataset.FloatPixelData[: -dataset.Rows * dataset.Columns * 4]


def moved(dataset: Dataset) -> None:
    place = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    place.ImagePositionPatient = [float(value) + 0.4 for value in place.ImagePositionPatient]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_a_slice, "does not cover every slice"),
        (moved, "another grid"),
        (lambda dataset: setattr(dataset, "FrameOfReferenceUID", "1.2.3"), "not in the frame of reference"),
        (lambda dataset: setattr(dataset, "SOPClassUID", "1.2.3"), "no DICOM Parametric Map"),
    ],
)
def test_what_is_no_map_of_the_series_is_refused(grid: SeriesGrid, change: object, reason: str) -> None:
    dataset = parsed(write_map(position_map(grid, 0), grid, MAKER))
    change(dataset)  # type: ignore[operator]
    with pytest.raises(UnusableMap, match=reason):
        read_map(dataset, grid)
