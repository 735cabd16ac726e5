"""model_rows: the one writer of the table `model_versions`."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from .database import insert_new, next_number
from .schema import ModelVersion

COUNTER = "model_versions"


def add(session: Session, versions: list[dict[str, Any]]) -> None:
    """New versions, not live; those that are known are left as they are.

    Args:
        session: In a transaction.
        versions: `version`, `number`, `round`, `sha256`, `metrics`, `created_at` of each.
    """
    keys = ("version", "number", "round", "sha256", "metrics", "created_at")
    rows = [
        {key: entry[key] for key in keys} | {"published_at": None, "unusable": None} for entry in versions
    ]
    insert_new(session, ModelVersion, rows)


def lock(session: Session) -> None:
    """Be the only one to make versions live, or to forget them, until the transaction ends."""
    next_number(session, "publications")


def publish(session: Session, version: str) -> None:
    """Make a version live."""
    lock(session)  # one after the other: the later one is the live one
    found = session.get(ModelVersion, version)
    assert found is not None
    newest = session.scalar(select(func.max(ModelVersion.published_at))) or 0.0
    found.published_at = max(time.time(), newest + 1e-6)  # whatever the clock says
    session.flush()


def live(session: Session) -> str | None:
    """The live version: of those that can be used, the one that was published last."""
    rows = select(ModelVersion.version).where(
        ModelVersion.published_at.is_not(None), ModelVersion.unusable.is_(None)
    )
    return session.scalar(rows.order_by(ModelVersion.published_at.desc()).limit(1))


def find(session: Session, version: str) -> ModelVersion | None:
    """A version that can be used."""
    found = session.get(ModelVersion, version)
    return found if found is not None and found.unusable is None else None


def usable(session: Session) -> list[ModelVersion]:
    """The versions that can be used, oldest first."""
    rows = select(ModelVersion).where(ModelVersion.unusable.is_(None)).order_by(ModelVersion.number)
    return list(session.scalars(rows))


def every(session: Session) -> list[ModelVersion]:
    """All versions, oldest first."""
    return list(session.scalars(select(ModelVersion).order_by(ModelVersion.number)))


def judge(session: Session, version: str, unusable: str | None) -> None:
    """Note why a version cannot be used, or that it can."""
    found = session.get(ModelVersion, version)
    if found is not None:
        found.unusable = unusable
        session.flush()


def prune(session: Session, kept: int) -> list[str]:
    """Forget all but the newest `kept` versions and the live one; returns the forgotten ones."""
    rows = every(session)
    dropped = [row.version for row in rows[: max(len(rows) - kept, 0)] if row.version != live(session)]
    session.execute(
        delete(ModelVersion)
        .where(ModelVersion.version.in_(dropped))
        .execution_options(synchronize_session=False)
    )
    return dropped
