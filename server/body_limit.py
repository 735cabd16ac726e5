"""ASGI guard: a request body above the limit is answered with 413, and the answer reaches the client."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAIN_SECONDS = 20.0


class BodyLimit:
    """Refuses bodies above `limit` bytes, announced by `Content-Length` or counted as they stream in.

    A client that is still sending would get a reset connection instead of the answer if the server just
    closed. So the answer goes out at once, and what the client goes on sending is read and thrown away for at
    most `DRAIN_SECONDS`; nothing of it is kept.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._sentence = (
            f"The request is larger than the {limit / 2**20:g} MiB this server accepts; "
            "send a smaller file, or start the server with a larger --max-body-mib."
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > self._limit:
            await self._answer(scope, receive, send)
            return
        await self._count(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = 0
        is_read = False

        async def counted() -> Message:
            nonlocal seen, is_read
            message = await receive()
            seen += len(message.get("body", b""))
            is_read = not message.get("more_body", False)
            if seen > self._limit:
                # The framework passes this through to its handlers while it reads a body.
                raise HTTPException(413, self._sentence, headers={"connection": "close"})
            return message

        async def drained(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if seen > self._limit and last and not is_read:
                await send({**message, "more_body": True})
                await self._drain(receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, counted, drained)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = JSONResponse({"detail": self._sentence}, 413, headers={"connection": "close"})
        await send({"type": "http.response.start", "status": 413, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        # A client that waits for "100 Continue" has sent nothing yet, and asking would make it start.
        if "expect" not in Headers(scope=scope):
            await self._drain(receive)
        await send({"type": "http.response.body", "body": b""})

    async def _drain(self, receive: Receive) -> None:
        async def until_the_end() -> None:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return

        try:
            await asyncio.wait_for(until_the_end(), DRAIN_SECONDS)
        except TimeoutError:
            return
