"""The review page: HTML for people, and the pictures it shows."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from server.names import known
from server.review import pages
from server.review.case_pictures import CasePictures, drawn
from server.running_app import heavy, known_image, running_app

PICTURES = CasePictures()
_FRESH_S = 3600
"""How long a browser may keep a picture: its address changes with the case."""


class PageRoute(APIRoute):
    """Answers a refusal with a page instead of JSON: it is a person who reads it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_or_explain(request: Request) -> Response:
            try:
                return await handle(request)
            except HTTPException as error:
                status, sentence = error.status_code, str(error.detail)
            return await run_in_threadpool(lambda: pages.refused(running_app(), status, sentence))

        return handle_or_explain


router = APIRouter(prefix="/review", include_in_schema=False)
page_router = APIRouter(prefix="/review", include_in_schema=False, route_class=PageRoute)


@page_router.get("")
def overview() -> HTMLResponse:
    return pages.overview_page(running_app())


@page_router.get("/cases")
def cases(status: str = "unlabeled", after: str = "") -> HTMLResponse:
    return pages.cases_page(running_app(), status, after)


@page_router.get("/cases/{image}")
async def case(image: str) -> HTMLResponse:
    # On a thread for pictures: the scan itself is read.
    return await drawn(lambda: pages.case_page(running_app(), _known(image), PICTURES))


@page_router.post("/cases/{image}/draft")
async def draft(image: str) -> Response:
    await heavy(lambda: running_app().draft(_known(image)))
    return RedirectResponse(f"/review/cases/{quote(image, safe='')}", 303)


@page_router.get("/models/{version}/publish")
def ask_to_publish(version: str) -> HTMLResponse:
    return pages.publish_page(running_app(), version)


@page_router.post("/models/{version}/publish")
def publish(version: str, live: Annotated[str, Form()] = "") -> Response:
    app = running_app()
    known(version, "model version", [entry["version"] for entry in app.registry.list()])
    # A round may have published meanwhile: the reader has compared with another model.
    app.registry.publish(version, instead_of=live)
    return RedirectResponse("/review#models", 303)


@router.get("/cases/{image}/thumbnail.png")
async def thumbnail(request: Request, image: str, v: str = "") -> Response:
    content, tag = await drawn(lambda: PICTURES.thumbnail(running_app(), _known(image)))
    return _picture(request, content, tag, fresh=v == tag)


@router.get("/cases/{image}/slices/{plane}/{place}")
async def slice_(
    request: Request, image: str, plane: str, place: int, layer: str = "image", v: str = ""
) -> Response:
    content, tag = await drawn(
        lambda: PICTURES.slice_(running_app(), _known(image), plane, place, layer, v or None)
    )
    return _picture(request, content, tag, fresh=bool(v))


@router.get("/cases/{image}/profiles")
async def profiles(image: str) -> JSONResponse:
    """For each plane, the mean uncertainty of its slices; empty without uncertainty."""
    found = await drawn(lambda: PICTURES.profiles(running_app(), _known(image)))
    return JSONResponse(found, headers={"Cache-Control": "no-store"})


def _known(image: str) -> str:
    return known_image(running_app(), image)


def _picture(request: Request, content: bytes, tag: str, *, fresh: bool) -> Response:
    headers = {
        "ETag": f'"{tag}"',
        "Cache-Control": f"private, max-age={_FRESH_S}" if fresh else "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="image/png", headers=headers)
