"""registry_check: what a start mends of the model versions: the list and the files are brought together."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from . import model_folders
from .catalogue import facts, model_rows, round_rows
from .catalogue.adoption import retire
from .catalogue.database import Database, next_number, raise_number
from .model_folders import MODEL_FILE, StagedVersion
from .pool import Signature
from .round_record import DONE, RUNNING, Round
from .workspace import Workspace, read_json

logger = logging.getLogger(__name__)

_VERIFIED = "verified_models"
"""Fact: size and time of each model file when its hash was last right; only changed files are hashed."""


def check_versions(workspace: Workspace) -> list[str]:
    """Take over what an earlier version of this program or a crash has left; several processes may at once.

    * `models.json` of an earlier version is taken over.
    * Where the catalogue knows no version, the folders tell which there are; the newest is live.
    * A folder that the catalogue does not name is of a publication that was cut off. Its round runs again, so
      the folder goes; one whose round is not known becomes a version that is not live.
    * A version whose files are gone or damaged is not offered any more; if it was live, the newest
      other one is.

    Returns:
        Sentences on what was mended.
    """
    folder, database = workspace.models, workspace.database
    model_folders.remove_abandoned(folder)
    stored = read_json(workspace.models_file, {})
    there = model_folders.found(folder)

    def enter(session: Session) -> tuple[list[str], list[str]]:
        next_number(session, "adoption")  # one process at a time
        if not model_rows.every(session):
            return _fill(session, there, stored, folder), []
        return _stray(session, there)

    said, surplus = database.write(enter)
    for version in surplus:
        shutil.rmtree(folder / version, ignore_errors=True)
    retire(workspace, workspace.models_file)
    return said + verify(folder, database)


def verify(folder: Path, database: Database) -> list[str]:
    """Compare every version's file with its hash, as far as it changed since that was last done; see to it
    that a sound one is live."""
    with database.read() as session:
        rows = model_rows.every(session)
        verified = facts.get(session, _VERIFIED)
    seen = {row.version: list(Signature.of(folder / row.version / MODEL_FILE) or ()) for row in rows}
    faults: dict[str, str | None] = {}
    for row in rows:
        if not seen[row.version] or verified.get(row.version) != seen[row.version]:
            faults[row.version] = model_folders.why_unusable(folder, row.version, row.sha256)
    news = {
        row.version: faults[row.version]
        for row in rows
        if faults.get(row.version, row.unusable) != row.unusable
    }
    sound = {version: found for version, found in seen.items() if found and not faults.get(version)}
    if not news and sound == verified:
        return []

    def note(session: Session) -> list[str]:
        facts.put(session, _VERIFIED, sound)
        return _judge(session, news)

    said = database.write(note)
    if said:
        logger.warning("The start mended the model versions; GET /info/ says how.")
    return said


def clear_unfinished(folder: Path, database: Database, round_id: str) -> list[str]:
    """Delete what a round that was cut off in its publication has left; it runs again."""
    there = [version for version in model_folders.found(folder) if version.round == round_id]
    with database.read() as session:
        known = {row.version for row in model_rows.every(session)}
    surplus = [version.version for version in there if version.version not in known]
    for version in surplus:
        shutil.rmtree(folder / version, ignore_errors=True)
    return [_cut_off(version, round_id) for version in surplus]


def _fill(session: Session, there: list[StagedVersion], stored: dict[str, Any], folder: Path) -> list[str]:
    """The versions of `models.json`, else of the folders."""
    listed = {entry["version"]: entry for entry in stored.get("versions", [])}
    taken = [version for version in there if version.version in listed] if listed else there
    raise_number(session, model_rows.COUNTER, max([int(stored.get("count", 0)), *(v.number for v in there)]))
    if not taken:
        return []
    model_rows.add(session, [version._asdict() for version in taken])
    live = stored.get("published") if listed else taken[-1].version
    if live in {version.version for version in taken}:
        model_rows.publish(session, live)
    if listed:
        return []
    if round_rows.count(session) == 0:
        for record in model_folders.records(folder):
            entry = Round.of_model(record)
            if entry.number is not None:
                round_rows.add(session, entry.number, entry.to_dict())
    return [
        "The list of model versions was read again from the model folder: "
        f"{len(taken)} versions, of which the newest, {taken[-1].version}, is live."
    ]


def _stray(session: Session, there: list[StagedVersion]) -> tuple[list[str], list[str]]:
    """Folders without an entry: sentences, and the versions whose folders are to go."""
    rows = model_rows.every(session)
    known = {row.version for row in rows}
    said, surplus = [], []
    for version in there:
        if version.version in known:
            continue
        status = round_rows.status(session, version.round)
        if status == RUNNING:
            continue  # it is being published now, or its round is found to be abandoned later
        if status == DONE or version.number < rows[0].number:
            surplus.append(version.version)  # forgotten, but a crash kept its files
        elif status is None:
            raise_number(session, model_rows.COUNTER, version.number)
            model_rows.add(session, [version._asdict()])
            said.append(f"The model version {version.version} was found in the model folder and is kept.")
        else:
            surplus.append(version.version)
            said.append(_cut_off(version.version, version.round))
    return said, surplus


def _judge(session: Session, news: dict[str, str | None]) -> list[str]:
    next_number(session, "adoption")
    before = model_rows.live(session)
    said = []
    for version, why in news.items():
        model_rows.judge(session, version, why)
        said.append(
            f"The model version {version} can be used again."
            if why is None
            else f"The model version {version} cannot be used: {why}."
        )
    if before in news:
        others = model_rows.usable(session)
        if others:
            model_rows.publish(session, others[-1].version)
            said.append(f"It was live; the newest sound one, {others[-1].version}, is now.")
        else:
            said.append("It was live, and there is no other; the next round makes one.")
    return said


def _cut_off(version: str, round_id: str) -> str:
    return (
        f"The publication of {version} was cut off; its files were removed, and round {round_id} runs again."
    )
