"""outbox: results on their way to a PACS, kept on this disk until it has them."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from pydicom.dataset import Dataset

from ..dicom.instances import read_dataset
from ..exclusive import alone
from ..workspace import write_bytes_atomic
from .connection import PacsError, PacsRefused, PacsUnavailable
from .dicomweb import DicomWeb

logger = logging.getLogger(__name__)

REFUSED = "refused"
"""The folder of what the PACS does not take; a person has to look."""


class Outbox:
    """DICOM files waiting for one PACS, in the order they were put in. Thread-safe, in several processes too;
    survives restarts."""

    def __init__(self, folder: Path, web: DicomWeb) -> None:
        self._folder, self._web = Path(folder), web
        (self._folder / REFUSED).mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._lock = threading.Lock()

    def put(self, content: bytes) -> str:
        """Keep a DICOM file for delivery; it is safe on the disk when this returns.

        Returns:
            Its SOPInstanceUID.

        Raises:
            UnusableSeries: If it is no DICOM object.
        """
        dataset = _header(content)
        uid = str(dataset.SOPInstanceUID)
        write_bytes_atomic(self._folder / f"{time.time_ns():020d}-{uid}.dcm", content)
        return uid

    def waiting(self) -> list[str]:
        """SOPInstanceUIDs not delivered yet, oldest first."""
        return [path.stem.partition("-")[2] for path in sorted(self._folder.glob("*.dcm"))]

    def refused(self) -> list[str]:
        """SOPInstanceUIDs that the PACS does not take."""
        return [path.stem.partition("-")[2] for path in sorted((self._folder / REFUSED).glob("*.dcm"))]

    def deliver(self) -> int:
        """Send what waits, oldest first, until the PACS is away or nothing is left.

        Returns:
            How many objects the PACS took; 0 while another process delivers.

        Raises:
            PacsUnavailable: If it is away; what it did not take goes on waiting.
            PacsRefused: For wrong credentials or address, which a person must mend; all goes on waiting.
        """
        delivered = 0
        with self._lock, alone(self._folder / "sending.lock") as free:
            for path in sorted(self._folder.glob("*.dcm")) if free else ():
                content = path.read_bytes()
                dataset = _header(content)
                try:
                    answer = self._web.store(str(dataset.StudyInstanceUID), [content])
                except PacsUnavailable:
                    raise
                except PacsRefused as error:
                    if error.status in (401, 403, 404):
                        raise
                    self._set_aside(path, error)
                    continue
                if str(dataset.SOPInstanceUID) in answer.failed:
                    reason = answer.failed[str(dataset.SOPInstanceUID)]
                    self._set_aside(path, PacsRefused(f"The PACS refused it with the reason {reason:#06x}."))
                    continue
                path.unlink()
                delivered += 1
        return delivered

    def _set_aside(self, path: Path, error: PacsError) -> None:
        logger.error("the PACS does not take %s: %s", path.stem.partition("-")[2], error)
        path.rename(self._folder / REFUSED / path.name)


def _header(content: bytes) -> Dataset:
    return read_dataset(content, pixels=False)
