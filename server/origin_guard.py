"""ASGI guard: who may call. A server without authentication must not be driven by any web page one has open.

Three doors are closed: host names that are not ours (DNS rebinding), requests that change something and come
from another origin's page, and paths that try to climb.
"""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_READING = ("GET", "HEAD", "OPTIONS")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class OriginGuard:
    """Refuses unknown `Host` headers and climbing paths (400), and changes asked by a foreign page (403).

    Args:
        app: The application behind.
        hosts: Accepted host names, lower case, without port or brackets.
        origins: Accepted `Origin` values besides the server's own, lower case.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await JSONResponse({"detail": refusal[1]}, refusal[0])(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_ours(host_name(hosts[0]), scope):
            return 400, (
                f"The Host header names {_quoted(hosts)}, not this server; allowed: "
                f"{', '.join(sorted(self._hosts))}. Add a name with --allow-host."
            )
        if is_unsafe_path(scope["path"]):
            return 400, (
                f"The path {_quoted([scope['path']])} holds '..', '//', a backslash or a control character; "
                "give plain names."
            )
        if scope.get("method", "GET") in _READING:
            return None
        for origin in (value.decode("latin-1").lower() for name, value in headers if name == b"origin"):
            if origin not in self._origins and not is_same_origin(origin, scope["scheme"], hosts[0]):
                return 403, (
                    f"A page from {_quoted([origin])} may not change anything here. "
                    "Start the server with --allow-origin and that origin if it should."
                )
        return None

    def _is_ours(self, name: str, scope: Scope) -> bool:
        if name in self._hosts:
            return True
        # The address the client connected to is ours by definition, and no DNS name can pretend to be it.
        local = (scope.get("server") or ("", 0))[0]
        return name == local and _is_address(local)


def host_name(header: str) -> str:
    """The name in a `Host` header: without port, brackets or a trailing dot, lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower().rstrip(".")


def is_same_origin(origin: str, scheme: str, host: str) -> bool:
    """Whether an `Origin` header names the server that the `Host` header names."""
    try:
        given, own = urlsplit(origin), urlsplit(f"{scheme}://{host}".lower())
        return (given.scheme, given.hostname, given.port or _DEFAULT_PORTS.get(given.scheme)) == (
            own.scheme,
            own.hostname,
            own.port or _DEFAULT_PORTS.get(own.scheme),
        )
    except ValueError:
        return False


def is_unsafe_path(path: str) -> bool:
    """Whether a decoded request path climbs, skips a segment or holds what no name here holds."""
    if "//" in path or "\\" in path or any(unicodedata.category(character) == "Cc" for character in path):
        return True
    return any(segment in (".", "..") for segment in path.split("/"))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _quoted(values: list[str]) -> str:
    shown = [
        "".join(character if character.isprintable() else "?" for character in value[:80]) for value in values
    ]
    return "'" + "', '".join(shown) + "'" if shown else "nothing"
