"""instances: DICOM files and what each of their frames says of its place and its values."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import pydicom.config
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from .geometry import Plane
from .refusals import UnusableSeries

Source = Path | str | bytes | Dataset
"""A DICOM file, its bytes, or what pydicom read of either."""
MODALITIES = ("MR", "CT")
"""What the method was made for; others are refused rather than segmented by chance."""
# pydicom logs a value it doubts, such as a date of birth with dots, and goes on all the same.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
_UNKNOWN = "(unknown)"
_BROKEN = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error)


class Frame(NamedTuple):
    """One slice of a series.

    Attributes:
        instance: Index of its instance in the list it was read from.
        number: Its number in a multi-frame instance, from 1; None in a single-frame one.
        plane: Where it lies.
        slope, intercept: From stored values to the modality's (Hounsfield units, or arbitrary ones).
    """

    instance: int
    number: int | None
    plane: Plane
    slope: float
    intercept: float


def files_of(folder: Path) -> list[Path]:
    """The files of a series kept as a folder; hidden files and a DICOMDIR do not count."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name.upper() != "DICOMDIR"
    )


def read_dataset(source: Source, pixels: bool = True) -> Dataset:
    """One DICOM object.

    Raises:
        UnusableSeries: For anything else; the sentence names the file, or the number of bytes.
    """
    if isinstance(source, Dataset):
        return source
    name = (
        f"the {len(source)} bytes received" if isinstance(source, bytes) else f"the file {Path(source).name}"
    )
    try:
        stream: Any = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        return pydicom.dcmread(stream, stop_before_pixels=not pixels)
    except InvalidDicomError as error:
        raise UnusableSeries(_UNKNOWN, f"{name} are no DICOM object (no DICM prefix).") from error
    except _BROKEN as error:
        raise UnusableSeries(_UNKNOWN, f"{name} cannot be read; truncated or damaged.") from error


def read_instances(sources: Iterable[Source], pixels: bool = True) -> list[Dataset]:
    """The image instances of one series.

    Raises:
        UnusableSeries: For unreadable files, no file, several series, an instance that comes twice, another
            modality, or images of several sizes or with several values a voxel.
    """
    datasets = [read_dataset(source, pixels) for source in sources]
    if not datasets:
        raise UnusableSeries(_UNKNOWN, "it has no instances.")
    uids = sorted({str(dataset.get("SeriesInstanceUID", _UNKNOWN)) for dataset in datasets})
    if len(uids) > 1:
        raise UnusableSeries(uids[0], f"its instances are mixed with those of {len(uids) - 1} other series.")
    (uid,) = uids
    _require_images(uid, datasets)
    _require_one(uid, datasets, "FrameOfReferenceUID", "frames of reference")
    _require_one(uid, datasets, "StudyInstanceUID", "studies")
    return datasets


def frames_of(uid: str, datasets: Sequence[Dataset]) -> list[Frame]:
    """Every frame of the instances of a series, in the order given.

    Raises:
        UnusableSeries: If one does not say where it lies.
    """
    frames: list[Frame] = []
    for index, dataset in enumerate(datasets):
        if "PerFrameFunctionalGroupsSequence" in dataset:
            count = len(dataset.PerFrameFunctionalGroupsSequence)
            if count != int(dataset.get("NumberOfFrames", 0)):
                raise UnusableSeries(uid, f"{_named(dataset)} has {count} frame descriptions for its frames.")
            numbers: list[int | None] = [*range(1, count + 1)]
        elif int(dataset.get("NumberOfFrames") or 1) > 1:
            raise UnusableSeries(uid, f"{_named(dataset)} has several frames without positions.")
        else:
            numbers = [None]
        for number in numbers:
            try:
                frames.append(_frame(dataset, index, number))
            except _BROKEN as error:
                raise UnusableSeries(
                    uid,
                    f"{_named(dataset)} does not say where it lies: ImagePositionPatient, "
                    "ImageOrientationPatient and PixelSpacing are needed.",
                ) from error
    return frames


