"""Cases whose readers do not agree: what they gave, how far it differs, and the adjudicator's word."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import Field

from server.names import NO_NUL
from server.routes.leases import Reader
from server.running_app import known_image, running_app

router = APIRouter(prefix="/adjudications", tags=["Readers"])

_UID = "8c7f2d0a4be94e6c8f1f0a5ad1c1f3b2"
_CASE: dict[str, Any] = {
    "id": "case_07",
    "readings": [
        {
            "label": _UID,
            "reader": "reader-1",
            "tool": "",
            "model_version": "v0001-3fa1c2",
            "comment": "",
            "created_at": 1769851890.0,
        }
    ],
    "pairs": [
        {
            "first": _UID,
            "second": "51b0c9d0e7a0429b9b9d6f4a9d5b7a10",
            "dice": {"foreground": 0.61},
        }
    ],
    "compared_at": 1769851901.0,
}
_NOT_WAITING: dict[int | str, dict[str, Any]] = {
    404: {"description": "Unknown image"},
    409: {"description": "The case does not wait for adjudication"},
}


class Settlement(Reader):
    """Which reading becomes the label, and who says so."""

    label: str = Field(min_length=1, max_length=64, examples=[_UID])
    comment: str = Field("", max_length=1000, examples=["the tail belongs to it"])


@router.get(
    "",
    summary="Cases whose readers do not agree, page by page",
    responses={
        200: {
            "content": {"application/json": {"example": {"adjudications": [_CASE], "total": 1, "next": None}}}
        }
    },
)
def queue(
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    after: Annotated[
        str, Query(max_length=200, pattern=NO_NUL, description="`next` of the page before")
    ] = "",
) -> dict[str, Any]:
    page: dict[str, Any] = running_app().datastore().readings.queue(limit, after)
    return page


@router.get("/{image}", summary="One of them", responses=_NOT_WAITING)
def one(image: str) -> dict[str, Any]:
    app = running_app()
    found: dict[str, Any] = app.datastore().readings.one(known_image(app, image))
    return found


@router.post("/{image}/settle", summary="Make one of the readings the label", responses=_NOT_WAITING)
def settle(image: str, settlement: Annotated[Settlement, Body()]) -> dict[str, Any]:
    app = running_app()
    settled: dict[str, Any] = app.datastore().readings.settle(
        known_image(app, image), settlement.label, settlement.client_id, settlement.comment
    )
    return settled
