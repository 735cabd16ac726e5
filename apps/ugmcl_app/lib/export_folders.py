"""export_folders: where exports lie: complete ones under their id, others hidden.

A hidden folder carries the number of its attempt. Who takes an export over renames it, so that a former
owner that is only slow writes elsewhere.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from .workspace import sync_folder

_HIDDEN = re.compile(r"\.(?P<id>[0-9a-f-]+)\.(?P<attempt>\d+)")


class ExportFolders:
    """The folders of all exports of one project. Several processes may use them at the same time."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def of(self, export_id: str) -> Path:
        """The folder of a complete export; there only if it is complete and was not removed."""
        return self._root / export_id

    def claim(self, export_id: str, attempt: int) -> Path:
        """The hidden folder of an attempt, with what earlier ones have written."""
        growing = self._root / f".{export_id}.{attempt}"
        earlier = [path for path in self._hidden() if path.name.startswith(f".{export_id}.")]
        earlier.sort(key=lambda path: int(path.name.rpartition(".")[2]))
        if earlier:
            earlier[-1].rename(growing)
        growing.mkdir(parents=True, exist_ok=True)
        return growing

    def complete(self, growing: Path, export_id: str) -> None:
        """Give what the attempts have written the name of its export, less what a killed one was writing."""
        for stray in growing.rglob(".*.tmp"):  # as `workspace.write_file_atomic` names them
            stray.unlink(missing_ok=True)
        growing.rename(self.of(export_id))
        sync_folder(self._root)

    def drop(self, export_id: str) -> None:
        """Remove a complete export, in one step as others see it; what is cut off is swept later."""
        hidden = self._root / f".{export_id}.0"
        try:
            self.of(export_id).rename(hidden)
        except FileNotFoundError:
            return
        shutil.rmtree(hidden, ignore_errors=True)

    def sweep(self, going_on: Callable[[], Collection[str]]) -> None:
        """Remove what cancelled, failed and removed exports have left.

        Args:
            going_on: Tells the ids of the others; asked after the look at the folder, as one may begin.
        """
        found = self._hidden()
        kept = going_on() if found else ()
        for path in found:
            name = _HIDDEN.fullmatch(path.name)
            if name is not None and name["id"] not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _hidden(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        return [path for path in self._root.iterdir() if _HIDDEN.fullmatch(path.name)]
