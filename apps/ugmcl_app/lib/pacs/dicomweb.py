"""dicomweb: what we ask a PACS for: lists of series (QIDO-RS), their instances (WADO-RS), storing (STOW-RS).

PS3.18 chapters 8.6 and 10.4 to 10.6.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .connection import PacsAnswerUnusable, PacsConnection, PacsRefused, PacsUnavailable
from .multipart import MultipartBroken, boundary_of, dicom_body, read_parts

PAGE = 500
"""Series asked for at once."""
MAX_SERIES = 100_000
"""A PACS that goes on answering pages beyond this many ignores the offset."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_JSON = {"Accept": "application/dicom+json"}
_SERIES_FIELDS = "0020000E,0020000D,00080060,00201209"
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_MODALITY, _COUNT = "00080060", "00201209"
_FAILED, _FAILURE = "00081198", "00081197"


class SeriesEntry(NamedTuple):
    """One series of a PACS's list; no attribute of the patient is asked for or kept.

    Attributes:
        uid, study_uid: SeriesInstanceUID and StudyInstanceUID.
        modality: As the PACS says.
        instances: How many instances it has; None where the PACS does not say.
    """

    uid: str
    study_uid: str
    modality: str
    instances: int | None


@dataclass(frozen=True)
class Listing:
    """An answer to a search, and what to ask with next time.

    Attributes:
        series: In the order of their UIDs.
        changed: Whether it differs from the one given; then `series` is the new one, else the old.
        tag: ETag of a PACS that gives one, for the next conditional request.
        digest: Of the content, for those that give none.
    """

    series: tuple[SeriesEntry, ...]
    changed: bool
    tag: str
    digest: str


class Stored(NamedTuple):
    """What STOW-RS did: SOPInstanceUIDs stored, and those refused with the number of the reason."""

    stored: tuple[str, ...]
    failed: dict[str, int]


