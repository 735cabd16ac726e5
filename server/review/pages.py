"""The pages as HTML: templates, what they are filled with, and the headers that keep foreign content out."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from server.names import known
from server.review import drawing
from server.review.case_pictures import SLICE, CasePictures, TurnedCase
from server.review.overview import cases_page as cases_context, models, overview, summary
from server.slice_view import PLANES, pixel_mm

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
HEADERS = {
    # Nothing inline, nothing from elsewhere: what a case or a reader is called can never run.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: browsers then send `Origin: null` with a form, which the origin guard refuses.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def overview_page(app: Any) -> HTMLResponse:
    """`/review`."""
    return _page("overview.html", here="overview", **overview(app))


def cases_page(app: Any, status: str, after: str) -> HTMLResponse:
    """`/review/cases`."""
    return _page("cases.html", here="cases", **cases_context(app, status, after))


def case_page(app: Any, image: str, pictures: CasePictures) -> HTMLResponse:
    """`/review/cases/{id}`."""
    case, tag = pictures.case(app, image)
    return _page(
        "case.html",
        here="case",
        summary=summary(app),
        id=image,
        tag=tag,
        layers=list(case.layers),
        planes=[_plane(case, number) for number in (2, 1, 0)],
        **app.review.details(image),
    )


def publish_page(app: Any, version: str) -> HTMLResponse:
    """`/review/models/{version}/publish`: the question before a version goes live."""
    listed = models(app)
    known(version, "model version", [entry["version"] for entry in listed])
    model = next(entry for entry in listed if entry["version"] == version)
    live = next((entry for entry in listed if entry["published"]), None)
    return _page("publish.html", here="models", summary=summary(app), model=model, live=live)


def refused(app: Any, status: int, sentence: str) -> HTMLResponse:
    """A refusal as a page."""
    return _page("refused.html", status, here="", summary=summary(app), sentence=sentence)


def _plane(case: TurnedCase, number: int) -> dict[str, Any]:
    """A plane as the page begins: at its least sure slice, else at most of a label, else in the middle."""
    plane, count = PLANES[number], case.shape[number]
    place = count // 2
    if case.profiles and max(case.profiles[number]) > 0:
        place = case.profiles[number].index(max(case.profiles[number]))
    elif "label" in case.layers and case.layers["label"].any():
        others = tuple(axis for axis in range(3) if axis != number)
        place = int((case.layers["label"] > 0).sum(axis=others).argmax())
    shape = (case.shape[plane.rows], case.shape[plane.columns])
    size = drawing.size_of(shape, pixel_mm(case.spacing_mm, number), SLICE)
    return {**plane._asdict(), "count": count, "place": place, "size": size}


def _page(template: str, code: int = 200, /, **values: Any) -> HTMLResponse:
    return HTMLResponse(_environment().get_template(template).render(values), code, headers=HEADERS)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,  # the templates of a running server are those it was started with
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["quoted"] = lambda text: quote(str(text), safe="")
    environment.filters["moment"] = moment
    return environment


def moment(value: str | float) -> str:
    """A moment, as ISO 8601 or seconds since 1970, to the minute in UTC; what is neither stays as it is."""
    try:
        at = (
            datetime.fromisoformat(value).astimezone(UTC)
            if isinstance(value, str)
            else datetime.fromtimestamp(value, UTC)
        )
    except (ValueError, OverflowError, OSError):
        return str(value)
    return at.strftime("%Y-%m-%d %H:%M UTC")
