"""facts: the one writer of the table `facts`: named values of the project."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from .database import upsert
from .schema import Fact


def get(session: Session, name: str) -> dict[str, Any]:
    """A fact; empty before it was set."""
    found = session.get(Fact, name)
    return dict(found.value) if found is not None else {}


def put(session: Session, name: str, value: dict[str, Any]) -> None:
    """Set a fact."""
    upsert(session, Fact, [{"name": name, "value": value}], ["name"])