def stored_values(uid: str, dataset: Dataset) -> NDArray[Any]:
    """Stored values `(frames, rows, columns)` of an image instance.

    Raises:
        UnusableSeries: If they end early, or are compressed in a way this installation cannot read.
    """
    syntax = dataset.file_meta.TransferSyntaxUID if "file_meta" in dataset.__dict__ else None
    if "PixelData" not in dataset:
        raise UnusableSeries(uid, f"{_named(dataset)} has no pixels; it is truncated, or no image.")
    try:
        values: NDArray[Any] = np.asarray(dataset.pixel_array)
    except (RuntimeError, NotImplementedError, ImportError) as error:
        kind = syntax.name if syntax is not None else "an unknown way"
        raise UnusableSeries(
            uid,
            f"{_named(dataset)} is compressed ({kind}), which this installation cannot read, or its pixels "
            "are damaged; let the PACS send Explicit VR Little Endian.",
        ) from error
    except _BROKEN as error:
        raise UnusableSeries(
            uid, f"{_named(dataset)} is truncated or damaged: its pixels end early."
        ) from error
    return values if values.ndim == 3 else values[None]


def functional_group(dataset: Dataset, frame: int, keyword: str) -> Dataset | None:
    """The first item of a functional group of a frame (from 1), its own or the shared one; None without."""
    for groups in (
        dataset.PerFrameFunctionalGroupsSequence[frame - 1],
        *dataset.get("SharedFunctionalGroupsSequence", []),
    ):
        if groups.get(keyword):
            return groups[keyword].value[0]
    return None


def plane_of(dataset: Dataset, number: int | None) -> Plane:
    """Where a frame lies; raises what a missing attribute raises."""
    if number is None:
        position = orientation = spacing = dataset
    else:
        position = functional_group(dataset, number, "PlanePositionSequence")  # type: ignore[assignment]
        orientation = functional_group(dataset, number, "PlaneOrientationSequence")  # type: ignore[assignment]
        spacing = functional_group(dataset, number, "PixelMeasuresSequence")  # type: ignore[assignment]
    rows_mm, columns_mm = (float(value) for value in spacing.PixelSpacing)
    return Plane(
        np.array([float(value) for value in position.ImagePositionPatient]).reshape(3),
        np.array([float(value) for value in orientation.ImageOrientationPatient]).reshape(6),
        (rows_mm, columns_mm),
    )


def _frame(dataset: Dataset, index: int, number: int | None) -> Frame:
    values = dataset
    if number is not None:
        values = functional_group(dataset, number, "PixelValueTransformationSequence") or Dataset()
    slope, intercept = (values.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    return Frame(
        index,
        number,
        plane_of(dataset, number),
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
    )


def _require_images(uid: str, datasets: Sequence[Dataset]) -> None:
    seen: set[str] = set()
    for dataset in datasets:
        instance = str(dataset.get("SOPInstanceUID", ""))
        if instance in seen:
            raise UnusableSeries(uid, f"{_named(dataset)} is there twice; send each instance once.")
        seen.add(instance)
        modality = str(dataset.get("Modality", ""))
        if modality not in MODALITIES:
            raise UnusableSeries(
                uid, f"its modality is {modality or 'not given'}; allowed are {' and '.join(MODALITIES)}."
            )
        if int(dataset.get("SamplesPerPixel", 1)) != 1 or "Rows" not in dataset or "Columns" not in dataset:
            raise UnusableSeries(uid, f"{_named(dataset)} is no image of one value a pixel.")
    sizes = sorted({(int(dataset.Columns), int(dataset.Rows)) for dataset in datasets})
    if len(sizes) > 1:
        shown = " and ".join(f"{columns}x{rows}" for columns, rows in sizes[:3])
        raise UnusableSeries(uid, f"its images have different sizes ({shown} pixels).")


def _require_one(uid: str, datasets: Sequence[Dataset], keyword: str, meaning: str) -> None:
    found = {str(dataset.get(keyword, "")) for dataset in datasets}
    if len(found) > 1:
        raise UnusableSeries(uid, f"its instances belong to {len(found)} {meaning}; one is needed.")


def _named(dataset: Dataset) -> str:
    return f"the instance {dataset.get('SOPInstanceUID', _UNKNOWN)}"
