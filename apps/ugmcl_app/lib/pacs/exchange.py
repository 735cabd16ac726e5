"""exchange: what goes to a PACS and what comes from it beside the scans: labels both ways, results out.

Which labels were put into the outbox is kept as the number of the last change of labels that was looked at.
What a label becomes has UIDs made of the label's own: a crash between the two sends it twice at worst, and
the PACS has it once.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from sqlalchemy import select

from ..catalogue import facts
from ..catalogue.database import Database
from ..catalogue.labels import FINAL
from ..catalogue.schema import ACTIVE, Label
from ..dicom.instances import read_dataset
from ..dicom.refusals import UnusableSeries
from ..dicom.segmentation_reading import referenced_series
from ..errors import Refusal
from .arrival import checked
from .connection import PacsAnswerUnusable, PacsError
from .known_series import KnownSeries
from .outbox import Outbox
from .results import DicomResults
from .source import PacsSource

if TYPE_CHECKING:
    from ..datastore import FolderDatastore

logger = logging.getLogger(__name__)

FACT = "pacs_sent"
FROM_SERIES = "dicom_seg_series"
"""Key of a label's info: the SEG series it was read from."""
_UNAVAILABLE = 503


class PacsExchange:
    """One thread that sends labels and results, and takes experts' SEGs for labels.

    Attributes:
        failed: A sentence on each label that cannot be sent, by case.
    """

    def __init__(
        self, source: PacsSource, results: DicomResults, outbox: Outbox, database: Database, period_s: float
    ) -> None:
        self._source, self._results, self._outbox = source, results, outbox
        self._database, self._period_s = database, period_s
        self._datastore: FolderDatastore | None = None
        self._news, self._stopping = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._refused = ""
        self.failed: dict[str, str] = {}

    def attach(self, datastore: FolderDatastore) -> None:
        """The project's labels; to be called once, before `start`."""
        self._datastore = datastore
        datastore.on_labels_changed.append(self.wake)
        self._source.on_news = self.wake

    def start(self) -> None:
        """Work in the background until `stop`."""
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, daemon=True, name="pacs-exchange")
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what waits goes on waiting on the disk."""
        self._stopping = True
        self._news.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
            self._thread = None

    def wake(self) -> None:
        """There is something to do."""
        self._news.set()

    def send(self, content: bytes) -> str:
        """Have an object delivered; it is safe on the disk when this returns. Returns its SOPInstanceUID."""
        uid = self._outbox.put(content)
        self.wake()
        return uid

    def state(self) -> dict[str, Any]:
        """For `/info/`: what waits, what the PACS did not take, and what could not be made for it."""
        failed = [{"image": case_id, "reason": reason} for case_id, reason in self.failed.items()]
        return {
            "waiting": len(self._outbox.waiting()),
            "refused": self._outbox.refused(),
            "delivery": self._refused or None,
            "not_sent": failed,
        }

    def work(self) -> None:
        """One turn of everything."""
        self._put_labels()
        self._deliver()
        self._take_segmentations()
        self._bring_labeled()

    def _serve(self) -> None:
        while not self._stopping:
            self._news.clear()
            try:
                self.work()
            except Exception:
                logger.exception("The exchange with the PACS failed; it is tried again.")
            if not self._stopping:
                self._news.wait(self._period_s)

    # --- to the PACS

    def _put_labels(self) -> None:
        assert self._datastore is not None
        with self._database.read() as session:
            last = int(facts.get(session, FACT).get("revision", 0))
            rows = select(Label).where(Label.tag == FINAL, Label.revision > last, Label.state == ACTIVE)
            found = list(session.scalars(rows.order_by(Label.revision, Label.id)))
        for label in found:
            if FROM_SERIES not in label.info and not self._put_label(label):
                return  # its scan cannot be fetched now
            done = {"revision": label.revision}
            self._database.write(lambda session, done=done: facts.put(session, FACT, done))  # type: ignore[misc]

    def _put_label(self, label: Label) -> bool:
        assert self._datastore is not None
        path = self._datastore.get_label_uri(label.case_id, FINAL)
        if not path:
            return True  # removed meanwhile; a newer one has its own turn
        try:
            content = self._results.label(label.case_id, path, label.uid, label.model_version)
        except Refusal as refusal:
            if refusal.status_code == _UNAVAILABLE:
                return False
            self.failed[label.case_id] = str(refusal.detail)
            return True
        except Exception as error:
            logger.exception("A label cannot be written as DICOM SEG.")
            self.failed[label.case_id] = f"It cannot be written as DICOM SEG ({type(error).__name__})."
            return True
        self.failed.pop(label.case_id, None)
        known = self._source.known(label.case_id)
        series = self._results.label_series(label.case_id, label.uid)
        # Before the PACS lists it: ours comes back as a SEG that is known already.
        study = known.study_uid if known else ""
        self._source.note(KnownSeries(series, study, "SEG", 1, listed=False, made_of=1))
        self._outbox.put(content)
        return True

    def _deliver(self) -> None:
        if not self._outbox.waiting():
            self._refused = ""
            return
        if self._source.is_away:  # a look notices when it is back
            self._refused = self._source.trouble
            return
        try:
            delivered = self._outbox.deliver()
        except PacsError as error:
            if str(error) != self._refused:
                logger.warning("%s What waits for it is sent later.", error)
            self._refused = str(error)
            return
        self._refused = ""
        if delivered:
            self._source.expire()

    # --- from the PACS

    def _take_segmentations(self) -> None:
        """Take what experts have stored for labels, in the order in which they drew it."""
        if self._source.is_away:
            return
        arrived: list[tuple[str, str, bytes, KnownSeries]] = []
        for row in self._source.segmentations():
            try:
                arrived += self._fetched(row)
            except PacsAnswerUnusable as error:
                self._settle(row, str(error))
            except PacsError as error:
                logger.info("a segmentation is read later: %s", error)
        for _, case_id, content, row in sorted(arrived, key=lambda entry: entry[0]):
            self._take(case_id, content, row)

    def _fetched(self, row: KnownSeries) -> list[tuple[str, str, bytes, KnownSeries]]:
        """When it was drawn, of which case, and its bytes, for each instance that is about a case of ours."""
        contents: list[bytes] = []
        self._source.web.fetch_series(row.study_uid, row.uid, contents.append)
        found = []
        for content in contents:
            checked(content, row.study_uid, row.uid)
            dataset = read_dataset(content, pixels=False)
            case_id = self._case_of(dataset)
            if case_id is not None:
                drawn = f"{dataset.get('ContentDate', '')} {dataset.get('ContentTime', '')}"
                found.append((drawn, case_id, content, row))
        if not found:
            self._settle(row)
        return found

    def _case_of(self, dataset: Dataset) -> str | None:
        assert self._datastore is not None
        try:
            named = referenced_series(dataset)
        except (UnusableSeries, AttributeError):
            return None
        return next((uid for uid in named if self._datastore.has_image(uid)), None)

    def _take(self, case_id: str, content: bytes, row: KnownSeries) -> None:
        assert self._datastore is not None
        try:
            read = self._results.read_label(case_id, content)
            known = read.by_model or self._is_known(case_id, row.uid, read.instance_uid)
            # A viewer may both submit a label here and store it there.
            if not known and not self._datastore.has_label(case_id, read.labels):
                info = {FROM_SERIES: row.uid, "dicom_seg": read.instance_uid, "tool": "PACS"}
                self._datastore.take_label(case_id, read.labels, info)
                logger.info("the segmentation %s was taken as a label", row.uid)
        except Refusal as refusal:
            if refusal.status_code != _UNAVAILABLE:
                self._settle(row, str(refusal.detail))
            return
        self._settle(row)

    def _is_known(self, case_id: str, series: str, instance: str) -> bool:
        """Whether a SEG is a label that was sent from here, or was taken already, by whichever server and
        before whichever rebuilding of the catalogue: taken again, it would replace what was saved since."""
        assert self._datastore is not None
        return any(
            version["info"].get("dicom_seg") == instance
            or self._results.label_series(case_id, version["uid"]) == series
            for version in self._datastore.label_history(case_id)
        )

    def _settle(self, row: KnownSeries, reason: str | None = None) -> None:
        self._source.note(row._replace(made_of=row.instances, reason=reason))

    def _bring_labeled(self) -> None:
        """Fetch labeled cases whose series went from this disk: a round reads all of them."""
        assert self._datastore is not None
        if self._source.is_away:
            return
        for case_id in self._datastore.final_labels():
            if not self._source.is_here(case_id) and self._datastore.has_image(case_id):
                try:
                    self._datastore.image_file(case_id)
                except Refusal as refusal:
                    logger.info("a labeled case is not here: %s", refusal.detail)
