"""datastore_file: MONAI Label's `datastore_v2.json`, read with suspicion and replaced in one step."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path

from monailabel.datastore.local import ImageLabelModel, LocalDatastoreModel

from .checks import TAGS, safe_id
from .errors import Refusal
from .volumes import EXTENSIONS
from .workspace import write_json_atomic

logger = logging.getLogger(__name__)

NAME = "datastore_v2.json"


class DatastoreFile:
    """The one file that keeps what is known of scans and labels. Callers hold a lock."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._state: tuple[int, ...] | None = None

    def set_aside_if_broken(self) -> None:
        """Rename a truncated or edited file, so that the server starts: the folder tells most of it again."""
        try:
            LocalDatastoreModel.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except ValueError:
            kept = self._path.with_name(f"{NAME}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}")
            self._path.replace(kept)
            logger.error(
                "%s is damaged. It was kept as %s; scans and labels are found anew.", NAME, kept.name
            )

    def load_if_changed(self) -> LocalDatastoreModel | None:
        """The content if another process (or nobody yet in this one) has written it; else None."""
        state = self._state_on_disk()
        if state is None or state == self._state:
            return None
        try:
            loaded = LocalDatastoreModel.model_validate_json(self._path.read_bytes())
        except ValueError:
            logger.error("%s was damaged while the server runs; it is written anew.", NAME)
            return None
        # Whoever can write the file must not be able to point the server at other folders with it.
        loaded.images_dir, loaded.labels_dir, loaded.base_path = ".", "labels", str(self._path.parent)
        loaded.objects = {i: found for i, found in loaded.objects.items() if _is_plain(i, found)}
        self._state = state
        return loaded

    def write(self, content: LocalDatastoreModel) -> None:
        """Replace the file."""
        write_json_atomic(self._path, content.model_dump(exclude={"base_path"}))
        self._state = self._state_on_disk()

    def _state_on_disk(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino)


def _is_plain(image_id: str, found: ImageLabelModel) -> bool:
    """Whether an entry can only name files inside the project's folder."""
    with contextlib.suppress(Refusal):
        names = [found.image.ext, *(label.ext for label in found.labels.values())]
        return (
            bool(safe_id(image_id))
            and all(ext in EXTENSIONS for ext in names)
            and set(found.labels) <= set(TAGS)
        )
    return False
