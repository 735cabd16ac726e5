"""datastore: scans and labels behind MONAI Label's interface, where nothing is lost or half written.

What is known of them is in the catalogue, a database; the scans stay where their source has them, a folder or
a PACS, and the labels in effect are plain files. Differs from the stock `LocalDatastore`: every change is one
transaction, several processes may work on one project, every version of a label is kept, no file watcher (one
listing is compared, so network mounts work), names and labels are checked before they reach the disk, and
unusable files are set aside with a reason instead of served.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from sqlalchemy.orm import Session

from ugmcl.agreement import AGREEMENT_DICE

from .catalogue import adoption, cases, labels, repair, stock_file
from .catalogue.archive import Archive
from .catalogue.case_source import CaseSource
from .catalogue.folder_sync import FolderSync
from .catalogue.label_store import SUBMITTED, LabelRecord, LabelStore
from .catalogue.label_writer import LabelWriter
from .catalogue.labels import FINAL
from .catalogue.look import Looker
from .checks import TAGS, check_finding, check_label, safe_id, safe_tag
from .datastore_images import ImageStore
from .double_reading import DoubleReading
from .errors import Refusal
from .volumes import EXTENSIONS, encode, read_header
from .workspace import Workspace, write_json_atomic

logger = logging.getLogger(__name__)

RESCAN_PERIOD_S = 2.0
RESCAN_SHARE = 0.05
"""A folder so large that listing it takes long is listed less often: at most this share of the time."""
RESCAN_LONGEST_S = 30.0
"""But not less often than this, also where a busy machine makes listing slow: somebody waits for the scan."""
START_CHECK_S = 2.0
"""Seconds a start spends on reading voxels; the rest of a large pool is read in the background."""
START_CHECK_CASES = 10_000
"""In a pool larger than this, that time would reach a few percent of the scans: a start does not spend it."""
START_OPEN_S = 2.0
"""Seconds a start spends on opening files that are new to the catalogue."""
BACKGROUND_CHECK_S = 0.3
"""Seconds of that reading in each period, so that training and inference keep the processor."""


class FolderDatastore(ImageStore):
    """Scans of one source and their labels, with everything that changes them.

    Attributes:
        on_labels_changed: Called, without arguments, after any final label was saved, found or removed.
        allow_empty: Whether final labels may be all zero without a word.
        readings: What several readers of one case gave, and what is decided about it.
        repairs: Sentences on what the start mended or set aside.
    """

    def __init__(
        self,
        scans: CaseSource | Path | str,
        workspace: Workspace,
        labels: Mapping[str, int],
        allow_empty: bool = False,
        start_check_s: float = START_CHECK_S,
        agreement_dice: float = AGREEMENT_DICE,
    ) -> None:
        self.on_labels_changed: list[Callable[[], None]] = []
        self.allow_empty = allow_empty
        self._workspace = workspace
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._heard = 0  # the revision of the final labels that listeners know
        super().__init__(scans, labels, workspace.database)
        self._store = LabelStore(workspace.labels)
        self._looker = Looker(self._source, self.labels, allow_empty)
        self._sync = FolderSync(self._database, self._looker, self._store)
        self._writer = LabelWriter(self._database, self._store, self._sync, self._looker)
        self.readings = DoubleReading(
            self._database,
            self._store,
            self._writer,
            self.labels,
            agreement_dice,
            on_decided=lambda: self._announce(FINAL),
        )
        self.repairs = self._start(start_check_s)

    def _start(self, check_s: float) -> list[str]:
        """Take over what is there, and mend what a crash has left."""
        said = list(self._database.repairs)
        alike = adoption.judges_alike(self._database, self.labels, self.allow_empty)
        said += adoption.adopt(self._database, self._workspace, self._folder, self._store)
        said += repair.remove_half_written(
            *(self._folder, *map(self._label_folder, TAGS), self._workspace.root, self._store.pending_folder),
            *(self._workspace.drafts, self._workspace.maps, self._workspace.training),
        )
        self._sync.load(labels_too=alike)
        said += repair.finish_pending(self._database, self._store, self._writer)
        with self._database.read() as session:
            is_large = cases.count(session) > START_CHECK_CASES
        self._look_around(START_OPEN_S, 0.0 if is_large else check_s)
        # Again, for cases that only the look has found: the database was new.
        said += repair.finish_pending(self._database, self._store, self._writer)
        said += repair.restore_damaged(self._database, self._store, self._workspace.quarantine, self._sync)
        self.readings.decide_all()
        with self._database.read() as session:
            self._heard = self._final_revision(session)
        return said

    # --- labels

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any] | None
    ) -> str:
        """Check a label, bring it to the project's values and the image's axes, and store it as `.nii.gz`.

        Args:
            image_id: A scan of this project.
            label_filename: The submitted file, NIfTI or NRRD.
            label_tag: `final` or `original`.
            label_info: The viewer's params: `label_info` [{"name", "idx"}], `no_finding`, `comment`, `tool`,
                `model_version`, `adjudicate` (decides a case that several readers label), and what else is
                kept.

        Raises:
            Refusal: 400 for an unsafe id or tag, 404 for an unknown image, 422 for the label; see
                `check_label` and `check_finding`.
        """
        image_id, tag = safe_id(image_id), safe_tag(label_tag)
        info = self._params(label_info)
        image = self._require_usable(image_id)
        no_finding = info.pop("no_finding", False) in (True, "true")
        adjudicates = info.pop("adjudicate", False) in (True, "true")
        meaning = info.pop("label_info", None)
        may_be_empty = self.allow_empty or tag != FINAL  # a proposal may well find nothing
        array = check_label(label_filename, image, self.labels, meaning, no_finding, may_be_empty)
        check_finding(no_finding, array)
        if meaning:
            info["submitted_label_info"] = meaning
        self._keep_label(image_id, image, tag, array, info, adjudicates)
        return image_id

    def take_label(self, image_id: str, array: NDArray[Any], label_info: dict[str, Any] | None) -> str:
        """Store a final label that was read and checked already.

        Args:
            image_id: A scan of this project.
            array: `(X, Y, Z)` on the scan's grid, with the project's values.
            label_info: As in `save_label`.

        Raises:
            Refusal: 404 for an unknown image, 503 or 422 if it cannot be fetched or used.
        """
        info = self._params(label_info)
        adjudicates = info.pop("adjudicate", False) in (True, "true")
        self._keep_label(image_id, self._require_usable(image_id), FINAL, array, info, adjudicates)
        return image_id

    def has_label(self, image_id: str, array: NDArray[Any]) -> bool:
        """Whether the final label in effect is this very one; the scan must be on this disk."""
        content = encode(array, read_header(self.image_file(image_id)).affine, EXTENSIONS[0])
        return self.final_labels().get(image_id) == self._store.digest(content)

    def _keep_label(
        self,
        image_id: str,
        image: Path,
        tag: str,
        array: NDArray[Any],
        info: dict[str, Any],
        adjudicates: bool = False,
    ) -> None:
        content = encode(array, read_header(image).affine, EXTENSIONS[0])
        info["label_info"] = [{"name": name, "idx": value} for name, value in self.labels.items()]
        if not array.any():
            info["no_finding"] = True
        now = time.time()
        info |= {"ts": int(now), "name": image_id + EXTENSIONS[0], "sha256": self._store.digest(content)}
        record = LabelRecord(
            image_id,
            tag,
            SUBMITTED,
            now,
            sha256=info["sha256"],
            extension=EXTENSIONS[0],
            info=info,
            **stock_file.provenance(info),
        )
        saved = self._writer.save(record, content, settles=adjudicates)
        if saved.is_label:
            self._announce(tag)
        else:
            self.readings.decide(image_id)

    def label_version(self, image_id: str, uid: str) -> Path:
        """The kept file of one version of a label, readings included.

        Raises:
            Refusal: 404 if there is no such version, or its bytes were not kept.
        """
        with self._database.read() as session:
            self._require(session, image_id)
            found = labels.version(session, image_id, uid)
        if found is None or self._store.read(found.sha256, found.extension) is None:
            raise Refusal(
                404,
                f"The image {image_id!r} has no kept label version {uid[:80]!r}; "
                "GET /datastore/label/history lists them.",
            )
        return self._store.path_of(found.sha256, found.extension)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        label_id, tag = safe_id(label_id), safe_tag(label_tag)
        with self._database.read() as session:
            self._require_label(session, label_id, tag)
        self._writer.remove(label_id, tag)
        self._announce(tag)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        added = self._params(info)

        def change(session: Session) -> None:
            cases.lock(session, [label_id])
            label = self._require_label(session, label_id, label_tag)
            label.info = {**label.info, **added}

        self._database.write(change)

    # --- following the folder

    def start(self, period_s: float = RESCAN_PERIOD_S) -> None:
        """Follow the folder in the background until `stop`."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._follow, args=(period_s,), daemon=True, name="rescan")
            self._thread.start()

    def stop(self) -> None:
        """End the background thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
            self._thread = None

    def refresh(self, voxels_s: float = 0.0) -> None:
        """Bring the catalogue in line with the files, and tell listeners what came of it.

        Args:
            voxels_s: Seconds that may be spent on reading scans to their last voxel; the rest is for later
                calls.
        """
        self._look_around(START_OPEN_S, voxels_s)
        self._announce_news()

    def export_stock_file(self) -> Path:
        """Write `datastore_v2.json` for the stock server; reads every case."""
        path = self._folder / stock_file.NAME
        write_json_atomic(path, self.json())
        self._database.write(lambda session: stock_file.note(session, path))
        return path

    def _look_around(self, opening_s: float, voxels_s: float) -> None:
        try:
            self._sync.follow(opening_s)
        except OSError as error:
            # A network mount that is gone for a moment must not look like a project without scans.
            logger.warning("The studies cannot be listed (%s); trying again.", error.strerror)
            return
        self._sync.read_through(voxels_s)

    def _follow(self, period_s: float) -> None:
        pause_s = period_s
        archived = Archive(self._database, self._store, self._folder)
        while not self._stop.wait(pause_s):
            begun = time.monotonic()
            try:
                self._sync.follow(BACKGROUND_CHECK_S)
                pause_s = (time.monotonic() - begun) * (1 / RESCAN_SHARE - 1)
                pause_s = max(period_s, min(pause_s, RESCAN_LONGEST_S))
                self._sync.read_through(BACKGROUND_CHECK_S)
                archived.advance(BACKGROUND_CHECK_S)
                self.readings.decide_all()
                self._announce_news()
            except OSError as error:
                logger.warning("The studies cannot be listed (%s); trying again.", error.strerror)
            except Exception:
                logger.exception("Following the studies failed; trying again.")

    @staticmethod
    def _final_revision(session: Session) -> int:
        return labels.revision(session, FINAL)

    def _announce_news(self) -> None:
        """Tell listeners if final labels changed, by this process or another, since they last heard."""
        with self._database.read() as session:
            newest = self._final_revision(session)
        if newest != self._heard:
            self._announce(FINAL)

    def _announce(self, tag: str) -> None:
        if tag != FINAL:
            return
        with self._database.read() as session:
            newest = self._final_revision(session)
        heard = True
        for listener in list(self.on_labels_changed):
            try:
                listener()
            except Exception:  # e.g. the database is away; the background tells all of them again
                logger.exception("A listener to label changes failed; it is told again.")
                heard = False
        if heard:
            self._heard = newest
