"""The worklist: every case with its status and how unsure the model is of it, page by page."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from server.running_app import running_app

router = APIRouter(tags=["Active learning"])

_EXAMPLE = {
    "cases": [
        {
            "id": "case_07",
            "status": "unlabeled",
            "score": 0.42,
            "model_version": "v0001-3fa1c2",
            "priority": 0,
            "study_instance_uid": None,
            "series_instance_uid": None,
        }
    ],
    "next": "WyJ1bmxhYmVsZWQi",
    "total": 24,
}
_BAD = {"detail": "The status is 'done'; allowed are unlabeled, labeled, all."}


@router.get(
    "/cases",
    summary="The worklist, the least sure first; give `next` as `after` for the following page",
    responses={
        200: {"content": {"application/json": {"example": _EXAMPLE}}},
        422: {"description": "A value is not allowed", "content": {"application/json": {"example": _BAD}}},
    },
)
def cases(
    status: Annotated[str, Query(description="`unlabeled`, `labeled` or `all`")] = "all",
    sort: Annotated[str, Query(description="`uncertainty` or `id`")] = "uncertainty",
    limit: Annotated[int, Query(description="cases on a page, 1 to 500")] = 50,
    after: Annotated[str | None, Query(max_length=2000, description="`next` of the page before")] = None,
) -> dict[str, Any]:
    found: dict[str, Any] = running_app().worklist.page(status, sort, limit, after)
    return found
