"""arrival: whether an instance that came over the network is whole, and the one that was asked for."""

from __future__ import annotations

from pydicom.dataset import Dataset

from ..dicom.instances import read_dataset
from ..dicom.refusals import UnusableSeries
from .connection import PacsAnswerUnusable, PacsUnavailable

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def checked(content: bytes, study_uid: str, series_uid: str) -> str:
    """SOPInstanceUID of an instance that arrived whole and belongs where it was asked for.

    Raises:
        PacsUnavailable: If it is truncated or no DICOM object: another attempt may bring it whole.
        PacsAnswerUnusable: If it belongs to another series.
    """
    try:
        dataset = read_dataset(content)
        whole = _is_whole(dataset)
    except (UnusableSeries, AttributeError, ValueError, TypeError, NotImplementedError):
        whole = False
    if not whole:
        raise PacsUnavailable(f"The PACS sent a truncated or damaged instance of the series {series_uid}.")
    if (dataset.get("SeriesInstanceUID"), dataset.get("StudyInstanceUID")) != (series_uid, study_uid):
        raise PacsAnswerUnusable(f"The PACS sent an instance of another series for the series {series_uid}.")
    return str(dataset.SOPInstanceUID)


def _is_whole(dataset: Dataset) -> bool:
    """Whether the pixels are as long as the header says; compressed ones show that when they are decoded."""
    if dataset.file_meta.TransferSyntaxUID.is_compressed or "Rows" not in dataset:
        return True
    bits = int(dataset.BitsAllocated) * int(dataset.Rows) * int(dataset.Columns)
    bits *= int(dataset.get("SamplesPerPixel", 1)) * int(dataset.get("NumberOfFrames") or 1)
    present = next((len(dataset[name].value) for name in _PIXELS if name in dataset), 0)
    return present >= (bits + 7) // 8
