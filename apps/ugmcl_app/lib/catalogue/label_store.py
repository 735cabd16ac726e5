"""label_store: the bytes of every label version by their SHA-256, each with the record of how it came.

The database says which version is in effect. The store is what a project is rebuilt from when the database is
lost, and what a damaged label file is replaced from. Nothing in it is ever changed or deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..workspace import read_json, write_bytes_atomic

SUBMITTED, FOUND, IMPORTED, TAKEN_AWAY = "submitted", "found", "imported", "removed"


@dataclass(frozen=True)
class LabelRecord:
    """How a label came, or that one was removed on purpose (`source` is `removed`).

    Attributes:
        uid: Unique; decided before the first byte is written.
        case_id, tag: What it is the label of.
        sha256, extension: Its bytes, and the kind of file they are.
        source: `submitted`, `found`, `imported` or `removed`.
        reader, tool, model_version, comment: As in `schema.Label`.
        created_at: Seconds since 1970, UTC.
        info: MONAI Label's info of the label.
        readers_wanted: Of a reading: how many readers its case wanted then; 0: a label in its own right.
    """

    case_id: str
    tag: str
    source: str
    created_at: float
    sha256: str = ""
    extension: str = ""
    reader: str = ""
    tool: str = ""
    model_version: str = ""
    comment: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    readers_wanted: int = 0
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def is_label(self) -> bool:
        """Whether it is a label in its own right, and no reading."""
        return not self.readers_wanted

    @classmethod
    def from_dict(cls, stored: Any) -> LabelRecord | None:
        """The inverse of `asdict`; None for what is no record."""
        known = {entry.name for entry in fields(cls)}
        try:
            return cls(**{key: value for key, value in stored.items() if key in known})
        except (AttributeError, TypeError):
            return None


class LabelStore:
    """Label contents and records below one folder. Several processes may use it at the same time.

    Attributes:
        pending_folder: Has the announced records, and whatever is half-written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pending_folder = folder / "pending"

    def keep(self, content: bytes, extension: str) -> str:
        """Store a label's bytes, flushed to disk; returns their SHA-256."""
        digest = self.digest(content)
        if self.read(digest, extension) is None:
            # By way of the one folder that a start clears of what a killed process left half-written.
            write_bytes_atomic(self.path_of(digest, extension), content, self.pending_folder)
        return digest

    @staticmethod
    def digest(content: bytes) -> str:
        """The SHA-256 under which bytes are kept."""
        return hashlib.sha256(content).hexdigest()

    def path_of(self, sha256: str, extension: str) -> Path:
        """Where the bytes with this digest are, if they are kept."""
        return self._folder / sha256[:2] / sha256 / f"label{extension}"

    def read(self, sha256: str, extension: str) -> bytes | None:
        """The bytes with this digest; None where they are not kept, or not as they were."""
        try:
            content = self.path_of(sha256, extension).read_bytes()
        except OSError:
            return None
        return content if self.digest(content) == sha256 else None

    def is_kept(self, record: LabelRecord) -> bool:
        """Whether a record and its bytes are here; tells by their names."""
        return self._record_path(record).exists() and self.path_of(record.sha256, record.extension).exists()

    def announce(self, record: LabelRecord) -> None:
        """Note what is about to be entered into the database, so that a crash on the way can be mended."""
        self._write(self.pending_folder / f"{record.uid}.json", record)

    def settle(self, record: LabelRecord) -> None:
        """The record is in the database: keep it with its content."""
        target = self._record_path(record)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(self.pending_folder / f"{record.uid}.json", target)
        except FileNotFoundError:  # not announced, or settled by another process
            if not target.exists():
                self._write(target, record)

    def withdraw(self, record: LabelRecord) -> None:
        """The record did not come into the database, and its sender knows."""
        (self.pending_folder / f"{record.uid}.json").unlink(missing_ok=True)

    def pending(self) -> list[LabelRecord]:
        """Announced records that were not settled, oldest first."""
        return sorted(_records(self.pending_folder.glob("*.json")), key=lambda record: record.created_at)

    def announced(self, case_id: str, tag: str, sha256: str) -> LabelRecord | None:
        """The record of a label that was announced but not settled, by its case, tag and bytes."""
        wanted = (case_id, tag, sha256)
        return next(
            (r for r in self.pending() if r.is_label and (r.case_id, r.tag, r.sha256) == wanted), None
        )

    def records(self) -> list[LabelRecord]:
        """All settled records, oldest first; reads the whole store."""
        found = _records(self._folder.glob("[0-9a-z]*/*/*.json"))
        return sorted(found, key=lambda record: record.created_at)

    def _write(self, path: Path, record: LabelRecord) -> None:
        content = json.dumps(asdict(record), indent=1, default=str).encode()
        write_bytes_atomic(path, content, self.pending_folder)

    def _record_path(self, record: LabelRecord) -> Path:
        if record.source == TAKEN_AWAY:
            return self._folder / "removed" / record.uid[:2] / f"{record.uid}.json"
        return self._folder / record.sha256[:2] / record.sha256 / f"{record.uid}.json"


def _records(paths: Iterator[Path]) -> Iterator[LabelRecord]:
    for path in paths:
        record = LabelRecord.from_dict(read_json(path, None))
        if record is not None:
            yield record
