"""datastore_view: the reading half of the datastore: every question MONAI Label asks, answered from the
catalogue."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from sqlalchemy.orm import Session

from .catalogue import cases, facts, folder_files, labels, stock_file
from .catalogue.case_source import CaseSource, FolderSource
from .catalogue.database import Database
from .catalogue.labels import FINAL, FinalLabels
from .catalogue.schema import ACTIVE, Case, Label
from .checks import TAGS
from .errors import Refusal
from .pool import printable

_PROJECT = {"name": "new-dataset", "description": "New Dataset"}


class FolderView(Datastore):  # type: ignore[misc]
    """Scans of one source and their labels under `labels/<tag>/`, flat, one file each.

    Attributes:
        labels: The project's classes, `{name: value}`.
    """

    def __init__(self, scans: CaseSource | Path | str, labels: Mapping[str, int], database: Database) -> None:
        self.labels = dict(labels)
        self._source: CaseSource = FolderSource(scans) if isinstance(scans, Path | str) else scans
        self._folder = self._source.root
        self._database = database
        self._finals = FinalLabels(database)
        for tag in TAGS:
            self._label_folder(tag).mkdir(parents=True, exist_ok=True)

    # --- the project

    def name(self) -> str:
        return str(self._project()["name"])

    def set_name(self, name: str) -> None:
        self._describe(name=str(name))

    def description(self) -> str:
        return str(self._project()["description"])

    def set_description(self, description: str) -> None:
        self._describe(description=str(description))

    def status(self) -> dict[str, Any]:
        with self._database.read() as session:
            counts = labels.counts(session)
            return {
                "total": cases.count(session),
                "completed": counts.get(FINAL, 0),
                "label_tags": {tag: counts[tag] for tag in TAGS if tag in counts},
                "quarantined": _listed(self._source.set_aside(session)),
            }

    def quarantined(self) -> list[dict[str, str]]:
        """Files set aside, `{"file", "reason"}`, by name; they stay where they are."""
        with self._database.read() as session:
            return _listed(self._source.set_aside(session))

    def json(self) -> dict[str, Any]:
        with self._database.read() as session:
            return stock_file.content_of(session)

    # --- cases

    def list_images(self) -> list[str]:
        with self._database.read() as session:
            return cases.ids(session)

    def image_files(self) -> dict[str, str]:
        """Path of every case served whose scan is on this disk, by id, in one query."""
        with self._database.read() as session:
            found = cases.files(session)
        return self._source.at_hand(found)

    def image_file(self, image_id: str) -> Path:
        """The scan of a case, fetched if it is not on this disk.

        Raises:
            Refusal: 404 for an unknown case, 503 while its source is away, 422 for an unusable scan.
        """
        with self._database.read() as session:
            name = self._require(session, image_id).file
        return self._source.fetch(name)

    def dicom_uids(self, case_ids: list[str]) -> dict[str, tuple[str, str]]:
        """StudyInstanceUID and SeriesInstanceUID of those cases that come from a PACS, by id."""
        return self._source.uids(case_ids)

    def has_image(self, image_id: str) -> bool:
        """Whether a case is served; unlike `list_images`, reads one row."""
        return isinstance(image_id, str) and bool(self.get_image_uri(image_id))

    def unlabeled_in_order(self, order: str) -> Iterator[str]:
        """Cases without a final label, best first, read as they are asked for.

        Args:
            order: `rank` (the least sure first), `id` or `random`.
        """
        return cases.in_order(self._database, order)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return self._labeled(label_tag)

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        if _tag(label_tag or FINAL) == FINAL:
            with self._database.read() as session:
                return cases.ids(session, labeled=False)
        labeled = set(self._labeled(label_tag))
        return [image_id for image_id in self.list_images() if image_id not in labeled]

    def get_image(self, image_id: str, params: Any = None) -> Any:
        return io.BytesIO(self.image_file(image_id).read_bytes()) if self.has_image(image_id) else None

    def get_image_uri(self, image_id: str) -> str:
        """Path of a scan, whether or not it is on this disk just now; empty for an unknown id."""
        with self._database.read() as session:
            found = cases.find(session, image_id)
            return str(self._source.path(found.file)) if found else ""

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        with self._database.read() as session:
            found = self._require(session, image_id)
            info = {**found.info, "path": str(self._source.path(found.file))}
        for study, series in self._source.uids([image_id]).values():
            info |= {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        return info

    # --- labels

    def final_labels(self) -> dict[str, str]:
        """SHA-256 of every final label's file, by image id."""
        return self._finals.digests()

    def label_history(self, image_id: str, tag: str = FINAL) -> list[dict[str, Any]]:
        """Every version of a label, oldest first: who, when, with what, and what became of it."""
        shown = ("uid", "state", "sha256", "source", "reader", "tool", "model_version", "comment")
        with self._database.read() as session:
            return [
                {key: getattr(found, key) for key in (*shown, "created_at", "ended_at", "info")}
                for found in labels.history(session, image_id, tag)
            ]

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        with self._database.read() as session:
            pairs = labels.pairs(session, FINAL)
        root = f"{self._folder}{os.sep}" if full_path else ""
        return [
            {
                "image": str(self._source.path(file)) if full_path else file,
                "label": f"{root}labels/{FINAL}/{case_id}{extension}",
            }
            for case_id, file, extension in pairs
        ]

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        path = self.get_label_uri(label_id, label_tag)
        return io.BytesIO(Path(path).read_bytes()) if path else None

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label; empty where there is none."""
        with self._database.read() as session:
            label = self._label(session, label_id, label_tag)
            return str(self._label_path(label_id, label_tag, label.extension)) if label else ""

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        with self._database.read() as session:
            return image_id if self._label(session, image_id, tag) else ""

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        with self._database.read() as session:
            return {tag: image_id for tag in TAGS if self._label(session, image_id, tag)}

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        with self._database.read() as session:
            return dict(self._require_label(session, label_id, label_tag).info)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        with self._database.read() as session:
            pairs = labels.pairs(session, FINAL)
        if not pairs:
            raise Refusal(404, "There is no final label yet, so there is no data set to download.")
        if limit_cases and 0 < limit_cases < len(pairs):
            pairs = pairs[:limit_cases]
        with contextlib.ExitStack() as unfinished:
            file = unfinished.enter_context(tempfile.NamedTemporaryFile(suffix=".zip", delete=False))
            unfinished.callback(Path(file.name).unlink)
            try:
                self._pack(file, pairs)
            except FileNotFoundError as error:
                raise Refusal(409, "A scan or label was removed while it was packed; ask again.") from error
            file.close()
            unfinished.pop_all()
        return file.name

    def _pack(self, file: Any, pairs: list[tuple[str, str, str]]) -> None:
        with zipfile.ZipFile(file, "w") as out:
            for case_id, scan, extension in pairs:
                out.write(self._source.fetch(scan), arcname=f"image/{scan}")
                label = self._label_path(case_id, FINAL, extension)
                out.write(label, arcname=f"label/{label.name}")
            out.writestr("metadata.json", json.dumps(self.json(), default=str))

    # --- helpers

    def _project(self) -> dict[str, Any]:
        with self._database.read() as session:
            return {**_PROJECT, **facts.get(session, "project")}

    def _describe(self, **values: str) -> None:
        def change(session: Session) -> None:
            facts.put(session, "project", {**_PROJECT, **facts.get(session, "project"), **values})

        self._database.write(change)

    def _labeled(self, label_tag: Any) -> list[str]:
        with self._database.read() as session:
            return labels.labeled_ids(session, _tag(label_tag or FINAL))

    def _require(self, session: Session, image_id: str) -> Case:
        found = cases.find(session, image_id) if isinstance(image_id, str) else None
        if found is None:
            aside = folder_files.why_hidden(session, image_id) if isinstance(image_id, str) else None
            why = (
                f" Its file was set aside: {aside}"
                if aside
                else " See GET /datastore/?output=all for those it has."
            )
            raise Refusal(404, f"There is no image {str(image_id)[:200]!r} in this project.{why}")
        return found

    def _label(self, session: Session, image_id: str, tag: Any) -> Label | None:
        label = labels.current(session, image_id, _tag(tag)) if cases.find(session, image_id) else None
        return label if label is not None and label.state == ACTIVE else None

    def _require_label(self, session: Session, label_id: str, label_tag: Any) -> Label:
        self._require(session, label_id)
        label = self._label(session, label_id, label_tag)
        if label is None:
            raise Refusal(404, f"The image {label_id!r} has no label with the tag {_tag(label_tag)[:80]!r}.")
        return label

    def _label_folder(self, tag: Any) -> Path:
        return self._folder / "labels" / _tag(tag)

    def _label_path(self, image_id: str, tag: Any, extension: str) -> Path:
        return self._label_folder(tag) / (image_id + extension)


def _listed(reasons: dict[str, str]) -> list[dict[str, str]]:
    return [{"file": printable(name), "reason": printable(reason)} for name, reason in reasons.items()]


def _tag(tag: Any) -> str:
    return str(getattr(tag, "value", tag))
