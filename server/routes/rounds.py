"""Training rounds, oldest first."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

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


@router.get(
    "/rounds",
    summary="Every training round: queued, running, done, failed, cancelled",
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}},
)
def rounds() -> dict[str, Any]:
    return {"rounds": running_app().rounds.list()}
