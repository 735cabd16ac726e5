"""The web application: our routes, the stock server's remaining ones, and the guards around both.

It is built from the stock routers rather than mounted on `monailabel.app`, because that object brings open
CORS, `POST /reload` and endpoints that block the event loop. `server.app:app` is made on first access, so it
also serves `monailabel start_server --uvicorn_app server.app:app`, where the stock command line has set the
host's settings.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import fastapi_offline
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from server import refusal
from server.body_limit import BodyLimit
from server.dicomweb_proxy import DicomWebProxy
from server.origin_guard import OriginGuard
from server.request_log import RequestLog
from server.review.pages import STATIC as REVIEW_STATIC
from server.settings import ServerSettings

TITLE = "UG-MCL assist"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the app, as the stock server does, and end its queue when the server stops."""
    from starlette.concurrency import run_in_threadpool

    from server.running_app import running_app

    # The host's timer announces itself at INFO through a handler of its own, whatever its level was set to.
    logging.getLogger("timeloop").disabled = True
    instance = running_app()
    instance.server_mode(True)
    instance.on_init_complete()
    try:
        yield
    finally:
        await app.state.dicomweb.close()
        await run_in_threadpool(_stop, instance)


def _stop(instance: Any) -> None:
    stop = getattr(instance, "stop", None) or instance.rounds.stop
    stop()


def _pacs_connection() -> Mapping[str, Any] | None:
    """How to reach the PACS behind the running app; None where its images do not come from one."""
    from server.running_app import running_app

    options = getattr(running_app(), "pacs_client_options", None)
    return None if options is None else cast("Mapping[str, Any] | None", options())


def _pacs_stored() -> None:
    """A viewer has stored something in the PACS: what is known of it is asked for again."""
    from server.running_app import running_app

    running_app().pacs_changed()


def create_app(settings: ServerSettings | None = None) -> FastAPI:
    """Build the application; `stock_host.configure` must have told the host its app before it starts."""
    settings = settings or ServerSettings()
    app = FastAPI(
        title=TITLE,
        description="Segmentation that learns from every label and shows where it is unsure. For research.",
        version="0.1.0",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.dicomweb = DicomWebProxy(_pacs_connection, _pacs_stored)
    refusal.install(app)
    _include_routes(app, settings)
    _include_pages(app)
    # Added last is outermost: the log sees every request, the guards come before any route or body.
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Model-Version", "Content-Disposition"],
        )
    app.add_middleware(OriginGuard, hosts=settings.host_names, origins=settings.cors_origins)
    app.add_middleware(RequestLog)
    return app


def _include_routes(app: FastAPI, settings: ServerSettings) -> None:
    from server.routes import (
        activelearning,
        adjudications,
        cases,
        datastore,
        dicomweb,
        exports,
        health,
        infer,
        jobs,
        leases,
        models,
        readers,
        review,
        rounds,
        session,
        train,
        uncertainty,
    )
    from server.routes.ohif import ohif_router
    from server.stock_routes import stock_routers

    for module in (
        health,
        rounds,
        jobs,
        models,
        infer,
        uncertainty,
        activelearning,
        cases,
        leases,
        readers,
        adjudications,
        train,
        datastore,
        exports,
        session,
        review,
        dicomweb,
    ):
        app.include_router(module.router)
    app.include_router(review.page_router)
    viewer = settings.ohif_folder()
    if viewer is not None:  # before the stock page, which has the same address
        app.include_router(ohif_router(viewer))
    for router in stock_routers():
        app.include_router(router)


def _include_pages(app: FastAPI) -> None:
    import monailabel

    static = Path(os.path.dirname(monailabel.__file__)) / "endpoints" / "static"
    app.mount("/static", StaticFiles(directory=static), name="static")
    app.mount("/review/static", StaticFiles(directory=REVIEW_STATIC), name="review-static")

    # From the package, not from a CDN: hospitals are often without internet, and the page would stay blank.
    viewers = Path(os.path.dirname(fastapi_offline.__file__)) / "static"
    app.mount("/docs/static", StaticFiles(directory=viewers), name="docs-static")

    @app.get("/", include_in_schema=False)
    def documentation() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title} - APIs",
            swagger_js_url="/docs/static/swagger-ui-bundle.js",
            swagger_css_url="/docs/static/swagger-ui.css",
            swagger_favicon_url="/favicon.ico",
        )
        shown = bytes(page.body).decode()
        return HTMLResponse(
            shown.replace("showExtensions: true,", "showExtensions: true, defaultModelsExpandDepth: -1,")
        )

    @app.get("/docs", include_in_schema=False)
    def documentation_of_the_stock_server() -> RedirectResponse:
        # ReDoc, which is there in the stock server, asks the internet for its logo.
        return RedirectResponse("/")

    @app.get("/favicon.ico", include_in_schema=False)
    def favicon() -> FileResponse:
        return FileResponse(static / "favicon.ico", media_type="image/x-icon")


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()["app"] = create_app()
        return globals()["app"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
