"""datastore_view: the reading half of the datastore: every question MONAI Label asks of a folder of scans."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore

from .checks import TAGS
from .datastore_file import DatastoreFile
from .errors import Refusal
from .pool import printable
from .pool_scan import PoolScan
from .volumes import EXTENSIONS

FINAL = "final"


class FolderView(LocalDatastore):
    """Scans of one folder and their labels under `labels/<tag>/`, flat, one file each.

    Attributes:
        labels: The project's classes, `{name: value}`.
    """

    def __init__(self, folder: Path | str, labels: Mapping[str, int]) -> None:
        self.labels = dict(labels)
        self._folder = Path(folder).expanduser().resolve()
        self._lock = threading.RLock()
        self._scan = PoolScan()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = DatastoreFile(self._folder)
        self._file.set_aside_if_broken()
        super().__init__(str(self._folder), extensions=[f"*{e}" for e in EXTENSIONS], read_only=True)

    def list_images(self) -> list[str]:
        with self._lock:
            return [image_id for image_id in self._datastore.objects if image_id in self._scan.images]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        tag = str(getattr(label_tag, "value", label_tag) or FINAL)
        with self._lock:
            return [
                image_id for image_id in self.list_images() if tag in self._datastore.objects[image_id].labels
            ]

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        tag = str(getattr(label_tag, "value", label_tag) or FINAL)
        with self._lock:
            return [i for i in self.list_images() if tag not in self._datastore.objects[i].labels]

    def final_labels(self) -> dict[str, str]:
        """SHA-256 of every final label's file, by image id."""
        with self._lock:
            return {
                image_id: str(self._datastore.objects[image_id].labels[FINAL].info.get("sha256", ""))
                for image_id in self.get_labeled_images()
            }

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        with self._lock:
            pairs = [(self.get_image_uri(i), self.get_label_uri(i, FINAL)) for i in self.get_labeled_images()]
        root = "" if full_path else f"{self._folder}{os.sep}"
        return [{"image": i.removeprefix(root), "label": label.removeprefix(root)} for i, label in pairs]

    def get_image_uri(self, image_id: str) -> str:
        """Path of a scan; empty for an unknown id."""
        found = self._object(image_id)
        return str(self._image_path(image_id, found)) if found else ""

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        found = self._require(image_id)
        with self._lock:
            return {**copy.deepcopy(found.image.info), "path": str(self._image_path(image_id, found))}

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label; empty where there is none."""
        found = self._object(label_id)
        label = found.labels.get(str(getattr(label_tag, "value", label_tag))) if found else None
        return str(self._label_path(label_id, label_tag, label.ext)) if label else ""

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        found = self._object(image_id)
        return dict.fromkeys(found.labels, image_id) if found else {}

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        return copy.deepcopy(self._require_label(label_id, label_tag).info)

    def status(self) -> dict[str, Any]:
        with self._lock:
            tags = [tag for i in self.list_images() for tag in self._datastore.objects[i].labels]
            return {
                "total": len(self.list_images()),
                "completed": len(self.get_labeled_images()),
                "label_tags": {tag: tags.count(tag) for tag in TAGS if tag in tags},
                "quarantined": self.quarantined(),
            }

    def quarantined(self) -> list[dict[str, str]]:
        """Files set aside, `{"file", "reason"}`, by name; they stay where they are."""
        with self._lock:
            reasons = dict(self._scan.set_aside)
        return [{"file": printable(name), "reason": printable(reasons[name])} for name in sorted(reasons)]

    def json(self) -> dict[str, Any]:
        with self._lock:
            content: dict[str, Any] = self._datastore.model_dump(exclude={"base_path"})
            content["objects"] = {i: o for i, o in content["objects"].items() if i in self._scan.images}
            return content

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        if not self.get_labeled_images():
            raise Refusal(404, "There is no final label yet, so there is no data set to download.")
        return str(super().get_dataset_archive(limit_cases))

    def _to_id(self, file: str) -> tuple[str, str]:
        # The stock version removes the extension wherever it occurs in the name, not only at its end.
        extension = next((e for e in EXTENSIONS if file.lower().endswith(e)), "")
        return (file[: -len(extension)] if extension else file), extension

    def _object(self, image_id: str) -> ImageLabelModel | None:
        with self._lock:
            return self._datastore.objects.get(image_id) if image_id in self._scan.images else None

    def _require(self, image_id: str) -> ImageLabelModel:
        found = self._object(image_id)
        if found is None:
            aside = self._scan.set_aside.get(self._scan.hidden.get(image_id, ""))
            why = (
                f" Its file was set aside: {aside}"
                if aside
                else " See GET /datastore/?output=all for those it has."
            )
            raise Refusal(404, f"There is no image {str(image_id)[:200]!r} in this project.{why}")
        return found

    def _require_label(self, label_id: str, label_tag: str) -> DataModel:
        tag = str(getattr(label_tag, "value", label_tag))
        label = self._require(label_id).labels.get(tag)
        if label is None:
            raise Refusal(404, f"The image {label_id!r} has no label with the tag {tag[:80]!r}.")
        return label

    def _files_of(self, image_id: str) -> list[Path]:
        return [path for e in EXTENSIONS if (path := self._folder / (image_id + e)).exists()]

    def _image_path(self, image_id: str, found: ImageLabelModel) -> Path:
        return self._folder / (image_id + found.image.ext)

    def _label_folder(self, tag: str) -> Path:
        return self._folder / "labels" / str(getattr(tag, "value", tag))

    def _label_path(self, image_id: str, tag: str, extension: str) -> Path:
        return self._label_folder(tag) / (image_id + extension)

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        # Called by the stock constructor, once.
        with FileLock(self._lock_file):
            loaded = self._file.load_if_changed()
            if loaded is not None:
                self._datastore = loaded

    def _update_datastore_file(self, lock: bool = True) -> None:
        # Called by the stock set_name and set_description.
        with self._lock, FileLock(self._lock_file):
            self._file.write(self._datastore)
