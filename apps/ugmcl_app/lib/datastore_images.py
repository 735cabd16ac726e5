"""datastore_images: the scans of a project as MONAI Label adds, removes and describes them."""

from __future__ import annotations

import os
import shutil
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from .catalogue import cases, folder_files
from .catalogue.folder_sync import FolderSync
from .catalogue.label_writer import LabelWriter
from .catalogue.labels import FINAL
from .catalogue.look import VOXELS, Looker
from .checks import TAGS, plain_params, safe_id
from .datastore_view import FolderView
from .drafts import draft_file
from .errors import Refusal, UnusableImage
from .maps import forget_map, remove_files
from .volumes import EXTENSIONS, read_header, read_volume
from .workspace import Workspace, write_file_atomic

_OWN_KEYS = ("sha256", "name", "ts", "path")


class ImageStore(FolderView):
    """The scans of one source; `FolderDatastore` adds what concerns their labels."""

    _workspace: Workspace
    _sync: FolderSync
    _looker: Looker
    _writer: LabelWriter

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any] | None) -> str:
        """Check a scan and copy it into the folder; its extension is what its content deserves.

        Raises:
            Refusal: 400 for an unsafe id, 422 for an unusable file, 409 where another scan has that id and a
                label, or a file set aside has it.
        """
        if not image_id:
            name = os.path.basename(image_filename)
            ending = next((e for e in EXTENSIONS if name.lower().endswith(e)), "")
            image_id = name[: len(name) - len(ending)]
        self._require_folder()
        image_id, info = safe_id(image_id), self._params(image_info)
        try:
            read_volume(image_filename)
            extension = read_header(image_filename).extension
        except UnusableImage as error:
            raise Refusal(422, f"The image cannot be used. {error}") from error
        path = self._folder / (image_id + extension)
        self._require_free(image_id, path, Path(image_filename))
        write_file_atomic(path, lambda temporary: _copy(image_filename, temporary))
        self._remove_images(image_id, extension)
        self._sync.look(image_id)
        self.update_image_info(image_id, {**info, "ts": int(time.time()), "name": path.name}, own=True)
        return image_id

    def remove_image(self, image_id: str) -> None:
        self._require_folder()
        image_id = safe_id(image_id)
        with self._database.read() as session:
            self._require(session, image_id)
            was_final = self._label(session, image_id, FINAL) is not None
        for tag in TAGS:
            self._writer.remove(image_id, tag)
        self._remove_images(image_id, "")
        draft_file(self._workspace, image_id).unlink(missing_ok=True)

        def forget(session: Session) -> str | None:
            cases.forget(cases.lock(session, [image_id])[image_id])
            folder_files.drop(session, self._looker.names_of(image_id))
            return forget_map(session, image_id)

        map_file = self._database.write(forget)
        if map_file is not None:
            remove_files(self._workspace.maps, map_file)
        self._sync.note({}, self._looker.names_of(image_id))
        if was_final:
            self._announce(FINAL)

    def update_image_info(self, image_id: str, info: dict[str, Any], own: bool = False) -> None:
        added = info if own else self._params(info)

        def change(session: Session) -> None:
            cases.lock(session, [image_id])
            found = self._require(session, image_id)
            found.info = {**found.info, **added}

        self._database.write(change)

    def is_usable(self, image_id: str) -> bool:
        """Whether a scan may be served: reads all of it the first time, and sets it aside if that fails."""
        with self._database.read() as session:
            found = cases.find(session, image_id)
            rows = folder_files.of_cases(session, [image_id]) if found else {}
        if found is None:
            return False
        row, signature = rows.get(found.file), self._source.signature(found.file)
        known = row is not None and row.signature == signature and row.depth == VOXELS
        if row is not None and known and (row.reason is not None or self._is_within_reach(found.file)):
            return row.reason is None
        # A scan that was read once but cannot be fetched again is set aside until it can.
        usable = self._sync.look(image_id, anew=known).serving is not None
        self._announce_news()
        return usable

    def _is_within_reach(self, name: str) -> bool:
        try:
            self._source.fetch(name)
        except Refusal:
            return False
        return True

    def _require_usable(self, image_id: str) -> Path:
        with self._database.read() as session:
            self._require(session, image_id)
        self.is_usable(image_id)
        return self.image_file(image_id)

    def _require_folder(self) -> None:
        if not self._source.is_folder:
            raise Refusal(
                405,
                "The images of this project are those of its PACS; send them there, or remove them there.",
            )

    def _require_free(self, image_id: str, path: Path, content: Path) -> None:
        known = self.get_image_uri(image_id)
        if not known and any((self._folder / (image_id + e)).exists() for e in EXTENSIONS):
            raise Refusal(
                409, f"A file that was set aside has the id {image_id!r}; remove or rename it first."
            )
        if known and self.get_labels_by_image_id(image_id):
            same = Path(known) == path and path.read_bytes() == content.read_bytes()
            if not same:
                raise Refusal(
                    409, f"Another image has the id {image_id!r} and labels; remove it or choose another id."
                )

    def _remove_images(self, image_id: str, kept: str) -> None:
        for extension in EXTENSIONS:
            if extension != kept:
                (self._folder / (image_id + extension)).unlink(missing_ok=True)

    def _params(self, info: Any) -> dict[str, Any]:
        return {key: value for key, value in plain_params(info).items() if key not in _OWN_KEYS}

    @abstractmethod
    def _announce(self, tag: str) -> None:
        """Tell listeners that labels of a tag changed."""

    @abstractmethod
    def _announce_news(self) -> None:
        """Tell listeners if final labels changed since they last heard."""


def _copy(source: str, target: Path) -> None:
    shutil.copyfile(source, target)
