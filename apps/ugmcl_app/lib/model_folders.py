"""model_folders: the files of the model versions: `models/<version>/` with a checkpoint and its record.

A folder is complete, flushed to disk and renamed to its place before the catalogue names it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from ugmcl.checkpoint import Checkpoint, save_checkpoint

from .round_record import finite, now_iso
from .workspace import read_json, sync_folder, write_json_atomic

MODEL_FILE, RECORD_FILE = "model.pt", "record.json"
_STAGING = ".adding-"
_ABANDONED_AGE_S = 600.0
_NAME = re.compile(r"v(\d{4,})-[0-9a-f]{6}")


class StagedVersion(NamedTuple):
    """A version whose files are in place, but which the catalogue does not know yet."""

    version: str
    number: int
    round: str
    sha256: str
    metrics: dict[str, Any] | None
    created_at: str


def stage(
    folder: Path,
    model: Checkpoint | Path,
    number: int,
    round_id: str,
    metrics: dict[str, Any] | None,
    record: dict[str, Any],
) -> StagedVersion:
    """Put a version's files into place.

    Args:
        folder: Of all versions.
        model: A checkpoint, or the path of a checkpoint file, which is copied.
        number: Of the version; no other may have it.
        round_id: The round that made it.
        metrics: As in the round's record, or None.
        record: What else is kept beside the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder))
    try:
        file = staging / MODEL_FILE
        if isinstance(model, Checkpoint):
            save_checkpoint(file, model)
        else:
            shutil.copyfile(model, file)
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        version = f"v{number:04d}-{digest[:6]}"
        staged = StagedVersion(version, number, round_id, digest, finite(metrics), now_iso())
        shown = {
            "version": version,
            "round": round_id,
            "metrics": staged.metrics,
            "created_at": staged.created_at,
        }
        write_json_atomic(staging / RECORD_FILE, finite({**record, **shown, "model_sha256": digest}))
        os.rename(staging, folder / version)
        sync_folder(folder)
        return staged
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def found(folder: Path) -> list[StagedVersion]:
    """The versions whose files are there and whose record is readable, oldest first."""
    versions = []
    for path in folder.glob("v*-*"):
        name = _NAME.fullmatch(path.name)
        record = read_json(path / RECORD_FILE, {})
        if name and (path / MODEL_FILE).is_file() and record.get("version") == path.name:
            digest = str(record.get("model_sha256", ""))
            made = str(record.get("created_at") or now_iso())
            round_id, metrics = str(record.get("round", "")), record.get("metrics")
            versions.append(StagedVersion(path.name, int(name[1]), round_id, digest, metrics, made))
    return sorted(versions, key=lambda version: version.number)


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of those versions, oldest first."""
    return [read_json(folder / version.version / RECORD_FILE, {}) for version in found(folder)]


def why_unusable(folder: Path, version: str, sha256: str) -> str | None:
    """Why a version's files cannot be used, as the end of a sentence; None when they are as they were made.

    Args:
        folder: Of all versions.
        version: The version.
        sha256: Of its model file; empty where that was never noted.
    """
    try:
        with (folder / version / MODEL_FILE).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return "its files are gone"
    except OSError as error:
        return f"its model file cannot be read ({error.strerror})"
    return "its model file is damaged" if sha256 and digest != sha256 else None


def remove_abandoned(folder: Path) -> None:
    """Delete folders that a killed process was still filling."""
    for path in folder.glob(f"{_STAGING}*"):
        if time.time() - path.stat().st_mtime > _ABANDONED_AGE_S:
            shutil.rmtree(path, ignore_errors=True)
