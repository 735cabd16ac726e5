"""stock_file: MONAI Label's `datastore_v2.json`: read into the catalogue, and written from it on request.

The catalogue does not need the file. One that is there and was not read yet, from the stock server or an
earlier version of this program, is taken over at the next start.
"""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from monailabel.datastore.local import ImageLabelModel, LocalDatastoreModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from ..checks import TAGS, safe_id
from ..errors import Refusal
from ..pool import Signature
from ..volumes import EXTENSIONS
from . import cases, facts, labels
from .label_store import IMPORTED, LabelRecord
from .leases import reader_name
from .schema import ABSENT, ACTIVE, GONE, PRESENT, Case, Label

logger = logging.getLogger(__name__)

NAME = "datastore_v2.json"
_BATCH = 500


def read(path: Path) -> tuple[LocalDatastoreModel | None, list[str]]:
    """The content of a stock file, and sentences on what was wrong with it; a damaged one is renamed."""
    try:
        content = LocalDatastoreModel.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None, []
    except ValueError:
        kept = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}")
        path.replace(kept)
        sentence = f"{path.name} is damaged. It was kept as {kept.name}; nothing was taken from it."
        logger.error(sentence)
        return None, [sentence]
    # Whoever can write the file must not be able to point the server at other folders with it.
    content.objects = {i: found for i, found in content.objects.items() if _is_plain(i, found)}
    return content, []


def is_new(session: Session, path: Path) -> bool:
    """Whether there is a file that was neither read nor written by us as it is now."""
    signature = Signature.of(path)
    return signature is not None and facts.get(session, NAME) != signature._asdict()


def note(session: Session, path: Path) -> None:
    """The file as it is now holds nothing that the catalogue does not know."""
    signature = Signature.of(path)
    if signature is not None:
        facts.put(session, NAME, signature._asdict())


def take_over(session: Session, content: LocalDatastoreModel) -> None:
    """Enter what a stock file knows and the catalogue does not; files are looked for afterwards.

    A label counts as absent until the look at the folder finds its file.
    """
    if not facts.get(session, "project"):
        facts.put(session, "project", {"name": content.name, "description": content.description})
    wanted = sorted(content.objects)
    for start in range(0, len(wanted), _BATCH):
        batch = {i: content.objects[i] for i in wanted[start : start + _BATCH]}
        known = cases.lock(session, list(batch))
        new = {i: i + found.image.ext for i, found in batch.items() if i not in known}
        cases.add(session, new, GONE)
        session.flush()
        current = labels.current_of(session, batch)
        for case_id, row in cases.lock(session, list(batch)).items():
            row.info = {**batch[case_id].image.info, **({} if case_id in new else row.info)}
            for tag, label in batch[case_id].labels.items():
                record = record_of(case_id, tag, label.ext, label.info)
                if _is_news(record, current.get((case_id, tag))):
                    labels.enter(session, record, ABSENT)


def record_of(case_id: str, tag: str, extension: str, info: dict[str, Any]) -> LabelRecord:
    """The record of a label of which only MONAI Label's info is known."""
    given = provenance(info)
    created = float(info["ts"]) if isinstance(info.get("ts"), int | float) else 0.0
    digest = str(info.get("sha256") or "")
    return LabelRecord(
        case_id, tag, IMPORTED, created, sha256=digest, extension=extension, info=dict(info), **given
    )


def provenance(info: dict[str, Any]) -> dict[str, Any]:
    """Who gave a label, with what, starting from which model, as far as a client's params tell."""
    params = info.get("params") if isinstance(info.get("params"), dict) else {}
    assert isinstance(params, dict)

    def first(*keys: str) -> str:
        values = (source.get(key) for source in (info, params) for key in keys)
        return next((value for value in values if isinstance(value, str) and value), "")

    return {
        "reader": reader_name(first("client_id", "annotator")),
        "tool": first("tool", "model"),
        "model_version": first("model_version"),
        "comment": first("comment"),
    }


def content_of(session: Session) -> dict[str, Any]:
    """The catalogue as the stock file has it; reads every case."""
    project = facts.get(session, "project")
    objects: dict[str, Any] = {}
    rows = select(Case.id, Case.file, Case.info).where(Case.state == PRESENT).order_by(Case.id)
    for case_id, file, info in session.execute(rows):
        objects[case_id] = {"image": {"ext": file[len(case_id) :], "info": info}, "labels": {}}
    found = select(Label.case_id, Label.tag, Label.extension, Label.info).where(Label.state == ACTIVE)
    for case_id, tag, extension, info in session.execute(found.order_by(Label.case_id, Label.tag)):
        if case_id in objects:
            objects[case_id]["labels"][tag] = {"ext": extension, "info": info}
    return {
        "name": project.get("name", "new-dataset"),
        "description": project.get("description", "New Dataset"),
        "images_dir": ".",
        "labels_dir": "labels",
        "objects": objects,
    }


def _is_news(record: LabelRecord, known: Label | None) -> bool:
    if known is None:
        return True
    return known.sha256 != record.sha256 and record.created_at > float(known.info.get("ts") or 0)


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
