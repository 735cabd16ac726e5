"""Server-sent events of something that changes, without holding a thread between two looks at it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

PERIOD_S = 1.0
KEEP_ALIVE_S = 15.0
"""Proxies close connections on which nothing comes for a minute or so."""
_ending = False


def reply(first: dict[str, Any], look: Callable[[], dict[str, Any]]) -> StreamingResponse:
    """Answer with an event for every change, until what is looked at has `ended` or the client leaves.

    Args:
        first: What the first look found; `status` and `ended` are among its keys.
        look: Looks again; runs in the thread pool, for moments.
    """
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(first, look), media_type="text/event-stream", headers=headers)


def end_all() -> None:
    """Close every stream within a period: the server stops, and waits for open connections."""
    global _ending
    _ending = True


async def _events(first: dict[str, Any], look: Callable[[], dict[str, Any]]) -> AsyncIterator[str]:
    found, shown, quiet_s = first, dict[str, Any](), 0.0
    while True:
        if found != shown:
            name = "progress" if shown.get("status") == found["status"] else "status"
            yield f"event: {name}\ndata: {json.dumps(found)}\n\n"
            shown, quiet_s = found, 0.0
        if found["ended"] or _ending:
            return
        await asyncio.sleep(PERIOD_S)
        quiet_s += PERIOD_S
        if quiet_s >= KEEP_ALIVE_S:
            yield ": nothing new\n\n"
            quiet_s = 0.0
        found = await run_in_threadpool(look)
