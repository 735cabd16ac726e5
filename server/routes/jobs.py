"""Training, scoring and exports as jobs of one queue, whatever they do."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from server import event_stream
from server.running_app import running_app

router = APIRouter(prefix="/jobs", tags=["Rounds and models"])

JobId = Annotated[int, Path(ge=1, lt=2**63)]
_JOB = {
    "id": 1,
    "kind": "train",
    "status": "running",
    "request": {"round": "r0001"},
    "progress": {"step": 40, "steps": 180, "eta_s": 61.0},
    "reason": "",
    "attempts": 1,
    "created_at": 1769851800.0,
    "started_at": 1769851805.0,
    "finished_at": None,
}
_UNKNOWN = {"detail": "There is no job 9 here; GET /jobs lists them."}
_ONE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": _JOB}}},
    404: {"description": "Unknown job", "content": {"application/json": {"example": _UNKNOWN}}},
}
_STEP: dict[int | str, dict[str, Any]] = {
    **_ONE,
    409: {"description": "The job is in no state for it; the sentence names the states that are"},
}


@router.get(
    "",
    summary="Training, scoring and exports as the server's jobs, oldest first",
    responses={200: {"content": {"application/json": {"example": {"jobs": [_JOB]}}}}},
)
def jobs() -> dict[str, Any]:
    return {"jobs": running_app().jobs.every()}


@router.get("/{job_id}", summary="One job", responses=_ONE)
def one(job_id: JobId) -> dict[str, Any]:
    found: dict[str, Any] = running_app().jobs.show(job_id)
    return found


@router.get(
    "/{job_id}/events",
    summary="Follow a job: server-sent events until it has ended",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "`status` and `progress` events until the job has ended",
            "content": {"text/event-stream": {"example": 'event: progress\ndata: {"id": 1, ...}\n\n'}},
        },
        404: _ONE[404],
    },
)
async def events(job_id: JobId) -> StreamingResponse:
    found = running_app().jobs
    first = await run_in_threadpool(found.follow, job_id)  # an unknown one is refused before the stream
    return event_stream.reply(first, lambda: found.follow(job_id))


@router.post("/{job_id}/cancel", summary="End a round or an export", responses=_STEP)
def cancel(job_id: JobId) -> dict[str, Any]:
    ended: dict[str, Any] = running_app().jobs.cancel(job_id)
    return ended


@router.post("/{job_id}/pause", summary="Let a job rest until it is resumed, over restarts", responses=_STEP)
def pause(job_id: JobId) -> dict[str, Any]:
    paused: dict[str, Any] = running_app().jobs.pause(job_id)
    return paused


@router.post("/{job_id}/resume", summary="Go on with a paused job", responses=_STEP)
def resume(job_id: JobId) -> dict[str, Any]:
    resumed: dict[str, Any] = running_app().jobs.resume(job_id)
    return resumed
