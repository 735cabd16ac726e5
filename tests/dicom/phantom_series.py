"""A landmark phantom as a DICOM series: the value of a voxel is its own world coordinate."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

UNIT_MM = 0.01
"""Stored values count this much: a coordinate is kept to half of it."""


def oblique_directions(*degrees: float) -> NDArray[np.float64]:
    """Direction cosines of row and column after rotations about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        first, second = [(1, 2), (2, 0), (0, 1)][axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[second, first], turn[first, second] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return np.concatenate([matrix[:, 0], matrix[:, 1]])


@dataclass(frozen=True)
class StackPlan:
    """One phantom: geometry in LPS mm.

    Attributes:
        orientation: Row then column direction.
        spacing: Between columns, rows and slices.
        shape: Columns, rows, slices.
        origin: Center of the first voxel of slice 0.
        direction: +1: slice positions grow along row times column; -1: they fall.
        modality: `MR` or `CT`.
    """

    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shape: tuple[int, int, int] = (14, 11, 7)
    origin: tuple[float, float, float] = (-31.25, 12.5, 40.0)
    direction: int = 1
    modality: str = "MR"

    @property
    def steps(self) -> NDArray[np.float64]:
        """`(3, 3)`: LPS mm for one voxel along columns, rows and slices."""
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        normal = np.cross(row, column) * self.direction
        return np.stack([row, column, normal], axis=1) * np.array(self.spacing)

    def world(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """LPS mm `(..., 3)` of voxel indices `(..., 3)` as the scanner counts them."""
        return indices @ self.steps.T + np.array(self.origin)


PLANS = {
    "axial": StackPlan(),
    "axial_falling": StackPlan(direction=-1),
    "rows_and_columns_flipped": StackPlan(orientation=(-1, 0, 0, 0, -1, 0)),
    "one_axis_flipped": StackPlan(orientation=(1, 0, 0, 0, -1, 0)),
    "sagittal": StackPlan(orientation=(0, 1, 0, 0, 0, -1), spacing=(0.9, 0.9, 1.2)),
    "coronal": StackPlan(orientation=(1, 0, 0, 0, 0, -1), direction=-1),
    "anisotropic": StackPlan(spacing=(0.6875, 0.75, 3.3), modality="CT"),
    "oblique": StackPlan(orientation=tuple(oblique_directions(17, -23, 31)), spacing=(0.8, 1.1, 2.5)),
    "oblique_falling": StackPlan(
        orientation=tuple(oblique_directions(-40, 12, 70)),
        spacing=(1.3, 0.7, 1.9),
        direction=-1,
        modality="CT",
    ),
}


def header(plan: StackPlan, uids: dict[str, str]) -> Dataset:
    """What all instances of a phantom share."""
    dataset = Dataset()
    dataset.PatientName, dataset.PatientID = "Phantom^Landmark", "PHANTOM"
    dataset.PatientBirthDate, dataset.PatientSex = "", "O"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids["study"], uids["series"]
    dataset.FrameOfReferenceUID = uids["frame"]
    dataset.StudyID, dataset.SeriesNumber, dataset.AccessionNumber = "1", 1, ""
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20240101"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "120000"
    dataset.Modality, dataset.Manufacturer, dataset.ReferringPhysicianName = plan.modality, "phantom", ""
    dataset.PositionReferenceIndicator = ""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Rows, dataset.Columns = plan.shape[1], plan.shape[0]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    return dataset


def phantom_series(plan: StackPlan, coordinate: int = 0, shuffle: int | None = 1) -> list[Dataset]:
    """Single-frame instances whose values, after slope and intercept, are one LPS coordinate in mm.

    Args:
        plan: The geometry.
        coordinate: 0, 1 or 2: which coordinate.
        shuffle: Seed of the order; None keeps the scanner's.
    """
    uids = {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}
    instances = []
    for number in range(plan.shape[2]):
        dataset = header(plan, uids)
        dataset.SOPClassUID = CTImageStorage if plan.modality == "CT" else MRImageStorage
        dataset.SOPInstanceUID, dataset.InstanceNumber = generate_uid(), number + 1
        # 16 characters of a DS leave ten digits: enough for 1e-7 mm.
        dataset.ImageOrientationPatient = [f"{value:.10g}"[:16] for value in plan.orientation]
        dataset.ImagePositionPatient = [f"{v:.9g}" for v in plan.world(np.array([0.0, 0.0, number]))]
        dataset.PixelSpacing = [plan.spacing[1], plan.spacing[0]]
        dataset.SliceThickness = 0.5 * plan.spacing[2]  # on purpose not the distance of the slices
        # The intercept differs by slice, as the slopes of PET and some MR do.
        dataset.RescaleSlope, dataset.RescaleIntercept = UNIT_MM, float(number)
        values = (coordinates(plan, number)[..., coordinate] - number) / UNIT_MM
        dataset.PixelData = np.round(values).astype("<i2").tobytes()
        instances.append(as_file(dataset))
    if shuffle is not None:
        random.Random(shuffle).shuffle(instances)
    return instances


def coordinates(plan: StackPlan, number: int) -> NDArray[np.float64]:
    """`(rows, columns, 3)` LPS mm of one slice's voxels."""
    rows, columns = np.mgrid[: plan.shape[1], : plan.shape[0]]
    return plan.world(np.stack([columns, rows, np.full_like(rows, number)], axis=-1).astype(float))


def enhanced_phantom(plan: StackPlan, coordinate: int = 0) -> Dataset:
    """The same as one multi-frame instance, its frames in a scrambled order."""
    plan = replace(plan, modality="MR")
    uids = {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}
    dataset = header(plan, uids)
    dataset.SOPClassUID, dataset.SOPInstanceUID = EnhancedMRImageStorage, generate_uid()
    dataset.InstanceNumber, dataset.NumberOfFrames = 1, plan.shape[2]
    order = list(range(plan.shape[2]))
    random.Random(3).shuffle(order)
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [plan.spacing[1], plan.spacing[0]], plan.spacing[2]
    orientation.ImageOrientationPatient = [f"{value:.10g}"[:16] for value in plan.orientation]
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])
    frames, pixels = [], []
    for number in order:
        frame, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [f"{v:.9g}" for v in plan.world(np.array([0.0, 0.0, number]))]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = UNIT_MM, float(number), "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [values]
        frames.append(frame)
        stored = (coordinates(plan, number)[..., coordinate] - number) / UNIT_MM
        pixels.append(np.round(stored).astype("<i2"))
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    dataset.PixelData = np.stack(pixels).tobytes()
    return as_file(dataset)


def as_file(dataset: Dataset) -> Dataset:
    """The dataset as a file has it: with its meta information."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def encoded(dataset: Dataset) -> bytes:
    """A dataset as the bytes of its file."""
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()
