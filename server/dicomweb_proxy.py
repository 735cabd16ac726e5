"""The way from a browser to the PACS: DICOMweb requests passed on, and nothing else.

The stock proxy drops the query string and the Accept header, reads whole answers into memory on the event
loop without a time-out, and lets encoded dots out of the DICOMweb root with the server's credentials. This
one keeps the first, streams, and takes only paths that DICOMweb has.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from server.refusal import refuse

logger = logging.getLogger(__name__)

_SEGMENT = re.compile(r"[A-Za-z0-9_,-][A-Za-z0-9._,-]*", re.ASCII)
"""One part of a DICOMweb path: UIDs, words, frame lists and tags. No dots first, nothing encoded."""
_ROOTS = ("studies", "series", "instances", "bulkdata")
# Orthanc has `/dicom-web/servers` beside them, with which it can be told to send studies elsewhere.
_STOCK_PREFIXES = ("wado", "qido", "stow")
"""The stock viewer's configuration names the service in front of the path; one root serves all three."""
_STORE = re.compile(r"studies(/[0-9.]+)?", re.ASCII)

_ASKED = ("accept", "accept-encoding", "if-none-match", "if-modified-since", "range")
_SENT = ("content-type", "content-length", "content-encoding")
_ANSWERED = (
    "content-type",
    "content-length",
    "content-encoding",
    "content-range",
    "accept-ranges",
    "etag",
    "last-modified",
    "retry-after",
    "vary",
    "warning",
)
"""What is passed on; cookies and the PACS's demand for a password are not."""
_GUARDED = {
    # What a PACS holds may be HTML or SVG; opened by itself it must not act with this server's rights.
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
NO_PACS = "This server keeps its images in a folder; there is no DICOMweb server behind it to ask."


class DicomWebProxy:
    """Passes requests on to the PACS of the running app.

    Args:
        connection: Gives `root` (the DICOMweb root without a closing slash) and the remaining arguments of
            `httpx.AsyncClient` (credentials, TLS, time-outs); None where images do not come from a PACS.
        stored: Called when the PACS has taken an object.
    """

    def __init__(
        self, connection: Callable[[], Mapping[str, Any] | None], stored: Callable[[], None] = lambda: None
    ) -> None:
        self._connection, self._stored = connection, stored
        self._client: httpx.AsyncClient | None = None
        self._root = httpx.URL()

    async def close(self) -> None:
        """End all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def forward(self, request: Request, path: str) -> Response:
        """Answer with what the PACS says to the same request under its root.

        Raises:
            HTTPException: 400 for a path DICOMweb does not have, 404 without a PACS, 405 for a POST elsewhere
                than to store, 415 for a body that is no DICOM, 502 and 504 when the PACS cannot be asked.
        """
        inside = dicomweb_path(path)
        is_store = request.method == "POST"
        if is_store:
            _check_store(inside, request.headers.get("content-type", ""))
        client = self._connected()
        raw = self._root.raw_path.rstrip(b"/") + b"/" + inside.encode("ascii")
        query = request.scope.get("query_string", b"")
        outgoing = client.build_request(
            request.method,
            self._root.copy_with(raw_path=raw + (b"?" + query if query else b"")),
            headers=_outgoing_headers(request, is_store),
            content=request.stream() if is_store else None,
        )
        answer = await self._answer(client, outgoing)
        if is_store and answer.status_code < 300:
            self._stored()
        return answer

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            options = self._connection()
            if options is None:
                refuse(404, NO_PACS)
            # A redirect could carry credentials and patients elsewhere; the settings name the address.
            options = {**options, "follow_redirects": False, "trust_env": False}
            self._root = httpx.URL(options.pop("root"))
            self._client = httpx.AsyncClient(**options)
        return self._client

    async def _answer(self, client: httpx.AsyncClient, outgoing: httpx.Request) -> Response:
        place = f"The PACS at {self._root}"
        try:
            answer = await client.send(outgoing, stream=True)
        except httpx.TimeoutException:
            refuse(504, f"{place} gave no answer in time; try again, or look whether it is busy.")
        except httpx.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                reason = str(error).rpartition("certificate verify failed: ")[2].partition(" (_ssl")[0]
                refuse(
                    502,
                    f"{place} shows a certificate that is not trusted ({reason.rstrip('.')}); the server "
                    "needs the file of its authority as pacs_ca_file.",
                )
            refuse(502, f"{place} cannot be reached; look whether it runs, or correct the PACS settings.")
        except httpx.HTTPError:
            refuse(502, f"{place} broke off its answer; try again.")
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is left to read it
        status = answer.status_code
        if status in (401, 407) or (300 <= status < 400 and status != 304):
            await answer.aclose()
            refuse(502, f"{place} {_unusable(status)}")
        headers = {name: answer.headers[name] for name in _ANSWERED if name in answer.headers}
        return StreamingResponse(_pieces(answer), status, {**headers, **_GUARDED})


def dicomweb_path(path: str) -> str:
    """The path inside the DICOMweb root that a request means.

    Raises:
        HTTPException: 400 for anything that is not a plain path of DICOMweb: empty, climbing, encoded.
    """
    parts = path.split("/")
    if len(parts) > 1 and parts[0] in _STOCK_PREFIXES:
        parts = parts[1:]
    if parts[0] not in _ROOTS or not all(_SEGMENT.fullmatch(part) for part in parts):
        refuse(
            400,
            f"This is no path of DICOMweb: it starts with one of {', '.join(_ROOTS)} and holds UIDs and "
            "plain words, as in studies/1.2.3/series.",
        )
    return "/".join(parts)


def _check_store(inside: str, content_type: str) -> None:
    if not _STORE.fullmatch(inside):
        refuse(405, "Only storing takes a POST: studies, or studies/ and a StudyInstanceUID.")
    if not content_type.lower().startswith("multipart/related"):
        refuse(415, "Objects are stored as multipart/related (STOW-RS); the Content-Type names another type.")


def _outgoing_headers(request: Request, is_store: bool) -> dict[str, str]:
    names = (*_ASKED, *_SENT) if is_store else _ASKED
    headers = {name: request.headers[name] for name in names if name in request.headers}
    headers.setdefault("accept", "*/*")
    # The answer is passed on as it came, so the PACS may use only what the browser said it can read.
    headers.setdefault("accept-encoding", "identity")
    return headers


def _unusable(status: int) -> str:
    if status in (401, 407):
        return f"refuses this server's credentials ({status}); check user, password or token in its settings."
    return f"answered with a redirect ({status}); give its final address in the PACS settings."


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The answer's bytes as they come, still compressed if they were."""
    try:
        async for piece in answer.aiter_raw():
            yield piece
    except httpx.HTTPError as error:
        # The head is sent: only a closed connection tells the browser that the rest is missing.
        logger.warning("the PACS broke off an answer in the middle (%s)", type(error).__name__)
        raise
    finally:
        await answer.aclose()
