"""references: what every object we write takes from its source series, and says of who made it."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, field
from typing import Any

import highdicom
import numpy as np
from highdicom.content import PixelMeasuresSequence
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from .refusals import UnusableSeries
from .series import SeriesGrid

MANUFACTURER = "UG-MCL Assist"
MODEL_NAME = "ugmcl-assist"
SOFTWARE_VERSION = "0.1.0"
# PS3.3 C.7.1.1 and C.7.2.1: to be there, maybe empty. Real headers lack them or hold what the standard
# forbids; highdicom stops at both, and quotes what it finds odd, which ends in a log. So it gets them empty,
# and `file_bytes` puts in what the source says.
_OF_PATIENT_AND_STUDY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)


AUTOMATIC, SEMIAUTOMATIC, MANUAL = "AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"


@dataclass(frozen=True)
class Maker:
    """Who made an object.

    Attributes:
        version: The model's version; empty for what a person drew alone.
        name: The algorithm's name.
        how: `AUTOMATIC` where no person changed or confirmed it, `SEMIAUTOMATIC` where one did, `MANUAL`
            where no model took part (PS3.3 C.8.20.2, Segment Algorithm Type).
    """

    version: str
    name: str = "UG-MCL"
    how: str = AUTOMATIC

    def __post_init__(self) -> None:
        if self.how not in (AUTOMATIC, SEMIAUTOMATIC, MANUAL):
            raise ValueError(
                f"A label is made {AUTOMATIC}, {SEMIAUTOMATIC} or {MANUAL}, not {self.how[:40]!r}."
            )

    @property
    def shown(self) -> str:
        """For the descriptions that viewers list, up to 48 characters."""
        return "by hand" if self.how == MANUAL else f"{self.name} {self.version}"[:48]


BY_HAND = Maker("", how=MANUAL)
"""A person without a model."""


@dataclass(frozen=True)
class ObjectPlace:
    """Identity of an object in its study; new UIDs unless given.

    Attributes:
        series_uid, instance_uid: Of the new object, which is alone in its series.
        series_number: Any number; viewers sort by it.
    """

    series_uid: str = field(default_factory=lambda: str(highdicom.UID()))
    instance_uid: str = field(default_factory=lambda: str(highdicom.UID()))
    series_number: int = 9000


def source_images(grid: SeriesGrid) -> list[Dataset]:
    """The instances an object refers to, with the empty attributes that its writer asks for.

    Raises:
        UnusableSeries: If the series has no frame of reference: nothing can be placed on it then.
    """
    if not grid.frame_of_reference_uid:
        raise UnusableSeries(
            grid.uid, "it has no FrameOfReferenceUID, so nothing can be drawn on it in DICOM."
        )
    images = []
    for header in grid.headers:
        image = Dataset(dict(header.items()))  # copy.copy would share the mapping
        if hasattr(header, "file_meta"):
            image.file_meta = header.file_meta
        changed: dict[str, Any] = dict.fromkeys(_OF_PATIENT_AND_STUDY, "")
        # Less or more than the slices' distance in many series; the voxels we describe have no gaps.
        changed["SliceThickness"] = round(grid.spacing_mm[2], 6)
        for keyword, value in changed.items():
            image.pop(keyword, None)  # an assignment would change the element, which is the header's too
            setattr(image, keyword, value)
        images.append(image)
    return images


def frames_in_source_order(array: NDArray[Any], grid: SeriesGrid) -> NDArray[Any]:
    """`(X, Y, Z)` as frames `(frames, rows, columns)`, frame i on source image i, as highdicom takes it.

    A multi-frame source counts its frames as it likes; single-frame sources come in the order of the slices.
    """
    frames = array.T
    numbers = [source.frame for source in grid.slices]
    if any(number is not None for number in numbers):
        frames = frames[np.argsort([number or 0 for number in numbers])]
    return np.ascontiguousarray(frames)


def described(grid: SeriesGrid, maker: Maker, place: ObjectPlace) -> dict[str, Any]:
    """The arguments every highdicom writer shares."""
    columns_mm, rows_mm, slices_mm = grid.spacing_mm
    return {
        "source_images": source_images(grid),
        "series_instance_uid": place.series_uid,
        "series_number": place.series_number,
        "sop_instance_uid": place.instance_uid,
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL_NAME,
        "software_versions": [SOFTWARE_VERSION, *([maker.version[:64]] if maker.version else [])],
        "device_serial_number": MODEL_NAME,
        "pixel_measures": PixelMeasuresSequence((rows_mm, columns_mm), slices_mm, slices_mm),
    }


def algorithm(maker: Maker) -> highdicom.AlgorithmIdentificationSequence:
    """The coded identification of an algorithm: name, version, and that it is of artificial intelligence."""
    return highdicom.AlgorithmIdentificationSequence(
        name=maker.name[:64], version=maker.version[:64], family=codes.DCM.ArtificialIntelligence
    )


def file_bytes(dataset: Dataset, grid: SeriesGrid) -> bytes:
    """A DICOM object as the bytes of its file, with patient and study as its source says them."""
    header = grid.headers[0]
    for keyword in _OF_PATIENT_AND_STUDY:
        if keyword in header:
            dataset.add(copy.deepcopy(header[keyword]))
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()
