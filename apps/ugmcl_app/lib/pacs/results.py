"""results: labels and uncertainty maps of a PACS's cases as DICOM objects, each the same however often it is
made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from ..checks import reorder
from ..dicom.parametric_map import write_map
from ..dicom.references import BY_HAND, SEMIAUTOMATIC, Maker, ObjectPlace
from ..dicom.refusals import UnusableSegmentation, UnusableSeries
from ..dicom.segmentation_reading import ReadSegmentation, read_segmentation
from ..dicom.segmentation_writing import write_segmentation
from ..dicom.structures import StructureMap, Terms
from ..errors import Refusal
from ..volumes import read_label, read_voxels
from .source import PacsSource

SEGMENTATION_NUMBER, LABEL_NUMBER, MAP_NUMBER = 9001, 9002, 9003
"""SeriesNumber of what a model drew, of an expert's label, and of a map: after a scanner's own."""


class DicomResults:
    """Writes and reads the DICOM objects of one project.

    Args:
        source: Of the cases.
        labels: The project's classes, `{name: value}`.
        codes: Coded terms by casefolded name.
        form: `BINARY` or `LABELMAP`.
    """

    def __init__(
        self, source: PacsSource, labels: dict[str, int], codes: dict[str, Terms], form: str
    ) -> None:
        self._source, self._codes, self._form = source, codes, form
        self.structures = StructureMap.of(labels, codes)

    def segmentation(self, case_id: str, file: Path | str, names: dict[str, int], version: str) -> bytes:
        """What a model drew, as DICOM SEG.

        Args:
            case_id: The case.
            file: The label, a file on the case's grid.
            names: `{name: value}` of what the label holds.
            version: The model's.

        Raises:
            Refusal: 422 if the series cannot be referred to, 503 if it cannot be fetched.
        """
        structures = StructureMap.of(names, self._codes)
        return self._segmentation(case_id, file, structures, Maker(version), SEGMENTATION_NUMBER, "model")

    def label(self, case_id: str, file: Path | str, uid: str, version: str) -> bytes:
        """An expert's label as DICOM SEG; raises as `segmentation`.

        Args:
            case_id: The case.
            file: The label.
            uid: `schema.Label.uid`: the SEG's own UIDs are made of it.
            version: Of the model whose proposal it started from; empty: by hand.
        """
        maker = Maker(version, how=SEMIAUTOMATIC) if version else BY_HAND
        return self._segmentation(case_id, file, self.structures, maker, LABEL_NUMBER, uid)

    def label_series(self, case_id: str, uid: str) -> str:
        """SeriesInstanceUID of what `label` makes."""
        return _uid(case_id, uid, "series")

    def uncertainty(self, case_id: str, file: Path | str, version: str) -> bytes:
        """An uncertainty map as Parametric Map; raises as `segmentation`."""
        grid = self._source.grid(case_id)
        array, affine = read_voxels(file)
        values = np.clip(reorder(array, affine, grid.shape, grid.affine).astype(np.float32), 0.0, 1.0)
        place = _place(MAP_NUMBER, case_id, "map", version, values)
        try:
            return write_map(values, grid, Maker(version), place=place)
        except (UnusableSeries, ValueError) as error:
            raise Refusal(422, str(error)) from error

    def read_label(self, case_id: str, file: Path | str | bytes) -> ReadSegmentation:
        """A DICOM SEG as a label of a case.

        Raises:
            Refusal: 422 with the reason, 503 if the case cannot be fetched.
        """
        grid = self._source.grid(case_id)
        try:
            return read_segmentation(file, grid, self.structures)
        except UnusableSegmentation as error:
            raise Refusal(422, str(error)) from error

    def _segmentation(
        self, case_id: str, file: Path | str, structures: StructureMap, maker: Maker, number: int, what: str
    ) -> bytes:
        grid = self._source.grid(case_id)
        array, affine = read_label(file)
        values = np.round(reorder(array, affine, grid.shape, grid.affine)).astype(np.uint16)
        content = (maker.version, self._form, values) if what == "model" else ()
        try:
            place = _place(number, case_id, what, *content)
            return write_segmentation(values, grid, structures, maker, self._form, place)
        except (UnusableSeries, ValueError) as error:
            raise Refusal(422, str(error)) from error


def _place(number: int, *parts: Any) -> ObjectPlace:
    return ObjectPlace(
        series_uid=_uid(*parts, "series"), series_number=number, instance_uid=_uid(*parts, "instance")
    )


def _uid(*parts: Any) -> str:
    """A UID that is the same for the same parts: storing the same result twice leaves one in the PACS."""
    return str(generate_uid(entropy_srcs=[_text(part) for part in parts]))


def _text(part: NDArray[Any] | str) -> str:
    if isinstance(part, str):
        return part
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()
