"""The stock multipart reply, streamed: `params` first, then the files in the order given."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

CHUNK = 1 << 18
_CLOSE = "\r\n"


def multipart_reply(
    params: dict[str, Any], files: Sequence[tuple[str, Path]], after: Callable[[], None]
) -> StreamingResponse:
    """Build a `multipart/form-data` reply as the stock server's.

    Args:
        params: JSON of the first part, which has no file name (clients tell parts apart by that).
        files: (part name, file) in order. The stock client keeps only the first, so the segmentation leads.
        after: Called once the reply is sent or broken off.

    Returns:
        A response with its exact Content-Length that reads the files while it sends them.
    """
    boundary = uuid.uuid4().hex
    body = json.dumps(params, allow_nan=False)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n'
        f"Content-Type: application/json\r\n\r\n{body}\r\n"
    ).encode()
    headers = [_file_head(boundary, name, path).encode() for name, path in files]
    tail = f"--{boundary}--\r\n".encode()
    length = len(head) + len(tail)
    length += sum(
        len(h) + path.stat().st_size + len(_CLOSE) for h, (_, path) in zip(headers, files, strict=True)
    )

    def chunks() -> Iterator[bytes]:
        yield head
        for header, (_, path) in zip(headers, files, strict=True):
            yield header
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
            yield _CLOSE.encode()
        yield tail

    media_type = f"multipart/form-data; boundary={boundary}"
    return _Stream(chunks(), after, media_type, {"content-length": str(length)})


def file_reply(path: Path, media_type: str, after: Callable[[], None]) -> FileResponse:
    """Send one file as an attachment under its own name, and call `after` however the sending ends."""
    return _File(path, after, media_type)


class _Stream(StreamingResponse):
    # A background task would not run when the client hangs up, and the result files would stay.
    def __init__(
        self, content: Iterator[bytes], after: Callable[[], None], media_type: str, headers: dict[str, str]
    ) -> None:
        super().__init__(content, media_type=media_type, headers=headers)
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await run_in_threadpool(self._after)


class _File(FileResponse):
    def __init__(self, path: Path, after: Callable[[], None], media_type: str) -> None:
        super().__init__(path, media_type=media_type, filename=path.name)
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await run_in_threadpool(self._after)


def _file_head(boundary: str, name: str, path: Path) -> str:
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
