"""Asking for a round and following it, in the stock server's terms."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from monailabel.endpoints import train as stock

from server.running_app import known_trainer, running_app

router = APIRouter(prefix="/train", tags=["Train"])

Params = Annotated[dict[str, Any] | None, Body(examples=[{}])]

_TASK = {
    "id": "r0001",
    "status": "RUNNING",
    "request": {"model": "ugmcl"},
    "start_ts": "2026-01-31 09:30:00",
    "details": ["step 40/180 loss 0.4210, 61 s left"],
}
_NONE = {"detail": "No Train Tasks Found"}
_UNKNOWN = {"detail": "There is no trainer 'deepedit' here; available: ugmcl."}
_IDLE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": _TASK}}},
    404: {"description": "Nothing to report", "content": {"application/json": {"example": _NONE}}},
}
_STARTED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": {**_TASK, "status": "SUBMITTED"}}}},
    404: {"description": "Unknown trainer", "content": {"application/json": {"example": _UNKNOWN}}},
}


@router.get("/", summary="The running or last round, with per-step progress", responses=_IDLE)
def status(all: bool = False, check_if_running: bool = False) -> Any:  # noqa: A002 - the stock query's name
    return stock.status(all, check_if_running)


@router.post("/", summary="Ask every trainer for a round", responses=_STARTED)
def run_all(params: Params = None, run_sync: bool = False) -> Any:
    # Viewers send their own trainer settings; the rounds have theirs from the server, so none is passed on.
    return stock.run({}, run_sync)


@router.post(
    "/{model}",
    summary="Ask this trainer for a round; while one runs, the waiting one answers",
    responses=_STARTED,
)
def run_model(model: str, params: Params = None, run_sync: bool = False, enqueue: bool = False) -> Any:
    known_trainer(running_app(), model)
    return stock.run_model(model, {}, run_sync, enqueue)


@router.delete("/", summary="Cancel the running round; its labels stay pending", responses=_IDLE)
def stop() -> Any:
    return stock.stop()
