"""Training rounds: listed, followed, and paused, resumed or cancelled one by one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from server import event_stream
from server.running_app import running_app

router = APIRouter(tags=["Rounds and models"])

_EXAMPLE = {
    "rounds": [
        {
            "id": "r0001",
            "status": "done",
            "labeled": 4,
            "labeled_ids": ["case_01", "case_02", "case_03", "case_04"],
            "unlabeled": 20,
            "model_version": "v0001-3fa1c2",
            "promoted": True,
            "reason": "the first validated model",
            "metrics": {
                "student": {"dice": 0.71, "hd95_mm": 9.4},
                "teacher": {"dice": 0.73, "hd95_mm": 8.8},
                "published_before": None,
            },
            "progress": {"step": 180, "steps": 180, "eta_s": 0.0},
            "started_at": "2026-01-31T09:30:00.000+00:00",
            "finished_at": "2026-01-31T09:31:30.000+00:00",
            "duration_s": 90.0,
        }
    ]
}


_ROUND = _EXAMPLE["rounds"][0]
_UNKNOWN = {"detail": "There is no round 'r0009' here; GET /rounds lists them."}
_ONE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": _ROUND}}},
    404: {"description": "Unknown round", "content": {"application/json": {"example": _UNKNOWN}}},
}
_STEP: dict[int | str, dict[str, Any]] = {
    **_ONE,
    409: {"description": "The round is in no state for it; the sentence names the states that are"},
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`status` and `progress` events until the round has ended",
        "content": {"text/event-stream": {"example": 'event: progress\ndata: {"id": "r0001", ...}\n\n'}},
    },
    404: _ONE[404],
}


@router.get(
    "/rounds",
    summary="Every training round: queued, running, paused, done, failed, cancelled",
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}},
)
def rounds() -> dict[str, Any]:
    return {"rounds": running_app().rounds.list()}


@router.get("/rounds/{round_id}", summary="One training round", responses=_ONE)
def one(round_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = running_app().rounds.show(round_id)
    return shown


@router.get(
    "/rounds/{round_id}/events",
    summary="Follow a round: server-sent events until it has ended",
    response_class=StreamingResponse,
    responses=_EVENTS,
)
async def events(round_id: str) -> StreamingResponse:
    rounds = running_app().rounds
    first = await run_in_threadpool(rounds.follow, round_id)  # an unknown one is refused before the stream
    return event_stream.reply(first, lambda: rounds.follow(round_id))


@router.post(
    "/rounds/{round_id}/cancel",
    summary="End a round; its labels stay pending, its state is kept",
    responses=_STEP,
)
def cancel(round_id: str) -> dict[str, Any]:
    running_app().rounds.cancel_round(round_id)
    return one(round_id)


@router.post(
    "/rounds/{round_id}/pause", summary="Let a round rest until it is resumed, over restarts", responses=_STEP
)
def pause(round_id: str) -> dict[str, Any]:
    running_app().rounds.pause(round_id)
    return one(round_id)


@router.post(
    "/rounds/{round_id}/resume", summary="Go on with a paused round and the labels of now", responses=_STEP
)
def resume(round_id: str) -> dict[str, Any]:
    running_app().rounds.resume(round_id)
    return one(round_id)
