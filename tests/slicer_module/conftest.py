"""The parts of the Slicer module that need no Slicer, and a small server that answers as it is told."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "apps" / "ugmcl_app" / "slicer"
# As Slicer does with the folder of a scripted module.
if str(MODULE) not in sys.path:
    sys.path.append(str(MODULE))


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    announced: int | None = None
    """Content-Length, where it is not that of the body."""


@dataclass
class ToldServer:
    """Answers by path, and keeps what was asked."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)


@pytest.fixture
def told_server() -> Iterator[ToldServer]:
    told = ToldServer()

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told.asked.append((self.command, self.path, body))
            answer = told.answers.get(self.path.partition("?")[0], Answer())
            self.send_response(answer.status)
            length = len(answer.body) if answer.announced is None else answer.announced
            for name, value in {**answer.headers, "Content-Length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = reply  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield told
    server.shutdown()
    server.server_close()
    thread.join()
