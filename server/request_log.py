"""ASGI layer: one log line a request, and the last word on a failure. Neither ever names a case or a body."""

from __future__ import annotations

import logging
import time
import traceback
from types import TracebackType

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.refusal import INTERNAL

logger = logging.getLogger(__name__)


class RequestLog:
    """Logs method, route template, status and seconds; answers 500 with a sentence when the app raised.

    Paths and queries hold image ids, which may be names of patients: the log has the route's template
    (`/infer/{model}`) instead. Of an exception it has the type and the lines of code, not the message.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        start = time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            logger.error("%s %s failed: %s", scope["method"], route_template(scope), places(error))
            if status:
                raise  # the answer is half sent; only closing the connection tells the client
            await JSONResponse({"detail": INTERNAL}, 500)(scope, receive, noted)
        seconds = time.perf_counter() - start
        level = logging.DEBUG if scope["path"] in ("/health", "/ready") else logging.INFO
        logger.log(level, "%s %s -> %d in %.3f s", scope["method"], route_template(scope), status, seconds)


def route_template(scope: Scope) -> str:
    """The matched route with its placeholders, or `(no route)`."""
    return str(getattr(scope.get("route"), "path", "(no route)"))


def places(error: BaseException) -> str:
    """An exception as its type and the lines it passed through, without the messages, which may hold data."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 5:
        chain.append(f"{type(current).__name__} at {_frames(current.__traceback__)}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return " caused by ".join(chain)


def _frames(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)[-8:]
    return (
        " > ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames) or "(unknown place)"
    )
