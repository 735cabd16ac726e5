"""registry: the versions of a project's model, which one is live, and how to go back."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ugmcl.checkpoint import Checkpoint, save_checkpoint

from .errors import Refusal
from .round_record import finite, now_iso
from .workspace import Workspace, read_json, write_json_atomic

logger = logging.getLogger(__name__)

KEPT_VERSIONS = 10
MODEL_FILE, RECORD_FILE = "model.pt", "record.json"


class ModelRegistry:
    """Model versions in `models/<version>/` (`model.pt`, `record.json`) and the list of them in
    `models.json`.

    A version's folder is complete before `models.json` names it, and `models.json` is replaced as a whole, so
    a reader sees either the old state or the new one. Thread-safe; one process writes.

    Attributes:
        on_published: Called with the version after it went live, by training or by rollback.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._folder = workspace.models
        self._file = workspace.models_file
        self._lock = threading.RLock()
        self.on_published: list[Callable[[str], None]] = []
        stored = read_json(self._file, {})
        self._published: str | None = stored.get("published")
        self._count: int = int(stored.get("count", 0))
        self._entries: list[dict[str, Any]] = [
            entry
            for entry in stored.get("versions", [])
            if (self._folder / entry["version"] / MODEL_FILE).is_file()
        ]
        if not stored:
            self._recover()
        if self._published not in {entry["version"] for entry in self._entries}:
            self._published = None

    def add(
        self,
        model: Checkpoint | Path,
        round_id: str,
        metrics: dict[str, Any] | None,
        record: dict[str, Any],
    ) -> str:
        """Keep a candidate as a new version, not published.

        Args:
            model: A checkpoint, or the path of a checkpoint file, which is copied.
            round_id: The round that made it.
            metrics: As in the round's record, or None.
            record: Configuration, data list with label hashes, precision, seeds; stored beside the model.

        Returns:
            The version, one opaque string.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".adding-", dir=self._folder))
        try:
            file = staging / MODEL_FILE
            if isinstance(model, Checkpoint):
                save_checkpoint(file, model)
            else:
                shutil.copyfile(model, file)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            with self._lock:
                version = f"v{self._count + 1:04d}-{digest[:6]}"
                entry = {
                    "version": version,
                    "round": round_id,
                    "metrics": finite(metrics),
                    "created_at": now_iso(),
                }
                write_json_atomic(staging / RECORD_FILE, finite({**record, **entry, "model_sha256": digest}))
                os.rename(staging, self._folder / version)
                self._count += 1
                self._entries.append(entry)
                self._prune()
                self._store()
            return version
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def publish(self, version: str) -> None:
        """Make a version live, forward or backward; Refusal 404 names the known ones if it is unknown."""
        with self._lock:
            self.path(version)
            self._published = version
            self._store()
        for listener in list(self.on_published):
            listener(version)

    def published(self) -> str | None:
        """The live version, or None before the first."""
        return self._published

    def path(self, version: str) -> Path:
        """The checkpoint file of a version; raises Refusal 404 naming the known ones if it is unknown."""
        with self._lock:
            known = [entry["version"] for entry in self._entries]
        if version not in known:
            named = ", ".join(known) if known else "none yet"
            raise Refusal(404, f"There is no model version '{version}'. Known versions: {named}.")
        return Path(self._folder / version / MODEL_FILE)

    def record(self, version: str) -> dict[str, Any]:
        """The record of a version: configuration, data list with label hashes, metrics, precision, seed."""
        stored: dict[str, Any] = read_json(self.path(version).parent / RECORD_FILE, {})
        return stored

    def list(self) -> list[dict[str, Any]]:
        """All kept versions, oldest first, as `GET /models` shows them."""
        with self._lock:
            return [
                {
                    "version": entry["version"],
                    "published": entry["version"] == self._published,
                    "round": entry["round"],
                    "metrics": entry["metrics"],
                    "created_at": entry["created_at"],
                }
                for entry in self._entries
            ]

    def _prune(self) -> None:
        surplus = len(self._entries) - KEPT_VERSIONS
        dropped = [entry for entry in self._entries[: max(surplus, 0)] if entry["version"] != self._published]
        for entry in dropped:
            self._entries.remove(entry)
            shutil.rmtree(self._folder / entry["version"], ignore_errors=True)

    def _store(self) -> None:
        state = {"published": self._published, "count": self._count, "versions": self._entries}
        write_json_atomic(self._file, state)

    def _recover(self) -> None:
        """Rebuild the list from the versions' own records when `models.json` is missing or unreadable."""
        for folder in sorted(self._folder.glob("v*-*")):
            record = read_json(folder / RECORD_FILE, {})
            if (folder / MODEL_FILE).is_file() and record.get("version") == folder.name:
                keys = ("version", "round", "metrics", "created_at")
                self._entries.append({key: record.get(key) for key in keys})
                self._count = max(self._count, int(folder.name[1:].split("-")[0]))
        if self._entries:
            self._published = self._entries[-1]["version"]
            logger.warning(
                "The list of model versions was rebuilt from the model folder; the newest is live."
            )
            self._store()
