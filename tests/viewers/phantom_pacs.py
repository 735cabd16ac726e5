"""A real Orthanc that holds generated scans as DICOM series, and the reference label of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, generate_uid

from tests.dicom.phantom_series import as_file

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class SeriesInPacs:
    """A series and what an expert would say of it.

    Attributes:
        study, uid: StudyInstanceUID and SeriesInstanceUID.
        instances: Its files.
        label: `(X, Y, Z)` reference label with `affine`, voxel index to RAS mm.
        affine: See `label`.
    """

    study: str
    uid: str
    instances: list[Dataset]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]


def series_of(
    image: NDArray[np.int16], label: NDArray[np.uint8], affine: NDArray[np.float64], name: str
) -> SeriesInPacs:
    """A scan as MR instances: columns, rows and slices are its axes, whatever their direction.

    Args:
        image: `(X, Y, Z)`.
        label: Likewise.
        affine: Voxel index to RAS mm, with orthogonal axes.
        name: For PatientID and the names shown.
    """
    to_lps = LPS_RAS @ affine
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    row, column = to_lps[:3, 0] / spacing[0], to_lps[:3, 1] / spacing[1]
    uids = {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}
    instances = []
    for number in range(image.shape[2]):
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid()
        dataset.PatientName, dataset.PatientID = f"Phantom^{name}", name.upper()
        dataset.PatientBirthDate, dataset.PatientSex, dataset.AccessionNumber = "", "O", ""
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids["study"], uids["series"]
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = uids["frame"], ""
        dataset.StudyID, dataset.SeriesNumber, dataset.InstanceNumber = "1", 1, number + 1
        dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20240101"
        dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "120000"
        dataset.StudyDescription, dataset.SeriesDescription = "Generated phantom", "Heart"
        dataset.Modality, dataset.Manufacturer, dataset.ReferringPhysicianName = "MR", "phantom", ""
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImageOrientationPatient = [f"{value:.10g}"[:16] for value in (*row, *column)]
        position = to_lps[:3, 3] + number * to_lps[:3, 2]
        dataset.ImagePositionPatient = [f"{value:.10g}"[:16] for value in position]
        dataset.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
        dataset.SliceThickness = f"{spacing[2]:.10g}"
        dataset.Rows, dataset.Columns = image.shape[1], image.shape[0]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = 1
        low, high = np.percentile(image, [1, 99.5])
        dataset.WindowCenter, dataset.WindowWidth = f"{(low + high) / 2:.5g}", f"{max(high - low, 1):.5g}"
        dataset.PixelData = np.ascontiguousarray(image[:, :, number].T.astype("<i2")).tobytes()
        instances.append(as_file(dataset))
    return SeriesInPacs(uids["study"], uids["series"], instances, label, affine)
