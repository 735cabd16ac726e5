"""absent_labels: what is known of labels whose files are not there or not usable, should they come back."""

from __future__ import annotations

from pathlib import Path

from monailabel.datastore.local import DataModel

from .workspace import read_json, write_json_atomic


class AbsentLabels:
    """Records of labels by tag and image, kept in one file of the workspace. Callers hold a lock.

    A file can be gone for a moment: a network mount that comes and goes, a program that deletes before it
    writes. The file alone does not tell who labeled it, or that "nothing found" was meant.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._records: dict[str, dict[str, DataModel]] = {}
        self._dirty = False
        stored = read_json(file, {})
        try:
            for tag, records in stored.items():
                self._records[tag] = {i: DataModel.model_validate(record) for i, record in records.items()}
        except (AttributeError, ValueError):
            self._records = {}  # damaged, or of another version: the labels themselves are unharmed

    def of(self, tag: str) -> dict[str, DataModel]:
        """The records of one tag, by image id; also of labels that have come back since."""
        return dict(self._records.get(tag, {}))

    def keep(self, tag: str, image_id: str, record: DataModel) -> None:
        """Remember the record of a label that has gone."""
        self._records.setdefault(tag, {})[image_id] = record
        self._dirty = True

    def forget(self, tag: str, image_id: str) -> None:
        """A label was submitted or removed on purpose: what was known of a former one is void."""
        if self._records.get(tag, {}).pop(image_id, None) is not None:
            self._dirty = True

    def save(self) -> None:
        """Write what is not on disk yet."""
        if self._dirty:
            stored = {
                tag: {image_id: record.model_dump() for image_id, record in records.items()}
                for tag, records in self._records.items()
            }
            write_json_atomic(self._file, stored)
            self._dirty = False
