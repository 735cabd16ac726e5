"""workspace: where the state of one project lives, and how a file is replaced without ever being half
there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from .catalogue.database import Database


def is_web_address(studies: Path | str) -> bool:
    """Whether studies are a PACS's address rather than a folder."""
    return str(studies).startswith(("http://", "https://"))


def write_file_atomic(path: Path, write: Callable[[Path], None], by_way_of: Path | None = None) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it over `path`.

    A process killed at any moment leaves the old file or the new one, and at most a stray `.tmp`.

    Args:
        path: The file.
        write: Gets the temporary one.
        by_way_of: The folder of the temporary file, on the same file system; None: that of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if by_way_of is not None:
        by_way_of.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=by_way_of or path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes files private; the project's own files follow the user's umask like any other.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a renamed file outlives a power cut under its new name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems cannot; they flush by themselves
    finally:
        os.close(handle)


def write_bytes_atomic(path: Path, content: bytes, by_way_of: Path | None = None) -> None:
    """Replace `path` by `content` in one step; see `write_file_atomic`."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_file_atomic(path, write, by_way_of)


def write_json_atomic(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_bytes_atomic(path, json.dumps(value, indent=1, default=str).encode())


def read_json(path: Path, default: Any) -> Any:
    """The JSON of `path`; `default` where the file is missing or no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return default


def file_name_of(image_id: str) -> str:
    """An image id as the stem of one file name: URL-quoted, so that different ids never share a file."""
    quoted = quote(image_id, safe="")
    if len(quoted) <= 200:
        return quoted
    # Quoting can triple a name's length; file systems end at 255 bytes.
    return f"{quoted[:120]}-{hashlib.sha256(image_id.encode()).hexdigest()}"


def _umask() -> int:
    # os.umask can only be read by setting it, which another thread might see: Linux tells it here instead.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022


class Workspace:
    """The folder of one project's models, rounds, split, scores and maps, and its catalogue.

    Attributes:
        root: The folder.
        database_url: Where the catalogue is; empty: in `catalogue_file`.
    """

    def __init__(self, root: Path | str, database_url: str = "") -> None:
        self.root = Path(root).expanduser().resolve()
        self.database_url = database_url
        self._database: Database | None = None
        self._database_lock = threading.Lock()
        self.catalogue_file = self.root / "catalogue.db"
        """The catalogue, unless `database_url` names another place."""
        self.labels = self.root / "labels"
        """Every version of every label, by content, with its record."""
        self.quarantine = self.root / "quarantine"
        """Damaged files that a start replaced by a sound copy."""
        self.models = self.root / "models"
        """One folder a model version."""
        self.pacs = self.root / "pacs"
        """Series of a PACS, the labels drawn on them, and what waits to be sent to it."""
        self.maps = self.root / "maps"
        """One uncertainty map a case."""
        self.drafts = self.root / "drafts"
        """What a model last said of each case, for looking at."""
        self.exports = self.root / "exports"
        """What was exported, a folder each; those that are not complete yet are hidden."""
        self.training = self.root / "training"
        """Resumable states of rounds."""
        self.models_file = self.root / "models.json"
        self.rounds_file = self.root / "rounds.json"
        self.split_file = self.root / "split.json"
        self.scores_file = self.root / "scores.json"
        self.checks_file = self.root / "checks.json"
        """What reading each file of the pool found, so that a start need not read it again."""
        self.absent_labels_file = self.root / "absent_labels.json"
        """What is known of labels whose files have gone, for when they come back."""
        self.project_file = self.root / "project.json"
        for folder in (self.models, self.maps, self.training):
            folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of(cls, studies: Path | str, conf_workspace: str = "", database_url: str = "") -> Workspace:
        """The workspace of a studies folder: `conf_workspace`, or `.ugmcl` inside the folder.

        Raises:
            ValueError: For a PACS without `conf_workspace`.
        """
        if not conf_workspace and is_web_address(studies):
            raise ValueError(
                f"The studies are a PACS, {studies}, so the models and labels need a folder on this machine: "
                "give one with --workspace DIR, or --conf workspace DIR."
            )
        root = Path(conf_workspace) if conf_workspace else Path(studies) / ".ugmcl"
        return cls(root, database_url)

    @property
    def database(self) -> Database:
        """The catalogue, opened and brought to the present schema when it is first asked for."""
        with self._database_lock:
            if self._database is None:
                # Imported here: a round's worker process uses folders, not the catalogue.
                from .catalogue.database import Database

                in_file = f"sqlite:///{self.catalogue_file}"
                self._database = Database(self.database_url or in_file)
            return self._database

    def bind(self, studies: Path | str, labels: Sequence[str], in_use: bool) -> None:
        """Tie the workspace to one project: its class names and, outside its studies, its folder.

        Args:
            studies: The folder of scans, or the address of a PACS.
            labels: Class names; value i + 1 is `labels[i]`.
            in_use: Whether models exist already; before the first, the project may still change.

        Raises:
            ValueError: If models here belong to another project.
        """
        if is_web_address(studies):
            folder, inside = str(studies).rstrip("/"), False
        else:
            folder = str(Path(studies).expanduser().resolve())
            inside = self.root.is_relative_to(folder)
        project = {"labels": list(labels), "studies": None if inside else folder}
        known = read_json(self.project_file, None)
        if in_use and isinstance(known, dict):
            if known.get("labels") != project["labels"]:
                raise ValueError(
                    f"The models in {self.root} were trained for the classes "
                    f"{', '.join(known.get('labels', []))}; now {', '.join(labels)} was given. Start with "
                    "the same labels, or with another workspace."
                )
            if known.get("studies") != project["studies"]:
                owner = known.get("studies") or "that it lies in"
                raise ValueError(
                    f"The workspace {self.root} belongs to the studies folder {owner}, not to {folder}. Give "
                    "each project its own workspace."
                )
        if known != project:
            write_json_atomic(self.project_file, project)
