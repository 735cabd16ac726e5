"""Who has which case: signs of life, giving back, skipping, and what is set by hand."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from server.running_app import known_image, running_app

router = APIRouter(prefix="/leases", tags=["Active learning"])

_NOT_YOURS: dict[int | str, dict[str, Any]] = {
    404: {"description": "Unknown image"},
    409: {"description": "The case is not leased to this reader"},
}


class Reader(BaseModel):
    """Who asks: the `client_id` with which the case was asked for."""

    client_id: str = Field(min_length=1, max_length=200, examples=["reader-1"])


class Skip(Reader):
    """Who skips a case, and why."""

    reason: str = Field("", max_length=1000, examples=["motion artifact"])


class Plan(BaseModel):
    """What is set by hand; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")  # a misspelt key must not look like a plan that was taken

    priority: int | None = Field(None, ge=-1000, le=1000, examples=[1])
    assigned_to: str | None = Field(None, max_length=200, examples=["reader-1"])
    # Every two readings are compared, so the work grows with the square.
    readers_wanted: int | None = Field(None, ge=1, le=10, examples=[2])


@router.get("", summary="The cases that readers have now")
def current() -> dict[str, Any]:
    return {"leases": running_app().offers.current()}


@router.post("/{image}/heartbeat", summary="Still at it: the lease starts anew", responses=_NOT_YOURS)
def heartbeat(image: str, reader: Annotated[Reader, Body()]) -> dict[str, Any]:
    app = running_app()
    offer = app.offers.heartbeat(known_image(app, image), reader.client_id)
    return {"id": offer.id, "expires_at": offer.expires_at}


@router.post("/{image}/release", summary="Give the case back", responses=_NOT_YOURS)
def release(image: str, reader: Annotated[Reader, Body()]) -> dict[str, Any]:
    app = running_app()
    app.offers.give_back(known_image(app, image), reader.client_id)
    return {}


@router.post("/{image}/skip", summary="Give the case back and do not get it again", responses=_NOT_YOURS)
def skip(image: str, skipped: Annotated[Skip, Body()]) -> dict[str, Any]:
    app = running_app()
    app.offers.give_back(known_image(app, image), skipped.client_id, skipped=True, reason=skipped.reason)
    return {}


@router.put(
    "/{image}/plan",
    summary="Priority of a case, whom it is for, and how many readers label it",
    responses={404: {}, 409: {"description": "More readers for a case that has its label"}},
)
def plan(image: str, planned: Annotated[Plan, Body()]) -> dict[str, Any]:
    app = running_app()
    changed: dict[str, Any] = app.offers.plan(known_image(app, image), **planned.model_dump())
    return changed
