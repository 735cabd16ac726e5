"""registry: the versions of a project's model, which one is live, and how to go back."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from ugmcl.checkpoint import Checkpoint

from . import model_folders
from .catalogue import model_rows
from .catalogue.database import next_number
from .errors import Refusal
from .model_folders import MODEL_FILE, RECORD_FILE, StagedVersion
from .registry_check import check_versions, verify
from .workspace import Workspace, read_json

logger = logging.getLogger(__name__)

KEPT_VERSIONS = 10


class ModelRegistry:
    """Model versions: their files in `models/<version>/`, and in the catalogue which there are and which is
    live.

    A version's folder is complete before the catalogue names it. Whatever process publishes, the others
    answer with that version from then on. Thread-safe, in several processes too.

    Attributes:
        on_published: Called with the version after this process made it live, by training or by rollback.
        repairs: Sentences on what opening it had to mend.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._folder = workspace.models
        self._database = workspace.database
        self.on_published: list[Callable[[str], None]] = []
        self.repairs: list[str] = check_versions(workspace)

    # -- adding

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
        staged = self.stage(model, round_id, metrics, record)
        self.tidy(self._database.write(lambda session: self.enter(session, staged, live=False)))
        return staged.version

    def stage(
        self,
        model: Checkpoint | Path,
        round_id: str,
        metrics: dict[str, Any] | None,
        record: dict[str, Any],
    ) -> StagedVersion:
        """Put a candidate's files into place; `enter` makes it a version, `discard` takes it back."""
        number = self._database.write(lambda session: next_number(session, model_rows.COUNTER))
        return model_folders.stage(self._folder, model, number, round_id, metrics, record)

    def discard(self, staged: StagedVersion) -> None:
        """Delete the files of a candidate that did not become a version."""
        shutil.rmtree(self._folder / staged.version, ignore_errors=True)

    def enter(self, session: Session, staged: StagedVersion, live: bool) -> list[str]:
        """Make a staged candidate a version, and the live one if asked, in the caller's transaction.

        Returns:
            Versions that are one too many now; `tidy` deletes their files after the transaction.
        """
        model_rows.lock(session)
        model_rows.add(session, [staged._asdict()])
        if live:
            model_rows.publish(session, staged.version)
        return model_rows.prune(session, KEPT_VERSIONS)

    def is_entered(self, session: Session, version: str) -> bool:
        """Whether a version has come into the catalogue."""
        return model_rows.find(session, version) is not None

    def tidy(self, versions: list[str]) -> None:
        """Delete the files of versions that the catalogue does not name any more."""
        for version in versions:
            shutil.rmtree(self._folder / version, ignore_errors=True)

    # -- which one is live

    def publish(self, version: str, instead_of: str | None = None) -> None:
        """Make a version live, forward or backward.

        Args:
            version: A kept one.
            instead_of: The version that the one who decides has seen live; empty: none; None: whichever is.

        Raises:
            Refusal: 404 for an unknown version, naming the known ones; 409 if another than `instead_of` is
                live.
        """

        def change(session: Session) -> None:
            model_rows.lock(session)  # or another process could forget the version now
            self._require(session, version)
            if instead_of is not None and instead_of != (model_rows.live(session) or ""):
                raise Refusal(
                    409,
                    "Another model has gone live since you were asked. Look at the overview and choose "
                    "again.",
                )
            model_rows.publish(session, version)

        self._database.write(change)
        self.announce(version)

    def announce(self, version: str) -> None:
        """Tell this process that a version went live, which no listener can change any more."""
        for listener in list(self.on_published):
            try:
                listener(version)
            except Exception:
                logger.exception("A listener to publications failed.")

    def published(self) -> str | None:
        """The live version, or None before the first; asks the catalogue."""
        with self._database.read() as session:
            return model_rows.live(session)

    def hold_live(self, session: Session) -> str | None:
        """`published`, which nobody changes until the caller's transaction ends."""
        model_rows.lock(session)
        return model_rows.live(session)

    def give_up(self, version: str) -> bool:
        """Look at the files of a version that could not be loaded; if they are damaged, mark it, and let the
        newest sound one be live instead.

        Returns:
            Whether something was wrong with them.
        """
        with self._database.read() as session:
            found = model_rows.find(session, version)
        if found is None:
            return True
        if model_folders.why_unusable(self._folder, version, found.sha256) is None:
            return False
        self.repairs += verify(self._folder, self._database)
        return True

    # -- reading

    def path(self, version: str) -> Path:
        """The checkpoint file of a version; Refusal 404 names the known ones if it is unknown."""
        with self._database.read() as session:
            self._require(session, version)
        return Path(self._folder / version / MODEL_FILE)

    def record(self, version: str) -> dict[str, Any]:
        """The record of a version: configuration, data list with label hashes, metrics, precision, seed."""
        stored: dict[str, Any] = read_json(self.path(version).parent / RECORD_FILE, {})
        return stored

    def list(self) -> list[dict[str, Any]]:
        """All kept versions that can be used, oldest first, as `GET /models` shows them."""
        with self._database.read() as session:
            live = model_rows.live(session)
            return [
                {
                    "version": entry.version,
                    "published": entry.version == live,
                    "round": entry.round,
                    "metrics": entry.metrics,
                    "created_at": entry.created_at,
                }
                for entry in model_rows.usable(session)
            ]

    def _require(self, session: Session, version: str) -> None:
        if model_rows.find(session, version) is None:
            named = ", ".join(entry.version for entry in model_rows.usable(session)) or "none yet"
            raise Refusal(404, f"There is no model version '{version}'. Known versions: {named}.")