class DicomWeb:
    """The three services on one connection. Thread-safe."""

    def __init__(self, connection: PacsConnection) -> None:
        self.connection = connection

    def list_series(self, modality: str, known: Listing | None = None, narrowed: bool = True) -> Listing:
        """All series of a modality that the settings' search finds.

        Args:
            modality: Such as `MR`.
            known: The last listing; a PACS with ETags then answers an unchanged one without content.
            narrowed: False leaves the settings' search out.

        Raises:
            PacsError: One of its kinds.
        """
        search = {"Modality": modality, "includefield": _SERIES_FIELDS}
        if narrowed:
            search |= self.connection.settings.search
        found: dict[str, SeriesEntry] = {}
        tag = ""
        for offset in range(0, MAX_SERIES, PAGE):
            conditional = {"If-None-Match": known.tag} if known and known.tag and not offset else {}
            params = {**search, "limit": str(PAGE), "offset": str(offset)}
            response = self.connection.get("/series", params, {**_JSON, **conditional})
            if response.status_code == 304:
                assert known is not None, "304 without a condition"
                return Listing(known.series, False, known.tag, known.digest)
            tag = "" if offset else response.headers.get("ETag", "")
            page = [_series_entry(item) for item in _objects(response.content if response.content else b"[]")]
            fresh = {entry.uid: entry for entry in page if entry.modality == modality}
            if len(page) < PAGE or not set(fresh) - set(found):
                found.update(fresh)
                break
            found.update(fresh)
            tag = ""  # one page's tag says nothing of the others
        series = tuple(found[uid] for uid in sorted(found))
        digest = hashlib.sha256(repr(series).encode()).hexdigest()
        return Listing(series, known is None or known.digest != digest, tag, digest)

    def list_instances(self, study_uid: str, series_uid: str) -> frozenset[str]:
        """SOPInstanceUIDs of a series; empty for one the PACS does not have.

        Raises:
            PacsError: One of its kinds.
        """
        path = f"{_series_path(study_uid, series_uid)}/instances"
        found: set[str] = set()
        for offset in range(0, MAX_SERIES, PAGE):
            params = {"includefield": _INSTANCE, "limit": str(PAGE), "offset": str(offset)}
            try:
                response = self.connection.get(path, params, _JSON)
            except PacsRefused as error:
                if error.status == 404:
                    return frozenset()
                raise
            page = {_uid(_value(item, _INSTANCE)) for item in _objects(response.content or b"[]")}
            if len(page) < PAGE or not page - found:
                return frozenset(found | page)
            found |= page
        return frozenset(found)

    def fetch_series(self, study_uid: str, series_uid: str, keep: Callable[[bytes], None]) -> int:
        """Hand every instance of a series to `keep`, as the bytes of a file; one attempt.

        Explicit VR Little Endian is asked for, so that no decoder for compressed pixels is needed.

        Returns:
            How many there were.

        Raises:
            PacsError: One of its kinds; instances kept before an answer broke off stay kept.
        """
        return self._fetch(_series_path(study_uid, series_uid), keep)

    def fetch_instance(
        self, study_uid: str, series_uid: str, instance_uid: str, keep: Callable[[bytes], None]
    ) -> int:
        """As `fetch_series`, for one instance."""
        return self._fetch(f"{_series_path(study_uid, series_uid)}/instances/{_uid(instance_uid)}", keep)

    def store(self, study_uid: str, objects: list[bytes]) -> Stored:
        """Store DICOM files in a study, tried again while the PACS is away or busy.

        Storing the same file twice is harmless: it keeps its SOPInstanceUID.

        Raises:
            PacsError: One of its kinds. A PACS that stores some and refuses others does not raise.
        """
        body, content_type = dicom_body(objects)
        headers = {**_JSON, "Content-Type": content_type}
        response = self.connection.post(f"/studies/{_uid(study_uid)}", body, headers)
        (answer,) = _objects(response.content, single=True) or [{}]
        failed = {
            _uid(_value(item, "00081155")): int(_value(item, _FAILURE) or 0)
            for item in (answer.get(_FAILED) or {}).get("Value", [])
        }
        stored = [_uid(_value(item, "00081155")) for item in (answer.get("00081199") or {}).get("Value", [])]
        if response.status_code == 409 and not failed and not stored:
            raise PacsRefused("The PACS stored none of the objects and gave no reason.", 409)
        return Stored(tuple(stored), failed)

    def _fetch(self, path: str, keep: Callable[[bytes], None]) -> int:
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1'
        count = 0
        with self.connection.stream(path, {"Accept": accept}) as response:
            try:
                for part in read_parts(
                    response.iter_bytes(), boundary_of(response.headers.get("Content-Type", ""))
                ):
                    keep(part)
                    count += 1
            except MultipartBroken as error:
                raise PacsUnavailable(f"The PACS did not send {path} whole: {error}.") from error
        return count


def _series_path(study_uid: str, series_uid: str) -> str:
    return f"/studies/{_uid(study_uid)}/series/{_uid(series_uid)}"


def _uid(value: Any) -> str:
    """A UID fit to stand in a path; anything else comes from a broken answer or a hostile one."""
    if not isinstance(value, str) or len(value) > 64 or not _UID.fullmatch(value):
        raise PacsAnswerUnusable(f"The UID {str(value)[:70]!r} is none; UIDs are numbers joined by dots.")
    return value


def _objects(content: bytes, single: bool = False) -> list[dict[str, Any]]:
    """DICOM JSON objects (PS3.18 F) of an answer."""
    try:
        parsed = json.loads(content) if content else []
    except ValueError as error:
        raise PacsAnswerUnusable("The PACS answered a search with something else than DICOM JSON.") from error
    if single and isinstance(parsed, dict):
        parsed = [parsed]
    if not isinstance(parsed, list) or not all(isinstance(item, dict) for item in parsed):
        raise PacsAnswerUnusable("The PACS answered a search with something else than a list of objects.")
    return parsed


def _value(item: dict[str, Any], tag: str) -> Any:
    values = (item.get(tag) or {}).get("Value") or [None]
    return values[0]


def _series_entry(item: dict[str, Any]) -> SeriesEntry:
    count = _value(item, _COUNT)
    return SeriesEntry(
        _uid(_value(item, _SERIES)),
        _uid(_value(item, _STUDY)),
        str(_value(item, _MODALITY) or ""),
        int(count) if isinstance(count, int | float | str) and str(count).isdigit() else None,
    )
