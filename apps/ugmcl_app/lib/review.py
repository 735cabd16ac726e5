"""review: what a page shows of one case without asking the model: scan, expert's label, the model's draft."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ugmcl.intensities import display_window, windowed

from .catalogue import review_rows
from .catalogue.database import Database
from .datastore import FolderDatastore
from .drafts import Draft, DraftStore
from .errors import Refusal, UnusableImage
from .pool import scan_version
from .volumes import read_label, read_volume

logger = logging.getLogger(__name__)


class CaseVolumes(NamedTuple):
    """Everything there is to see of a case, uint8 `(X, Y, Z)` on the scan's grid.

    Attributes:
        affine: Voxel index to RAS mm.
        image: The scan in its display window.
        label: The expert's class values, or None.
        segmentation: The model's class values, or None.
        uncertainty: The model's uncertainty, 255 for 1, or None.
    """

    affine: NDArray[np.float64]
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    segmentation: NDArray[np.uint8] | None
    uncertainty: NDArray[np.uint8] | None


class CasePicture(NamedTuple):
    """One slice of a case: the model's least sure one, else the one with most of the label, else the middle.

    Attributes:
        affine, shape: Of the scan.
        axis, place: The slice, in the file's voxel order.
        image, label, segmentation, uncertainty: As in `CaseVolumes`, of the slice.
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    axis: int
    place: int
    image: NDArray[np.uint8]
    label: NDArray[np.uint8] | None
    segmentation: NDArray[np.uint8] | None
    uncertainty: NDArray[np.uint8] | None


class Review:
    """Reads cases for the review page; changes nothing."""

    def __init__(self, datastore: FolderDatastore, database: Database, drafts: DraftStore) -> None:
        self._datastore, self._database, self._drafts = datastore, database, drafts

    def state(self, image_id: str) -> dict[str, Any]:
        """What there is of a case: `draft_version` (None: no draft), `label_sha256` (None: no final label),
        `pictured` (whether there is a picture without fetching the scan), and `key`, which changes whenever a
        picture of the case would.

        Raises:
            Refusal: 404 for an unknown image.
        """
        path = self._path(image_id)
        draft = self._drafts.find(image_id, path)
        label = self._datastore.final_labels().get(image_id)
        # A draft is of one version of its scan, which may be in a PACS and not on this disk.
        scan = draft.key if draft else scan_version(path)
        return {
            "pictured": bool(scan),
            "draft_version": draft.model_version if draft else None,
            "label_sha256": label,
            "key": f"{scan}|{label or ''}",
        }

    def details(self, image_id: str) -> dict[str, Any]:
        """`state`, who labeled a case when (`labels`, oldest first), and how unsure each version of the
        model was of it (`scores`: `model_version`, `score`, oldest first)."""
        with self._database.read() as session:
            scores = review_rows.scores_of(session, image_id)
        return {
            **self.state(image_id),
            "labels": self._datastore.label_history(image_id),
            "scores": [{"model_version": version, "score": score} for version, score in scores],
        }

    def volumes(self, image_id: str) -> CaseVolumes:
        """Read a case; its scan is fetched if it is not on this disk.

        Raises:
            Refusal: 404 for an unknown image, 422 for one that cannot be read, 503 while its source is away.
        """
        path = self._datastore.image_file(image_id)
        draft = self._drafts.find(image_id, path)
        try:
            volume = read_volume(path)
        except UnusableImage as error:
            raise Refusal(422, f"The image cannot be used. {error}") from error
        image = windowed(volume.array, display_window(volume.array))
        segmentation, uncertainty = _volumes_of(draft)
        return CaseVolumes(
            volume.affine, image, self._label(image_id, image.shape), segmentation, uncertainty
        )

    def picture(self, image_id: str) -> CasePicture:
        """The slice that says most about a case; raises as `volumes`."""
        path = self._path(image_id)
        draft = self._drafts.find(image_id, path)
        if draft is not None:
            try:
                return self._of_draft(image_id, draft)
            except (OSError, ValueError, KeyError, UnusableImage):
                # Replaced while it was read, or damaged: the scan itself is still there.
                logger.warning("A draft could not be read.")
        return _of_volumes(self.volumes(image_id))

    def _of_draft(self, image_id: str, draft: Draft) -> CasePicture:
        worst, label = draft.worst_slice(), self._label(image_id, draft.shape)
        seen = None if label is None else np.take(label, worst.place, worst.axis)
        return CasePicture(
            draft.affine, draft.shape, worst.axis, worst.place,
            worst.image, seen, worst.segmentation, worst.uncertainty,
        )  # fmt: skip

    def _label(self, image_id: str, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
        """The final label in effect; None where there is none that fits the scan."""
        file = self._datastore.get_label_uri(image_id, "final")
        if not file:
            return None
        try:
            values, _ = read_label(Path(file))
        except (UnusableImage, OSError):
            logger.warning("A final label could not be read for the review page.")
            return None
        return np.clip(values, 0, 255).astype(np.uint8) if values.shape == shape else None

    def _path(self, image_id: str) -> Path:
        return Path(self._datastore.get_image_info(image_id)["path"])


def _volumes_of(draft: Draft | None) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]:
    if draft is not None:
        try:
            return draft.volumes()
        except (OSError, ValueError, KeyError):
            logger.warning("A draft could not be read.")
    return None, None


def _of_volumes(seen: CaseVolumes) -> CasePicture:
    axis, place = 2, seen.image.shape[2] // 2
    for layer in (seen.segmentation, seen.label):
        if layer is not None and layer.any():
            place = int(np.count_nonzero(layer, axis=(0, 1)).argmax())

    def piece(layer: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        return None if layer is None else np.take(layer, place, axis)

    x, y, z = seen.image.shape
    return CasePicture(
        seen.affine, (x, y, z), axis, place,
        np.take(seen.image, place, axis),
        piece(seen.label), piece(seen.segmentation), piece(seen.uncertainty),
    )  # fmt: skip
