"""folder_files: the one writer of the table `folder_files`: what every file of the studies folder was found
to be, so that a look at the folder opens only what is new or has changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from ..checks import TAGS
from ..pool import Signature, list_folder, split_name
from .database import BATCH, Database, upsert
from .look import IMAGE, UNOPENED, VOXELS, FileRow
from .schema import FolderFile

_COLUMNS = [getattr(FolderFile, name) for name in FileRow._fields]


def list_files(folder: Path) -> dict[str, Signature]:
    """One listing of a project: scans by name, labels as `labels/<tag>/<name>`; opens nothing.

    Raises:
        OSError: If a folder cannot be listed.
    """
    return {_key(name): signature for name, signature in list_folder(folder).items()} | list_labels(folder)


def list_labels(folder: Path) -> dict[str, Signature]:
    """The labels of a project, as `list_files` names them; raises as it."""
    found = {}
    for tag in TAGS:
        for name, signature in list_folder(folder / "labels" / tag).items():
            found[f"labels/{tag}/{_key(name)}"] = signature
    return found


def kind_of(name: str) -> str:
    """`image`, or the tag of a label."""
    return name.split("/")[1] if "/" in name else IMAGE


def misnamed(name: str, signature: Signature, reason: str) -> FileRow:
    """The row of a file whose name no case can have."""
    return FileRow(name, kind_of(name), None, *signature, VOXELS, None, reason, "", "")


def case_of(name: str) -> str:
    """The case a file belongs to; ValueError with the reason if its name is not one of a case."""
    return split_name(Path(name).name)[0]


def known_signatures(session: Session) -> dict[str, Signature]:
    """Of every file that need not be looked at before it changes."""
    rows = select(FolderFile.name, FolderFile.size, FolderFile.mtime_ns, FolderFile.depth, FolderFile.finding)
    return {
        name: Signature(size, mtime_ns)
        for name, size, mtime_ns, depth, finding in session.execute(rows)
        if depth > UNOPENED or finding is None
    }


def of_cases(session: Session, case_ids: Iterable[str]) -> dict[str, FileRow]:
    """The rows of all files of some cases, by name."""
    rows = select(*_COLUMNS).where(FolderFile.case_id.in_(list(case_ids)))
    return {row[0]: FileRow(*row) for row in session.execute(rows)}


def put(session: Session, rows: Iterable[FileRow]) -> None:
    """Enter or replace rows."""
    upsert(session, FolderFile, [row._asdict() for row in rows], ["name"])


def drop(session: Session, names: Iterable[str]) -> None:
    """Forget files that are gone."""
    wanted = sorted(names)
    for start in range(0, len(wanted), BATCH):
        session.execute(
            delete(FolderFile)
            .where(FolderFile.name.in_(wanted[start : start + BATCH]))
            .execution_options(synchronize_session=False)
        )


def set_aside(session: Session) -> dict[str, str]:
    """Why each file that is not in use is not, by name."""
    rows = select(FolderFile.name, FolderFile.reason).where(FolderFile.reason.is_not(None))
    return {name: str(reason) for name, reason in session.execute(rows.order_by(FolderFile.name))}


def why_hidden(session: Session, case_id: str) -> str | None:
    """Why a case has no usable scan although it has a file; None if it has none, or a usable one."""
    rows = select(FolderFile.reason).where(FolderFile.case_id == case_id, FolderFile.kind == IMAGE)
    return session.scalar(rows.where(FolderFile.reason.is_not(None)).order_by(FolderFile.name).limit(1))


def not_read_through(database: Database, limit: int) -> list[str]:
    """Some cases whose scan was not read to its last voxel yet, by name."""
    rows = (
        select(FolderFile.case_id)
        .where(FolderFile.kind == IMAGE, FolderFile.depth < VOXELS, FolderFile.reason.is_(None))
        .order_by(FolderFile.depth, FolderFile.name)
        .limit(limit)
    )
    with database.read() as session:
        return [case_id for case_id in session.scalars(rows) if case_id is not None]


def _key(name: str) -> str:
    """A file name as text that a database takes; one that is no UTF-8 gets a backslash, which no id has."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()
