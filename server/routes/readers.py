"""What each reader has done."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from server.running_app import running_app

router = APIRouter(prefix="/readers", tags=["Readers"])

_EXAMPLE = {
    "reader": "reader-1",
    "labels_saved": 12,
    "labels_by_day": {"2026-01-31": 12},
    "labels_per_day": 12.0,
    "unchanged_proposals": 2,
    "skipped": 1,
    "released": 0,
    "expired": 0,
    "open_lease": {"case_id": "case_07", "expires_at": 1769855490.0},
    "mean_seconds": 311.5,
    "mean_dice": 0.91,
    "comparisons": 3,
}


@router.get(
    "",
    summary="Per reader: labels, cases given back, time and agreement",
    responses={200: {"content": {"application/json": {"example": {"readers": [_EXAMPLE]}}}}},
)
def statistics() -> dict[str, Any]:
    return {"readers": running_app().offers.readers()}
