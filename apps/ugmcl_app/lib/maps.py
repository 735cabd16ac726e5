"""maps: the one uncertainty map kept of each case, with the model version that made it."""

from __future__ import annotations

import hashlib
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from .catalogue.adoption import RETIRED
from .catalogue.database import insert_new, next_number, upsert
from .catalogue.schema import UncertaintyMap
from .errors import UnusableImage
from .pool import Signature
from .volumes import read_voxels, write_map
from .workspace import Workspace, file_name_of, read_json

_EXTENSION, _CONVERTED = ".nii.gz", ".nrrd"
_ABANDONED_AGE_S = 600.0


class StoredMap(NamedTuple):
    """A kept map.

    Attributes:
        path: `.nii.gz`, float32 in [0, 1] on the image's grid.
        model_version: The model that made it.
        mc_samples: Its Monte Carlo passes.
        summary: `UncertaintySummary.to_dict()` of it.
    """

    path: Path
    model_version: str
    mc_samples: int
    summary: dict[str, Any]


class MapStore:
    """One map a case under `<workspace>/maps/`, in a file of its own; the catalogue says which one is the
    case's. Thread-safe, in several processes too."""

    def __init__(self, workspace: Workspace) -> None:
        self._folder = workspace.maps
        self._database = workspace.database
        self._adopt(workspace)
        self._remove_stray()

    def find(self, image_id: str, image: Path) -> StoredMap | None:
        """The map of a case, if it was made of the image file as it is now."""
        with self._database.read() as session:
            stored = session.get(UncertaintyMap, image_id)
        if stored is None or stored.scan != _scan(image):
            return None
        path = self._folder / stored.file
        return (
            StoredMap(path, stored.model_version, stored.mc_samples, stored.summary)
            if path.exists()
            else None
        )

    def keep(
        self,
        image_id: str,
        image: Path,
        values: NDArray[np.float32],
        affine: NDArray[np.float64],
        model_version: str,
        summary: dict[str, Any],
        seed: int = 0,
    ) -> StoredMap:
        """Make a map the one of its case.

        Args:
            image_id: The case.
            image: Its file.
            values: `(X, Y, Z)` float32 in [0, 1].
            affine: Of the image, voxel index to RAS mm.
            model_version: The model that made it.
            summary: `UncertaintySummary.to_dict()` of it.
            seed: Of its dropout masks.
        """
        path = self._new_file(image_id)
        write_map(path, values, affine)
        return self._enter(image_id, image, path, model_version, summary, seed)

    def take(
        self,
        image_id: str,
        image: Path,
        file: Path,
        model_version: str,
        summary: dict[str, Any],
        seed: int = 0,
    ) -> StoredMap:
        """As `keep`, of a `.nii.gz` that `write_map` wrote on the same file system; it is moved."""
        path = self._new_file(image_id)
        file.replace(path)
        return self._enter(image_id, image, path, model_version, summary, seed)

    def _new_file(self, image_id: str) -> Path:
        return self._folder / f"{file_name_of(image_id)}.{uuid.uuid4().hex[:12]}{_EXTENSION}"

    def _enter(
        self, image_id: str, image: Path, path: Path, model_version: str, summary: dict[str, Any], seed: int
    ) -> StoredMap:
        row: dict[str, Any] = {
            "case_id": image_id,
            "file": path.name,
            "sha256": _digest(path),
            "model_version": model_version,
            "scan": _scan(image),
            "mc_samples": int(summary["mc_samples"]),
            "seed": seed,
            "summary": summary,
            "made_at": time.time(),
        }

        def enter(session: Session) -> str | None:
            next_number(session, "maps")  # one after the other: each knows which file it replaces
            before = session.scalar(select(UncertaintyMap.file).where(UncertaintyMap.case_id == image_id))
            upsert(session, UncertaintyMap, [row], ["case_id"])
            return before

        before = self._database.write(enter)
        if before not in (None, path.name):  # a repeated transaction finds what it had entered itself
            remove_files(self._folder, before)
        return StoredMap(path, model_version, row["mc_samples"], summary)

    def as_nrrd(self, image_id: str) -> Path:
        """The kept map as `.nrrd`, converted once."""
        with self._database.read() as session:
            file = session.scalar(select(UncertaintyMap.file).where(UncertaintyMap.case_id == image_id))
        if file is None:
            raise FileNotFoundError(f"There is no uncertainty map of {image_id!r} any more.")
        path = _converted(self._folder, file)
        if not path.exists():
            try:
                write_map(path, *read_voxels(self._folder / file))
            except UnusableImage as error:
                raise FileNotFoundError(f"The map {file} was replaced while it was converted.") from error
        return path

    def _adopt(self, workspace: Workspace) -> None:
        """Take over the descriptions that earlier versions kept in files, once."""
        files = list(self._folder.glob("*.json"))
        rows = [row for file in files if (row := _described(file, read_json(file, None))) is not None]
        if rows:
            self._database.write(lambda session: insert_new(session, UncertaintyMap, rows))
        kept = workspace.root / RETIRED / "maps"
        for file in files:
            kept.mkdir(parents=True, exist_ok=True)
            if file.exists():
                file.replace(kept / file.name)

    def _remove_stray(self) -> None:
        """Delete files that a killed process has left; they can be made again."""
        present = {path.name: path for path in self._folder.iterdir() if path.is_file()}
        if not present:
            return
        with self._database.read() as session:
            known = {str(file) for file in session.scalars(select(UncertaintyMap.file))}
        known |= {_converted(self._folder, file).name for file in known}
        for name in present.keys() - known:
            signature = Signature.of(present[name])
            if signature and time.time() - signature.mtime_ns / 1e9 > _ABANDONED_AGE_S:
                present[name].unlink(missing_ok=True)


def forget_map(session: Session, image_id: str) -> str | None:
    """Forget the map of a case that is removed; returns its file for `remove_files` after the transaction."""
    file = session.scalar(select(UncertaintyMap.file).where(UncertaintyMap.case_id == image_id))
    session.execute(
        delete(UncertaintyMap)
        .where(UncertaintyMap.case_id == image_id)
        .execution_options(synchronize_session=False)
    )
    return file


def remove_files(folder: Path, file: str) -> None:
    """Delete a map's file and what was converted from it."""
    (folder / file).unlink(missing_ok=True)
    _converted(folder, file).unlink(missing_ok=True)


def _converted(folder: Path, file: str) -> Path:
    return folder / (file.removesuffix(_EXTENSION) + _CONVERTED)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _scan(image: Path) -> str:
    """What changes when the image's file does."""
    signature = Signature.of(image)
    return "" if signature is None else f"{signature.size}:{signature.mtime_ns}"


def _described(file: Path, stored: Any) -> dict[str, Any] | None:
    """The row of a map that an earlier version described in a file beside it."""
    try:
        size, mtime_ns = stored["image"]
        return {
            "case_id": str(stored["id"]),
            "file": file.name.removesuffix(".json") + _EXTENSION,
            "sha256": "",
            "model_version": str(stored["model_version"]),
            "scan": f"{size}:{mtime_ns}",
            "mc_samples": int(stored["mc_samples"]),
            "seed": int(stored.get("seed", 0)),
            "summary": dict(stored["summary"]),
            "made_at": file.stat().st_mtime,
        }
    except (TypeError, KeyError, ValueError, OSError):
        return None  # cut off, or of another version: the map is made again
