"""Data sets made of the project's labels: asked for, followed, fetched, removed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from server import event_stream, folder_zip
from server.running_app import running_app

router = APIRouter(prefix="/exports", tags=["Exports"])

_EXPORT = {
    "id": "20260131-093000-3fa1c2",
    "job": 7,
    "status": "done",
    "request": {
        "layout": "folder",
        "images": "copy",
        "cases": None,
        "unlabeled": False,
        "originals": False,
        "maps": True,
    },
    "progress": {"written": 24, "cases": 24, "left_out": 0},
    "reason": "",
    "folder": "/scans/.ugmcl/exports/20260131-093000-3fa1c2",
    "created_at": 1769851800.0,
    "started_at": 1769851801.0,
    "finished_at": 1769851809.0,
}
_UNKNOWN = {"detail": "There is no export '20260131-093000-000000' here; GET /exports lists them."}
_ONE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": _EXPORT}}},
    404: {"description": "Unknown export", "content": {"application/json": {"example": _UNKNOWN}}},
}
_STEP: dict[int | str, dict[str, Any]] = {
    **_ONE,
    409: {"description": "The export is in no state for it; the sentence names the states that are"},
}
_ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}},
    404: {"description": "Unknown export, or its files were removed"},
    409: {"description": "The export is not complete"},
}


class Layout(StrEnum):
    """What the folder looks like."""

    folder = "folder"
    monailabel = "monailabel"


class Images(StrEnum):
    """What becomes of the scans."""

    copy = "copy"
    reference = "reference"
    none = "none"


class Asked(BaseModel):
    """What an export is to hold."""

    model_config = ConfigDict(extra="forbid")  # a misspelled key would leave out what was asked for

    layout: Layout = Layout.folder
    images: Images = Images.copy
    cases: list[str] | None = Field(None, min_length=1, description="ids; all labeled ones where left out")
    unlabeled: bool = Field(False, description="also cases without a final label, as images")
    originals: bool = Field(False, description="also the proposals kept beside the labels")
    maps: bool = Field(False, description="also the kept uncertainty maps")


@router.post(
    "",
    summary="Export the labels: a job; the same one for the same request until it starts",
    responses={
        200: _ONE[200],
        404: {"description": "Unknown case"},
        409: {"description": "There is nothing to export"},
    },
)
def request(asked: Annotated[Asked | None, Body()] = None) -> dict[str, Any]:
    export: dict[str, Any] = running_app().exports.request((asked or Asked()).model_dump(mode="json"))
    return export


@router.get(
    "",
    summary="Every export: queued, running, paused, done, failed, cancelled",
    responses={200: {"content": {"application/json": {"example": {"exports": [_EXPORT]}}}}},
)
def exports() -> dict[str, Any]:
    return {"exports": running_app().exports.every()}


@router.get("/{export_id}", summary="One export", responses=_ONE)
def one(export_id: str) -> dict[str, Any]:
    found: dict[str, Any] = running_app().exports.find(export_id)
    return found


@router.get(
    "/{export_id}/events",
    summary="Follow an export: server-sent events until it has ended",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "`status` and `progress` events until the export has ended",
            "content": {"text/event-stream": {"example": 'event: progress\ndata: {"id": "...", ...}\n\n'}},
        },
        404: _ONE[404],
    },
)
async def events(export_id: str) -> StreamingResponse:
    found = running_app().exports
    first = await run_in_threadpool(found.follow, export_id)  # an unknown one is refused before the stream
    return event_stream.reply(first, lambda: found.follow(export_id))


@router.get(
    "/{export_id}/archive",
    summary="Download a complete export as one ZIP",
    response_class=StreamingResponse,
    responses=_ARCHIVE,
)
def archive(export_id: str) -> StreamingResponse:
    folder = running_app().exports.folder_of(export_id)
    name = {"Content-Disposition": f'attachment; filename="export-{folder.name}.zip"'}
    return StreamingResponse(folder_zip.chunks(folder), media_type="application/zip", headers=name)


@router.post("/{export_id}/cancel", summary="End an export; what it has written is removed", responses=_STEP)
def cancel(export_id: str) -> dict[str, Any]:
    ended: dict[str, Any] = running_app().exports.cancel(export_id)
    return ended


@router.post(
    "/{export_id}/pause", summary="Let an export rest until it is resumed, over restarts", responses=_STEP
)
def pause(export_id: str) -> dict[str, Any]:
    paused: dict[str, Any] = running_app().exports.pause(export_id)
    return paused


@router.post("/{export_id}/resume", summary="Go on with a paused export", responses=_STEP)
def resume(export_id: str) -> dict[str, Any]:
    resumed: dict[str, Any] = running_app().exports.resume(export_id)
    return resumed


@router.delete(
    "/{export_id}",
    summary="Remove the files of an export that has ended",
    responses={404: _ONE[404], 409: {"description": "It has not ended; cancel it first"}},
)
def remove(export_id: str) -> dict[str, Any]:
    running_app().exports.remove(export_id)
    return {}
