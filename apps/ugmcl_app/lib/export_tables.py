"""export_tables: what an export says of its files: `dataset.json` or `datastore_v2.json`, `history.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from .catalogue import export_rows, stock_file
from .catalogue.database import Database
from .catalogue.export_rows import PlannedCase
from .catalogue.schema import Label
from .datastore import FolderDatastore
from .export_request import FOLDER, ExportRequest
from .scores import ScoreBoard
from .workspace import write_file_atomic, write_json_atomic

DATASET, HISTORY = "dataset.json", "history.csv"
BATCH = 200
"""Cases that are asked for at once."""
_COLUMNS = (
    "case_id", "tag", "exported", "state", "uid", "sha256", "source", "reader", "tool", "model_version",
    "comment", "created_at", "ended_at",
)  # fmt: skip


class CaseFiles(NamedTuple):
    """What was written of one case.

    Attributes:
        case: As it was planned.
        image: Relative to the export, or the path of the project's own file; empty: none.
        labels: Path in the export, by tag.
        uncertainty, uncertainty_version: Of the map, and the model that made it; empty: none.
    """

    case: PlannedCase
    image: str
    labels: dict[str, str]
    uncertainty: str
    uncertainty_version: str


class Tables:
    """Describes exports of one project."""

    def __init__(self, datastore: FolderDatastore, database: Database, scores: ScoreBoard) -> None:
        self._datastore, self._database, self._scores = datastore, database, scores

    def write(
        self,
        folder: Path,
        request: ExportRequest,
        written: Sequence[CaseFiles],
        left_out: dict[str, str],
        newest: int,
    ) -> None:
        """Write what describes an export.

        Args:
            folder: Of the export.
            request: What it was asked to hold.
            written: The cases it holds.
            left_out: Why others are not among them, by id.
            newest: The row of the newest label version when it began.
        """
        write_file_atomic(folder / HISTORY, lambda path: self._write_history(path, written, newest))
        if request.layout == FOLDER:
            write_json_atomic(folder / DATASET, self._dataset(written, left_out))
        else:
            write_json_atomic(folder / stock_file.NAME, self._stock(written))

    def _dataset(self, written: Sequence[CaseFiles], left_out: dict[str, str]) -> dict[str, Any]:
        """In the Decathlon's form, with more about each case; MONAI's `load_decathlon_datalist` reads it."""
        training: list[dict[str, Any]] = []
        test: list[dict[str, Any]] = []
        for batch in _batches(written):
            for entry, described in zip(batch, self._describe(batch), strict=True):
                (training if entry.case.final else test).append(described)
        values = {str(value): name for name, value in self._datastore.labels.items()}
        return {
            "name": self._datastore.name(),
            "description": self._datastore.description(),
            "created_at": _moment(datetime.now(UTC).timestamp()),
            "tensorImageSize": "3D",
            "labels": {"0": "background", **values},
            "numTraining": len(training),
            "numTest": len(test),
            "training": training,
            "test": test,
            "left_out": left_out,
        }

    def _describe(self, batch: Sequence[CaseFiles]) -> Iterator[dict[str, Any]]:
        ids = [entry.case.id for entry in batch]
        with self._database.read() as session:
            roles = export_rows.roles_of(session, ids)
            versions = export_rows.versions(session, [entry.case.final for entry in batch])
        scores, uids = self._scores.latest(ids), self._datastore.dicom_uids(ids)
        for entry in batch:
            found: dict[str, Any] = {"id": entry.case.id}
            paths = {"image": entry.image, "label": entry.labels.get("final", "")}
            paths |= {"original": entry.labels.get("original", ""), "uncertainty": entry.uncertainty}
            found |= {key: path for key, path in paths.items() if path}
            if entry.uncertainty:
                found["uncertainty_model_version"] = entry.uncertainty_version
            label = versions.get(entry.case.final)
            if label is not None:
                kept = ("uid", "sha256", "source", "reader", "tool", "model_version", "comment")
                found |= {key: getattr(label, key) for key in kept}
                found |= {"created_at": _moment(label.created_at), "role": roles.get(entry.case.id)}
                found["no_finding"] = label.info.get("no_finding") is True
            score = scores.get(entry.case.id)
            if score is not None:
                found |= {"score": score.score, "score_model_version": score.model_version}
            if entry.case.id in uids:
                found["study_instance_uid"], found["series_instance_uid"] = uids[entry.case.id]
            yield found

    def _stock(self, written: Sequence[CaseFiles]) -> dict[str, Any]:
        """What MONAI Label's `LocalDatastore` keeps of the same cases and labels."""
        objects: dict[str, Any] = {}
        for batch in _batches(written):
            uids = [uid for entry in batch for uid in (entry.case.final, entry.case.original) if uid]
            with self._database.read() as session:
                found = export_rows.cases_of(session, [entry.case.id for entry in batch])
                versions = export_rows.versions(session, uids)
            for entry in batch:
                labels = {
                    tag: {"ext": versions[uid].extension, "info": versions[uid].info}
                    for tag, uid in (("final", entry.case.final), ("original", entry.case.original))
                    if uid
                }
                image = {"ext": entry.case.file[len(entry.case.id) :], "info": found[entry.case.id].info}
                objects[entry.case.id] = {"image": image, "labels": labels}
        return {
            "name": self._datastore.name(),
            "description": self._datastore.description(),
            "images_dir": ".",
            "labels_dir": "labels",
            "objects": objects,
        }

    def _write_history(self, path: Path, written: Sequence[CaseFiles], newest: int) -> None:
        exported = {uid for entry in written for uid in (entry.case.final, entry.case.original) if uid}
        with path.open("w", encoding="utf-8", newline="") as file:
            table = _table(file)
            for batch in _batches(written):
                with self._database.read() as session:
                    found = export_rows.history(session, [entry.case.id for entry in batch], newest)
                table.writerows(_row(label, label.uid in exported) for label in found)


def _table(file: TextIO) -> Any:
    table = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    table.writeheader()
    return table


def _row(label: Label, exported: bool) -> dict[str, Any]:
    row = {key: getattr(label, key) for key in _COLUMNS if hasattr(label, key)}
    ended = "" if label.ended_at is None else _moment(label.ended_at)
    return {**row, "exported": exported, "created_at": _moment(label.created_at), "ended_at": ended}


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _batches(written: Sequence[CaseFiles]) -> Iterator[Sequence[CaseFiles]]:
    for start in range(0, len(written), BATCH):
        yield written[start : start + BATCH]
