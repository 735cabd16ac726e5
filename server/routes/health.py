"""Is the server alive, and is it ready for work."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from server.running_app import running_app

router = APIRouter(tags=["Health"])

_READY = {"application/json": {"example": {"ready": True, "reason": "ready"}}}
_NOT_READY = {"application/json": {"example": {"ready": False, "reason": "The studies folder is gone."}}}


@router.get(
    "/health",
    summary="The server is alive",
    responses={200: {"content": {"application/json": {"example": {"status": "ok"}}}}},
)
async def health() -> dict[str, str]:
    # The one route on the event loop itself: it must answer while every thread is busy.
    return {"status": "ok"}


@router.get(
    "/ready",
    summary="The server can take requests (it needs no model for that)",
    responses={200: {"content": _READY}, 503: {"description": "Not ready", "content": _NOT_READY}},
)
def ready() -> Any:
    is_ready, reason = running_app().ready()
    return JSONResponse({"ready": bool(is_ready), "reason": str(reason)}, 200 if is_ready else 503)
