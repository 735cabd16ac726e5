"""Which case to label next."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body

from server.names import known
from server.running_app import running_app

router = APIRouter(prefix="/activelearning", tags=["Active learning"])

# What the request decides itself; a client's params must not override it.
_OWN_KEYS = ("strategy", "id", "image", "path")
_EXAMPLE = {
    "id": "case_07",
    "path": "/scans/case_07.nii.gz",
    "score": 0.42,
    "model_version": "v0001-3fa1c2",
    "lease": {"expires_at": 1769855490.0},
    "ts": 1769851890,
    "name": "case_07.nii.gz",
}
_UNKNOWN = {"detail": "There is no strategy 'best' here; available: first, most_uncertain, random."}


@router.post(
    "/{strategy}",
    summary="The next case to label by this strategy, leased to this client_id; {} when all are labeled",
    responses={
        200: {"content": {"application/json": {"example": _EXAMPLE}}},
        404: {"description": "Unknown strategy", "content": {"application/json": {"example": _UNKNOWN}}},
    },
)
def next_sample(
    strategy: str, params: Annotated[dict[str, Any] | None, Body(examples=[{"client_id": "reader-1"}])] = None
) -> dict[str, Any]:
    return _next_sample(strategy, params or {})


def _next_sample(strategy: str, params: dict[str, Any]) -> dict[str, Any]:
    app = running_app()
    known(strategy, "strategy", app._strategies)
    allowed = {key: value for key, value in params.items() if key not in _OWN_KEYS}
    result = app.next_sample({**allowed, "strategy": strategy})
    if not result or not result.get("id"):
        return {}
    info = dict(app.datastore().get_image_info(result["id"]))
    before = info.get("strategy")  # a client may have written anything there
    stamps = {
        **(before if isinstance(before, dict) else {}),
        strategy: {"ts": int(time.time()), "client_id": app.reader(params)},
    }
    app.datastore().update_image_info(result["id"], {"strategy": stamps})
    # Like the stock reply, with the image's info merged in; our own keys win over an info of the same name.
    reply = {**info, "strategy": stamps, **result}
    reply.setdefault("score", None)
    reply.setdefault("model_version", None)
    return reply
