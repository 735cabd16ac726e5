"""The OHIF viewer that `make ohif` fetched, at /ohif/, with this server's configuration and modules."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from server.ohif_pages import OhifPages


def ohif_router(folder: Path) -> APIRouter:
    """The routes for the viewer in `folder`, as `make ohif` leaves it."""
    pages = OhifPages(folder)
    router = APIRouter(prefix="/ohif", tags=["Others"])

    @router.api_route("/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    def ohif(path: str) -> Response:
        return pages.answer(path)

    return router
