"""export_writer: fills the folder of one export, file by file, and goes on where it was cut off.

Which cases and which versions of their labels it holds is decided once, in `PLAN`, when the first attempt
begins. Labels come from the store of all versions, so that what readers save meanwhile changes nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .catalogue import export_rows
from .catalogue.export_rows import PlannedCase
from .catalogue.label_store import LabelStore
from .catalogue.schema import Label
from .datastore import FolderDatastore
from .errors import Refusal
from .export_request import COPY, FOLDER, REFERENCE, ExportRequest
from .export_tables import BATCH, CaseFiles, Tables
from .maps import MapStore
from .scores import ScoreBoard
from .workspace import Workspace, read_json, write_bytes_atomic, write_file_atomic, write_json_atomic

PLAN = "plan.json"
RESERVE_BYTES = 256 * 2**20
"""What an export leaves free on the disk: labels are saved there."""
_FOLDERS = {"final": "labels", "original": "originals"}
_AWAY = 503


class Interrupted(Exception):
    """The export is to end here; what was written so far is sound."""


class CannotExport(Exception):
    """Nothing can be exported now; the text is a sentence for who asked."""


class ExportWriter:
    """Writes exports of one project; holds no state of its own."""

    def __init__(
        self, datastore: FolderDatastore, workspace: Workspace, maps: MapStore, scores: ScoreBoard
    ) -> None:
        self._datastore, self._maps = datastore, maps
        self._database, self._store = workspace.database, LabelStore(workspace.labels)
        self._tables = Tables(datastore, workspace.database, scores)

    def write(
        self,
        folder: Path,
        request: ExportRequest,
        tell: Callable[[int, int], None],
        ended: Callable[[], bool],
    ) -> dict[str, str]:
        """Bring a folder to its end.

        Args:
            folder: Of this export alone; may hold what an earlier attempt has written.
            request: What it is to hold.
            tell: Takes how many cases are done, and of how many.
            ended: Whether to stop.

        Returns:
            Why cases were left out, by id.

        Raises:
            Interrupted: `ended` said so.
            CannotExport: The disk is full, the PACS away, or no case is left.
            OSError: Writing failed.
        """
        plan, newest = self._plan(folder, request)
        left_out: dict[str, str] = {}
        written: list[CaseFiles] = []
        for start in range(0, len(plan), BATCH):
            batch = plan[start : start + BATCH]
            with self._database.read() as session:
                uids = [uid for case in batch for uid in (case.final, case.original) if uid]
                versions = export_rows.versions(session, uids)
            for case in batch:
                if ended():
                    raise Interrupted
                try:
                    written.append(self._write_case(folder, request, case, versions))
                except _LeftOut as reason:
                    left_out[case.id] = str(reason)
                tell(len(written) + len(left_out), len(plan))
        if not written:
            raise CannotExport(f"None of the {len(plan)} cases could be exported. {_first(left_out)}")
        self._tables.write(folder, request, written, left_out, newest)
        (folder / PLAN).unlink()  # fails where another process has taken the folder over meanwhile
        return left_out

    def _plan(self, folder: Path, request: ExportRequest) -> tuple[list[PlannedCase], int]:
        known = read_json(folder / PLAN, None)
        if known is None:
            # Files without their plan were cut off just before their end; other versions may be planned now.
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            with self._database.read() as session:
                cases = export_rows.planned(session, request.cases, request.unlabeled, request.originals)
                known = {"cases": cases, "newest_label": export_rows.newest_label(session)}
            write_json_atomic(folder / PLAN, known)
        return [PlannedCase(*case) for case in known["cases"]], int(known["newest_label"])

    def _write_case(
        self, folder: Path, request: ExportRequest, case: PlannedCase, versions: dict[str, Label]
    ) -> CaseFiles:
        """All files of one case, or none."""
        in_folder = request.layout == FOLDER
        labels: dict[str, str] = {}
        image = ""
        try:
            for tag, uid in (("final", case.final), ("original", case.original)):
                if uid:
                    place = _FOLDERS[tag] if in_folder else f"labels/{tag}"
                    labels[tag] = f"{place}/{case.id}{versions[uid].extension}"
                    self._write_label(versions[uid], folder / labels[tag])
            if request.images == COPY:
                image = f"images/{case.file}" if in_folder else case.file
                self._copy_image(case.id, folder / image)
            elif request.images == REFERENCE:
                image = self._datastore.get_image_uri(case.id)
        except _LeftOut:
            for name in labels.values():
                (folder / name).unlink(missing_ok=True)
            raise
        uncertainty, made_by = self._copy_map(case.id, folder) if request.maps else ("", "")
        return CaseFiles(case, image, labels, uncertainty, made_by)

    def _copy_image(self, case_id: str, target: Path) -> None:
        if target.exists():
            return
        try:
            source = self._datastore.image_file(case_id)
            stream = source.open("rb")
        except Refusal as refusal:
            if refusal.status_code == _AWAY:
                raise CannotExport(str(refusal.detail)) from None
            raise _LeftOut(str(refusal.detail)) from None
        except OSError as error:
            raise _LeftOut(f"Its image cannot be opened ({error.strerror}).") from None
        with stream:
            _copy(stream, target)

    def _write_label(self, version: Label, target: Path) -> None:
        if target.exists():
            return
        content = self._store.read(version.sha256, version.extension)
        if content is None:  # it came by the folder, and is not archived yet
            try:
                content = Path(self._datastore.get_label_uri(version.case_id, version.tag)).read_bytes()
            except (OSError, Refusal):
                content = b""
            if self._store.digest(content) != version.sha256:
                raise _LeftOut(f"Its label ({version.tag}) was replaced before its bytes were kept.")
        _require_room(target, len(content))
        write_bytes_atomic(target, content)

    def _copy_map(self, case_id: str, folder: Path) -> tuple[str, str]:
        """The kept map of a case, and the model version that made it; empty where there is none."""
        found = self._maps.find(case_id, Path(self._datastore.get_image_uri(case_id)))
        if found is None:
            return "", ""
        name = f"uncertainty/{case_id}.nii.gz"
        try:
            stream = found.path.open("rb")
        except FileNotFoundError:  # replaced just now
            return "", ""
        with stream:  # always anew: an earlier attempt may have copied that of another model
            _copy(stream, folder / name)
        return name, found.model_version


class _LeftOut(Exception):
    """Why a case cannot be exported."""


def _copy(stream: BinaryIO, target: Path) -> None:
    _require_room(target, stream.seek(0, 2))
    stream.seek(0)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)

    write_file_atomic(target, write)


def _require_room(target: Path, size: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < size + RESERVE_BYTES:
        raise CannotExport(
            f"The disk of the workspace has {free / 2**20:.0f} MiB left, of which an export leaves "
            f"{RESERVE_BYTES / 2**20:.0f} MiB to labels and models; make room, then ask again."
        )


def _first(left_out: dict[str, str]) -> str:
    return next((f"Of the first one: {reason}" for reason in left_out.values()), "")
