"""datastore: a folder of scans and labels behind MONAI Label's interface, where nothing is lost or half
written.

Differs from the stock `LocalDatastore` it derives from: one lock around every change, atomic files, no file
watcher (a thread of our own compares listings, so network mounts work), names and labels checked before they
reach the disk, and unusable files set aside with a reason instead of served. The file format,
`datastore_v2.json`, is the stock one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel

from .absent_labels import AbsentLabels
from .checks import TAGS, check_label, safe_id, safe_tag
from .datastore_view import FINAL, FolderView
from .errors import Refusal, UnusableImage
from .pool import Finding, PoolFindings, Signature
from .pool_scan import PoolScan, scan_pool
from .volumes import EXTENSIONS, encode, read_header, read_volume
from .workspace import Workspace, file_name_of, write_bytes_atomic, write_file_atomic

logger = logging.getLogger(__name__)

RESCAN_PERIOD_S = 2.0
START_CHECK_S = 5.0
"""Seconds a start spends on reading voxels; the rest of a large pool is read in the background."""
BACKGROUND_CHECK_S = 0.3
"""Seconds of that reading in each period, so that training and inference keep the processor."""
_OWN_KEYS = ("sha256", "name", "ts", "path")


class FolderDatastore(FolderView):
    """Scans and labels of one folder, with everything that changes them.

    Attributes:
        on_labels_changed: Called, without arguments, after any final label was saved, found or removed.
        allow_empty: Whether final labels may be all zero without a word.
    """

    def __init__(
        self,
        folder: Path | str,
        workspace: Workspace,
        labels: Mapping[str, int],
        allow_empty: bool = False,
        read_only: bool = False,
        start_check_s: float = START_CHECK_S,
    ) -> None:
        self.on_labels_changed: list[Callable[[], None]] = []
        self.allow_empty = allow_empty
        self._workspace = workspace
        self._read_only = read_only
        self._scan_lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._findings = PoolFindings(workspace.checks_file)
        self._absent = AbsentLabels(workspace.absent_labels_file)
        super().__init__(folder, labels)
        self.refresh(voxels_s=start_check_s)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any] | None
    ) -> str:
        """Check a label, bring it to the project's values and the image's axes, and store it as `.nii.gz`.

        Args:
            image_id: A scan of this project.
            label_filename: The submitted file, NIfTI or NRRD.
            label_tag: `final` or `original`.
            label_info: The viewer's params: `label_info` [{"name", "idx"}], `no_finding`, and what else is
                kept.

        Raises:
            Refusal: 400 for an unsafe id or tag, 404 for an unknown image, 422 for the label; see
                `check_label`.
        """
        image_id, tag = safe_id(image_id), safe_tag(label_tag)
        info = self._params(label_info)
        image = self._image_path(image_id, self._require_usable(image_id))
        no_finding = info.pop("no_finding", False) in (True, "true")
        meaning = info.pop("label_info", None)
        may_be_empty = self.allow_empty or tag != FINAL  # a proposal may well find nothing
        array = check_label(label_filename, image, self.labels, meaning, no_finding, may_be_empty)
        content = encode(array, read_header(image).affine, EXTENSIONS[0])
        info["label_info"] = [{"name": name, "idx": value} for name, value in self.labels.items()]
        if meaning:
            info["submitted_label_info"] = meaning
        empty = not array.any()
        if empty:
            info["no_finding"] = True
        info |= {"ts": int(time.time()), "name": image_id + EXTENSIONS[0]}
        info["sha256"] = hashlib.sha256(content).hexdigest()
        with self._mutation():
            found = self._require(image_id)
            path = self._label_path(image_id, tag, EXTENSIONS[0])
            write_bytes_atomic(path, content)
            self._remove_other_extensions(path.parent, image_id, EXTENSIONS[0])
            key, may_be_empty = f"{tag}/{path.name}", self.allow_empty or empty
            self._findings.accept_label(key, path, image, self.labels, may_be_empty, info["sha256"])
            found.labels[tag] = DataModel(ext=EXTENSIONS[0], info=info)
            self._absent.forget(tag, image_id)
            self._scan.set_aside.pop(f"labels/{key}", None)
            # Should the file go before the next look at the folder, that look must find a difference.
            self._scan.signatures[f"labels/{key}"] = Signature.of(path) or Signature(-1, 0)
        self._announce(tag)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        label_id, tag = safe_id(label_id), safe_tag(label_tag)
        with self._mutation():
            self._require_label(label_id, tag)
            del self._require(label_id).labels[tag]
            self._absent.forget(tag, label_id)
            self._remove_other_extensions(self._label_path(label_id, tag, "").parent, label_id, "")
        self._announce(tag)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any] | None) -> str:
        """Check a scan and copy it into the folder; its extension is what its content deserves.

        Raises:
            Refusal: 400 for an unsafe id, 422 for an unusable file, 409 where another scan has that id and a
                label, or a file set aside has it.
        """
        if not image_id:
            image_id, _ = self._to_id(os.path.basename(image_filename))
        image_id, info = safe_id(image_id), self._params(image_info)
        try:
            read_volume(image_filename)
            extension = read_header(image_filename).extension
        except UnusableImage as error:
            raise Refusal(422, f"The image cannot be used. {error}") from error
        path = self._folder / (image_id + extension)
        with self._mutation():
            self._require_free(image_id, path, Path(image_filename))
            write_file_atomic(path, lambda temporary: _copy(image_filename, temporary))
            self._remove_other_extensions(self._folder, image_id, extension)
            info |= {"ts": int(time.time()), "name": path.name}
            known = self._datastore.objects.setdefault(image_id, ImageLabelModel(image=DataModel()))
            known.image = DataModel(ext=extension, info=info)
            self._scan.images[image_id] = path.name
        self.refresh()
        return image_id

    def remove_image(self, image_id: str) -> None:
        image_id = safe_id(image_id)
        with self._mutation():
            found = self._require(image_id)
            was_final = FINAL in found.labels
            for tag in TAGS:
                self._remove_other_extensions(self._label_path(image_id, tag, "").parent, image_id, "")
                self._absent.forget(tag, image_id)
            self._remove_other_extensions(self._folder, image_id, "")
            for suffix in (".json", ".nii.gz", ".nrrd"):
                (self._workspace.maps / (file_name_of(image_id) + suffix)).unlink(missing_ok=True)
            del self._datastore.objects[image_id]
            self._scan.images.pop(image_id, None)
        if was_final:
            self._announce(FINAL)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        with self._mutation():
            self._require(image_id).image.info.update(self._params(info))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        with self._mutation():
            self._require_label(label_id, label_tag).info.update(self._params(info))

    def is_usable(self, image_id: str) -> bool:
        """Whether a scan may be served: reads all of it the first time, and sets it aside if that fails."""
        found = self._object(image_id)
        if found is None:
            return False
        path = self._image_path(image_id, found)
        signature = Signature.of(path)
        finding = self._findings.image(path, signature, voxels=True) if signature else None
        if finding is None or finding.reason:
            self.refresh()
            return False
        return True

    def start(self, period_s: float = RESCAN_PERIOD_S) -> None:
        """Follow the folder in the background until `stop`."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._follow, args=(period_s,), daemon=True, name="rescan")
            self._thread.start()

    def stop(self) -> None:
        """End the background thread and write what it found."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
            self._thread = None
        self._findings.save()

    def refresh(self, voxels_s: float = 0.0) -> None:
        """Bring the datastore in line with the files.

        Args:
            voxels_s: Seconds that may be spent on reading scans to their last voxel; the rest is for later
                calls.
        """
        with self._scan_lock:
            with self._lock:
                recorded = {
                    tag: self._absent.of(tag)
                    | {i: o.labels[tag] for i, o in self._datastore.objects.items() if tag in o.labels}
                    for tag in TAGS
                }
            try:
                scan = scan_pool(
                    self._folder, self._findings, self.labels, self.allow_empty, recorded, voxels_s
                )
            except OSError as error:
                # A network mount that is gone for a moment must not look like a project without scans.
                logger.warning("The studies folder cannot be listed (%s); trying again.", error.strerror)
                return
            changed = self._take_over(scan)
            self._findings.save()
        if changed:
            self._announce(FINAL)

    def _follow(self, period_s: float) -> None:
        while not self._stop.wait(period_s):
            try:
                self.refresh(voxels_s=BACKGROUND_CHECK_S)
            except Exception:
                logger.exception("Following the studies folder failed; trying again.")

    def _take_over(self, scan: PoolScan) -> bool:
        """Make a look at the folder the state; returns whether the final labels changed."""
        with self._lock, FileLock(self._lock_file):
            if scan == self._scan:
                return False
            before = self.final_labels()
            self._datastore = self._file.load_if_changed() or self._datastore
            dump = self._datastore.model_dump()
            # Removed while the look was under way.
            objects = self._datastore.objects
            scan.images = {i: name for i, name in scan.images.items() if i in objects or self._files_of(i)}
            self._scan = scan
            for image_id in scan.images:
                self._take_image(image_id, scan)
            gone = [i for i in objects if i not in scan.images and not self._files_of(i)]
            for image_id in gone:
                logger.info("A scan has left the studies folder.")
                for tag, record in objects.pop(image_id).labels.items():
                    self._absent.keep(tag, image_id, record)
            for tag in TAGS:
                self._take_labels(tag, scan)
            if self._datastore.model_dump() != dump and not self._read_only:
                self._absent.save()  # first: a crash between the two must lose no record
                self._file.write(self._datastore)
            return self.final_labels() != before

    def _take_image(self, image_id: str, scan: PoolScan) -> None:
        name = scan.images[image_id]
        known = self._datastore.objects.get(image_id)
        extension = name[len(image_id) :]
        if known is None:
            info = {"ts": int(time.time()), "name": name}
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(ext=extension, info=info))
        elif known.image.ext != extension:
            known.image.ext = extension
            known.image.info["name"] = name

    def _take_labels(self, tag: str, scan: PoolScan) -> None:
        """Add, update and remove labels of one tag; what was saved while the look was under way is left
        alone."""
        for image_id, known in self._datastore.objects.items():
            recorded, found = known.labels.get(tag), scan.labels.get((tag, image_id))
            if found is not None:
                name, finding = found
                unchanged = Signature.of(self._label_folder(tag) / name) == finding.signature
                if unchanged and (recorded is None or recorded.info.get("sha256") != finding.sha256):
                    kept = None if recorded else self._absent.of(tag).get(image_id)
                    known.labels[tag] = self._found_label(name, image_id, finding, kept)
            elif recorded is not None:
                path = self._label_path(image_id, tag, recorded.ext)
                if Signature.of(path) == scan.signatures.get(f"labels/{tag}/{path.name}"):
                    # Gone, or set aside as it is now.
                    self._absent.keep(tag, image_id, known.labels.pop(tag))

    def _found_label(self, name: str, image_id: str, finding: Finding, kept: DataModel | None) -> DataModel:
        """The record of a label file; the one it had before (`kept`), if it went and came back the same."""
        extension = name[len(image_id) :]
        if kept is not None and kept.info.get("sha256") == finding.sha256:
            return DataModel(ext=extension, info={**kept.info, "name": name})
        info = {"ts": finding.mtime_ns // 10**9, "name": name, "sha256": finding.sha256}
        info["label_info"] = [{"name": label, "idx": value} for label, value in self.labels.items()]
        return DataModel(ext=extension, info=info)

    @contextlib.contextmanager
    def _mutation(self) -> Iterator[None]:
        """Hold the lock, take in what another process wrote, and write the file if the block succeeds."""
        with self._lock, FileLock(self._lock_file):
            self._datastore = self._file.load_if_changed() or self._datastore
            yield
            self._file.write(self._datastore)
            self._absent.save()

    def _require_usable(self, image_id: str) -> ImageLabelModel:
        self._require(image_id)
        self.is_usable(image_id)
        return self._require(image_id)

    def _require_free(self, image_id: str, path: Path, content: Path) -> None:
        known = self._object(image_id)
        if known is None and self._files_of(image_id):
            raise Refusal(
                409, f"A file that was set aside has the id {image_id!r}; remove or rename it first."
            )
        if known is not None and known.labels:
            same = self._image_path(image_id, known) == path and path.read_bytes() == content.read_bytes()
            if not same:
                raise Refusal(
                    409, f"Another image has the id {image_id!r} and labels; remove it or choose another id."
                )

    def _remove_other_extensions(self, folder: Path, stem: str, kept: str) -> None:
        for extension in EXTENSIONS:
            if extension != kept:
                (folder / (stem + extension)).unlink(missing_ok=True)

    def _params(self, info: Any) -> dict[str, Any]:
        if info is not None and not isinstance(info, dict):
            raise Refusal(422, f"params is a {type(info).__name__}; a JSON object is needed, such as {{}}.")
        kept = {str(key): value for key, value in (info or {}).items() if key not in _OWN_KEYS}
        return json.loads(json.dumps(kept, default=str))  # type: ignore[no-any-return]

    def _announce(self, tag: str) -> None:
        for listener in list(self.on_labels_changed) if tag == FINAL else ():
            try:
                listener()
            except Exception:
                logger.exception("A listener to label changes failed.")


def _copy(source: str, target: Path) -> None:
    shutil.copyfile(source, target)
