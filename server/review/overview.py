"""What the overview shows, from the running app to plain values for the template."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

from server.review.case_pictures import tag_of
from server.review.charts import Chart, Dot, bars, chart

QUEUE_SHOWN = 8
"""Cases on the overview: two rows on a wide screen."""
PAGE = 24
"""Cases on a page of the list: divides into rows of 1, 2, 3 and 4."""
ACTIVITY_DAYS = 14
ROUNDS_LISTED = 50
"""Rows in the table of rounds; the curve has all of them."""
BAR_FIELD = (140.0, 24.0)


def overview(app: Any) -> dict[str, Any]:
    """Everything on the overview but the pictures."""
    listed = app.worklist.page("unlabeled", "uncertainty", QUEUE_SHOWN, None)
    curve = app.history.curve()
    change = app.history.last_change()
    return {
        "summary": summary(app),
        "cards": cards(app, listed["cases"]),
        "waiting": listed["total"],
        "change": change,
        "charts": charts(curve),
        "live_calibration": _live_calibration(curve),
        "curve": list(reversed(curve[-ROUNDS_LISTED:])),
        "rounds_total": len(curve),
        "activity": activity(app),
        "models": models(app),
    }


def summary(app: Any) -> dict[str, Any]:
    """The state of the project in a few numbers."""
    status = app.datastore().status()
    current = app.rounds.current()
    return {
        "name": app.name,
        "live": app.registry.published(),
        "cases": status["total"],
        "labeled": status["completed"],
        "set_aside": len(status.get("quarantined", ())),
        "round": current.public() if current is not None else None,
    }


def cases_page(app: Any, status: str, after: str | None) -> dict[str, Any]:
    """One page of the list of cases; a status or place that is none is refused by the worklist."""
    sort = "id" if status == "labeled" else "uncertainty"
    listed = app.worklist.page(status, sort, PAGE, after or None)
    return {
        "summary": summary(app),
        "cards": cards(app, listed["cases"]),
        "status": status,
        "total": listed["total"],
        "next": listed["next"],
        "first": not after,
    }


def cards(app: Any, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cases with what their pictures are of; one that has just gone is left out."""
    shown = []
    for case in cases:
        try:
            state = app.review.state(case["id"])
        except HTTPException:
            continue
        told = {name: state[name] for name in ("draft_version", "pictured")}
        shown.append({**case, **told, "tag": tag_of(state)})
    return shown


def charts(curve: list[dict[str, Any]]) -> list[Chart]:
    """Dice, surface distance and calibration error by labels, and how reliable the newest model is."""
    drawn = []
    measured = [point for point in curve if point["dice"] is not None]
    if measured:
        dots = [_dot(point, point["dice"], f"Dice {point['dice']:.3f}") for point in measured]
        drawn.append(chart("Dice", "labels", "Dice", dots, y_range=(None, 1.0), whole_x=True))
        distances = [
            _dot(point, point["hd95_mm"], f"95HD {point['hd95_mm']:.1f} mm")
            for point in measured
            if point["hd95_mm"] is not None
        ]
        drawn.append(
            chart("Surface distance (95HD)", "labels", "mm", distances, y_range=(0.0, None), whole_x=True)
        )
    checked = [point for point in curve if point["calibration"]]
    if checked:
        errors = [
            _dot(point, point["calibration"]["ece"], f"calibration error {point['calibration']['ece']:.3f}")
            for point in checked
        ]
        drawn.append(chart("Calibration error", "labels", "ECE", errors, y_range=(0.0, None), whole_x=True))
        drawn.append(_reliability(_newest(checked)))
    return drawn


def activity(app: Any) -> dict[str, Any]:
    """Labels per reader and day, with bars."""
    found = app.history.activity(ACTIVITY_DAYS)
    most = max((max(row["by_day"]) for row in found["readers"]), default=0)
    return {
        "days": found["days"],
        "width": BAR_FIELD[0],
        "height": BAR_FIELD[1],
        "bar": round(BAR_FIELD[0] / ACTIVITY_DAYS * 0.75, 2),
        "readers": [
            {**row, "recent": sum(row["by_day"]), "bars": bars(row["by_day"], most, *BAR_FIELD)}
            for row in found["readers"]
        ],
    }


def models(app: Any) -> list[dict[str, Any]]:
    """The kept versions, newest first, with the numbers of the better of student and teacher."""
    shown = []
    for entry in reversed(app.registry.list()):
        metrics = entry["metrics"] or {}
        measured = [metrics[name] for name in ("student", "teacher") if metrics.get(name)]
        best = max(measured, key=lambda means: means["dice"] or 0.0, default=None)
        shown.append({**entry, "best": best})
    return shown


def _live_calibration(curve: list[dict[str, Any]]) -> dict[str, Any] | None:
    checked = [point for point in curve if point["calibration"]]
    return _newest(checked) if checked else None


def _newest(checked: list[dict[str, Any]]) -> dict[str, Any]:
    """The last round whose model went live; else the last one."""
    return next((point for point in reversed(checked) if point["promoted"]), checked[-1])


def _reliability(point: dict[str, Any]) -> Chart:
    found = point["calibration"]
    largest = max(entry["voxels"] for entry in found["bins"])
    dots = [
        Dot(
            entry["predicted"],
            entry["observed"],
            True,
            f"said {entry['predicted']:.2f}, was {entry['observed']:.2f} ({entry['voxels']} voxels)",
            2.5 + 4.5 * (entry["voxels"] / largest) ** 0.5,
        )
        for entry in found["bins"]
    ]
    return chart(
        "Reliability",
        "predicted probability",
        f"true share, {point['model_version']}",
        dots,
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        diagonal=True,
    )


def _dot(point: dict[str, Any], value: float, text: str) -> Dot:
    went = "published" if point["promoted"] else "not published"
    return Dot(
        float(point["labeled"]), float(value), bool(point["promoted"]),
        f"round {point['round']}, {point['labeled']} labels: {text}, {went}",
    )  # fmt: skip
