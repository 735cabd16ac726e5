"""Model versions, and which one answers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from server.names import known
from server.running_app import running_app

router = APIRouter(tags=["Rounds and models"])

_VERSION = {
    "version": "v0001-3fa1c2",
    "published": True,
    "round": "r0001",
    "metrics": None,
    "created_at": "2026-01-31T09:31:30.000+00:00",
}
_UNKNOWN = {"detail": "There is no model version 'v9' here; available: v0001-3fa1c2."}


@router.get(
    "/models",
    summary="The kept model versions",
    responses={200: {"content": {"application/json": {"example": {"models": [_VERSION]}}}}},
)
def models() -> dict[str, Any]:
    return {"models": running_app().registry.list()}


@router.post(
    "/models/{version}/publish",
    summary="Let this version answer from now on: roll back, or forward again",
    responses={
        200: {"content": {"application/json": {"example": _VERSION}}},
        404: {"description": "Unknown version", "content": {"application/json": {"example": _UNKNOWN}}},
    },
)
def publish(version: str) -> dict[str, Any]:
    registry = running_app().registry
    entries = {entry["version"]: entry for entry in registry.list()}
    known(version, "model version", entries)
    registry.publish(version)
    published: dict[str, Any] = next(entry for entry in registry.list() if entry["version"] == version)
    return published
