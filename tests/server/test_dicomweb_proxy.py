"""The proxy to the PACS: what goes through, what comes back, and what is not let through."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from server.dicomweb_proxy import DicomWebProxy
from server.origin_guard import OriginGuard
from server.routes import dicomweb

STORE_TYPE = "multipart/related; type=application/dicom; boundary=x"


class Pacs(ThreadingHTTPServer):
    """Keeps the requests it gets; answers as the last part of the path says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.may_go_on = threading.Event()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"


class Answers(BaseHTTPRequestHandler):
    server: Pacs
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_DELETE = do_GET  # noqa: N815 - the base class's names

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers, body))
        last = self.path.partition("?")[0].rpartition("/")[2]
        if last == "slow":
            self.server.may_go_on.wait(20)
        if last == "pieces":
            self._in_pieces()
            return
        status = int(last) if last.isdigit() else 200
        content = gzip.compress(b'{"compressed": 1}') if last == "compressed" else b'{"answer": 1}'
        self.send_response(status)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("ETag", '"7"')
        self.send_header("Set-Cookie", "session=secret")
        self.send_header("WWW-Authenticate", "Basic")
        self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        if last == "compressed":
            self.send_header("Content-Encoding", "gzip")
        # "cut" announces more than it sends.
        self.send_header("Content-Length", str(len(content) + (100 if last == "cut" else 0)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(content)
        self.close_connection = last == "cut"

    def _in_pieces(self) -> None:
        """The second piece comes only when the test has seen the first."""
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"first")
        self.wfile.flush()
        self.server.may_go_on.wait(20)
        self.wfile.write(b"other")


@contextlib.contextmanager
def proxy_to(stored: Callable[[], None] = lambda: None, **options: Any) -> Iterator[httpx.Client]:
    """A client of a real server that proxies to the PACS with these options."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await app.state.dicomweb.close()

    app = FastAPI(lifespan=lifespan)
    app.state.dicomweb = DicomWebProxy(lambda: options or None, stored)
    app.include_router(dicomweb.router)
    app.add_middleware(OriginGuard, hosts=("127.0.0.1",), origins=())
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def pacs() -> Iterator[Pacs]:
    with Pacs() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.may_go_on.set()
        server.shutdown()


@pytest.fixture(scope="module")
def client(pacs: Pacs) -> Iterator[httpx.Client]:
    with proxy_to(root=pacs.root, auth=("reader", "s3cret"), timeout=5.0) as running:
        yield running


def seen(pacs: Pacs) -> tuple[str, str, dict[str, str], bytes]:
    return pacs.requests[-1]


def test_query_and_accept_reach_the_pacs_as_they_were_sent(pacs: Pacs, client: httpx.Client) -> None:
    query = "PatientName=M%C3%BCl*&includefield=00081030,00080060&limit=25&limit=26&fuzzymatching=false"
    accept = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
    client.get(
        f"/proxy/dicom/studies/1.2/series/3/instances/4/frames/1,2?{query}", headers={"Accept": accept}
    )
    method, path, headers, _ = seen(pacs)
    assert (method, path) == ("GET", f"/dicom-web/studies/1.2/series/3/instances/4/frames/1,2?{query}")
    assert headers["accept"] == accept


def test_credentials_go_to_the_pacs_and_nothing_private_comes_back(pacs: Pacs, client: httpx.Client) -> None:
    answer = client.get("/proxy/dicom/studies", headers={"Cookie": "a=b", "Authorization": "Basic eDp5"})
    headers = seen(pacs)[2]
    assert headers["authorization"] == "Basic cmVhZGVyOnMzY3JldA=="
    assert "cookie" not in headers
    assert not {"set-cookie", "www-authenticate", "location"} & set(answer.headers)
    assert answer.headers["etag"] == '"7"'
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("prefix", ["wado", "qido", "stow"])
def test_addresses_of_the_stock_viewer_lead_to_the_same_root(
    pacs: Pacs, client: httpx.Client, prefix: str
) -> None:
    client.get(f"/proxy/dicom/{prefix}/studies/1.2/metadata")
    assert seen(pacs)[1] == "/dicom-web/studies/1.2/metadata"


@pytest.mark.parametrize("status", [200, 204, 206, 400, 403, 404, 406, 409, 500, 503])
def test_statuses_are_passed_on(client: httpx.Client, status: int) -> None:
    assert client.get(f"/proxy/dicom/studies/{status}").status_code == status


def test_conditional_and_head_requests_are_passed_on(pacs: Pacs, client: httpx.Client) -> None:
    answer = client.get("/proxy/dicom/studies/304", headers={"If-None-Match": '"7"', "Range": "bytes=0-5"})
    assert answer.status_code == 304
    assert (seen(pacs)[2]["if-none-match"], seen(pacs)[2]["range"]) == ('"7"', "bytes=0-5")
    assert client.head("/proxy/dicom/studies").headers["content-length"] == "13"
    assert seen(pacs)[0] == "HEAD"


def test_compressed_answers_are_compressed_only_for_who_reads_them(pacs: Pacs, client: httpx.Client) -> None:
    answer = client.get("/proxy/dicom/studies/compressed", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.json() == {"compressed": 1}
    port = client.base_url.port
    connection = http.client.HTTPConnection("127.0.0.1", port)  # sends "Accept-Encoding: identity"
    connection.request("GET", "/proxy/dicom/studies")
    connection.getresponse().read()
    connection.close()
    assert seen(pacs)[2]["accept-encoding"] == "identity"


def test_stored_objects_arrive_byte_for_byte(pacs: Pacs, client: httpx.Client) -> None:
    body = bytes(range(256)) * 4096
    answer = client.post("/proxy/dicom/studies/1.2", content=body, headers={"Content-Type": STORE_TYPE})
    method, path, headers, stored = seen(pacs)
    assert answer.status_code == 200
    assert (method, path, stored) == ("POST", "/dicom-web/studies/1.2", body)
    assert (headers["content-type"], headers["content-length"]) == (STORE_TYPE, str(len(body)))
    assert "transfer-encoding" not in headers


def test_answer_is_passed_on_while_it_is_still_coming(pacs: Pacs, client: httpx.Client) -> None:
    pacs.may_go_on.clear()
    with client.stream("GET", "/proxy/dicom/studies/pieces") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first"  # the PACS sends no more until this is read
        pacs.may_go_on.set()
        assert b"".join(pieces) == b"other"


@pytest.mark.parametrize(
    "path",
    [
        "../system",
        "studies/../../system",
        "%2e%2e/system",
        "studies/%2e%2e/%2e%2e/system",
        "studies/%252e%252e/system",
        "studies/..%2fsystem",
        "studies%2f..%2f..%2fsystem",
        "studies/..%5c..%5csystem",
        "studies\\..\\system",
        "studies//1.2",
        "studies/1.2/",
        "studies/1.2%0d%0aX-Evil:%201",
        "studies/1.2%00",
        "studies/%C0%AE%C0%AE/system",
        "studies/%EF%BC%8E%EF%BC%8E/system",
        "studies/1.2%3Fx=1",
        "studies/1.2%23x",
        "http://127.0.0.1:9/studies",
        "//127.0.0.1:9/studies",
        "@127.0.0.1:9/studies",
        "servers/other/stow",
        "servers",
        "",
        "wado",
        "wado/../system",
        "wado/wado/studies",
    ],
)
def test_nothing_leads_out_of_the_dicomweb_root(pacs: Pacs, client: httpx.Client, path: str) -> None:
    before = len(pacs.requests)
    connection = http.client.HTTPConnection("127.0.0.1", client.base_url.port)
    connection.putrequest("GET", f"/proxy/dicom/{path}", skip_accept_encoding=True)  # sent as it stands
    connection.endheaders()
    answer = connection.getresponse()
    detail = json.loads(answer.read())["detail"]
    connection.close()
    assert answer.status == 400
    assert detail.endswith(".")
    assert len(pacs.requests) == before


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("DELETE", "studies/1.2", {}, 405),
        ("PUT", "studies/1.2", {}, 405),
        ("POST", "studies/1.2/series", {"Content-Type": STORE_TYPE}, 405),
        ("POST", "studies/1.2", {"Content-Type": "application/json"}, 415),
        ("POST", "studies", {"Content-Type": STORE_TYPE, "Origin": "http://elsewhere.example"}, 403),
    ],
)
def test_only_reading_and_storing_are_passed_on(
    pacs: Pacs, client: httpx.Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    before = len(pacs.requests)
    answer = client.request(method, f"/proxy/dicom/{path}", headers=headers)
    assert answer.status_code == status
    assert len(pacs.requests) == before


@pytest.mark.parametrize(("status", "words"), [(401, "credentials"), (302, "redirect")])
def test_refused_credentials_and_redirects_are_the_servers_own_fault(
    client: httpx.Client, status: int, words: str
) -> None:
    answer = client.get(f"/proxy/dicom/studies/{status}")
    assert answer.status_code == 502
    assert words in answer.json()["detail"]
    assert "s3cret" not in answer.text


def test_answer_cut_short_does_not_look_whole(client: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/proxy/dicom/studies/cut")


def test_silent_pacs_is_said_with_504(pacs: Pacs) -> None:
    pacs.may_go_on.clear()
    with proxy_to(root=pacs.root, timeout=0.3) as client:
        answer = client.get("/proxy/dicom/studies/slow")
    pacs.may_go_on.set()
    assert answer.status_code == 504
    assert "no answer in time" in answer.json()["detail"]


def test_absent_pacs_is_said_with_502() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        root = f"http://127.0.0.1:{unused.getsockname()[1]}/dicom-web"
        with proxy_to(root=root, timeout=5.0) as client:
            answer = client.get("/proxy/dicom/studies")
    assert answer.status_code == 502
    assert "cannot be reached" in answer.json()["detail"]


def test_without_a_pacs_the_reason_is_said() -> None:
    with proxy_to() as client:
        answer = client.get("/proxy/dicom/studies")
    assert answer.status_code == 404
    assert "keeps its images in a folder" in answer.json()["detail"]


def test_what_the_pacs_has_taken_is_told_and_nothing_else(pacs: Pacs) -> None:
    told: list[str] = []
    with proxy_to(lambda: told.append("stored"), root=pacs.root) as client:
        client.get("/proxy/dicom/studies")
        refused = client.post("/proxy/dicom/studies/503", content=b"x", headers={"Content-Type": STORE_TYPE})
        assert (refused.status_code, told) == (503, [])
        client.post("/proxy/dicom/studies/1.2", content=b"x", headers={"Content-Type": STORE_TYPE})
        assert told == ["stored"]
