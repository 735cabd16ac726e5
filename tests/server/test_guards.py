"""Who may call, how much they may send, and what is said when something breaks."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Form, UploadFile
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from server import refusal
from server.body_limit import BodyLimit
from server.log_setup import NamelessFormatter
from server.origin_guard import OriginGuard, host_name, is_same_origin, is_unsafe_path
from server.request_log import RequestLog

LIMIT = 1000
ALLOWED = "http://viewer.example:3000"


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    refusal.install(app)

    @app.get("/cases/{case}")
    def case(case: str, number: int = 1) -> dict[str, str]:
        if case == "broken":
            raise RuntimeError("Jane Doe could not be read")
        return {"case": case}

    @app.put("/upload")
    def upload(file: UploadFile, params: str = Form("{}")) -> dict[str, int]:
        return {"bytes": len(file.file.read())}

    @app.post("/body")
    def body(params: dict[str, int]) -> dict[str, int]:
        return params

    app.add_middleware(BodyLimit, limit=LIMIT)
    app.add_middleware(OriginGuard, hosts={"127.0.0.1", "localhost"}, origins=[ALLOWED])
    app.add_middleware(RequestLog)
    return TestClient(app, base_url="http://127.0.0.1:8000")


def sentence(response: object) -> str:
    detail = response.json()["detail"]  # type: ignore[attr-defined]
    assert isinstance(detail, str)
    assert detail.endswith(".")
    return detail


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil", "[::2]"])
def test_unknown_host_headers_are_refused(client: TestClient, host: str) -> None:
    answer = client.get("/cases/a", headers={"host": host})
    assert answer.status_code == 400
    assert "--allow-host" in sentence(answer)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9999", "LOCALHOST", "localhost."])
def test_own_host_names_are_served_on_any_port(client: TestClient, host: str) -> None:
    assert client.get("/cases/a", headers={"host": host}).status_code == 200


def test_ipv6_host_header_is_read_without_brackets_and_port() -> None:
    assert host_name("[::1]:8000") == "::1"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8000", "http://127.0.0.1:8001"]
)
def test_a_foreign_page_may_not_change_anything(client: TestClient, origin: str) -> None:
    answer = client.post("/body", json={}, headers={"origin": origin})
    assert answer.status_code == 403
    sentence(answer)


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", ALLOWED])
def test_our_own_page_and_listed_origins_may(client: TestClient, origin: str) -> None:
    assert client.post("/body", json={"a": 1}, headers={"origin": origin}).status_code == 200


def test_a_foreign_page_that_only_reads_gets_no_permission_to_see_the_answer(client: TestClient) -> None:
    answer = client.get("/cases/a", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "host"), [("http://a", "a:80"), ("HTTP://A:80", "a"), ("http://[::1]:1", "[::1]:1")]
)
def test_default_ports_count_as_the_same_origin(origin: str, host: str) -> None:
    assert is_same_origin(origin.lower(), "http", host)


@pytest.mark.parametrize("path", ["/a/../b", "/..", "//etc", "/a//b", "/a\\b", "/a\0", "/./a"])
def test_climbing_paths_are_unsafe(path: str) -> None:
    assert is_unsafe_path(path)


def test_an_encoded_climbing_path_is_refused(client: TestClient) -> None:
    assert client.get("/cases/..%2F..%2Fetc%2Fpasswd").status_code == 400


def test_a_body_above_the_announced_limit_is_413(client: TestClient) -> None:
    answer = client.put("/upload", files={"file": ("a.nii", b"x" * (LIMIT + 1))})
    assert answer.status_code == 413
    assert "--max-body-mib" in sentence(answer)


def chunks(count: int) -> Iterator[bytes]:
    yield b'{"a": 1'
    for _ in range(count):
        yield b" " * 100
    yield b"}"


@pytest.mark.parametrize(("count", "status"), [(5, 200), (50, 413)])
def test_a_streamed_body_is_counted(client: TestClient, count: int, status: int) -> None:
    answer = client.post("/body", content=chunks(count), headers={"content-type": "application/json"})
    assert answer.status_code == status


def test_a_form_streamed_without_its_length_is_counted(client: TestClient) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.nii"\r\n\r\n'
    parts = (part for part in [head, *[b"x" * 100] * 20, b"\r\n--b--\r\n"])
    answer = client.put("/upload", content=parts, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    sentence(answer)


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda c: c.get("/nowhere"), 404),
        (lambda c: c.delete("/cases/a"), 405),
        (lambda c: c.get("/cases/a?number=many"), 422),
        (lambda c: c.put("/upload"), 422),
        (lambda c: c.post("/body", content="{bad", headers={"content-type": "application/json"}), 400),
        (lambda c: c.post("/body", json=[1, 2]), 400),
        (lambda c: c.get("/cases/broken"), 500),
    ],
)
def test_every_error_is_one_sentence(
    client: TestClient, call: Callable[[TestClient], object], status: int
) -> None:
    answer = call(client)
    assert answer.status_code == status  # type: ignore[attr-defined]
    sentence(answer)


def test_a_failure_is_logged_with_its_place_and_without_what_it_said(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "server.request_log"):
        answer = client.get("/cases/broken")
    assert "Jane" not in caplog.text + answer.text
    assert "RuntimeError at" in caplog.text
    assert "/cases/{case}" in caplog.text


def test_requests_are_logged_by_route_not_by_case(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "server.request_log"):
        client.get("/cases/Jane_Doe?number=3")
    assert "Jane" not in caplog.text
    assert "GET /cases/{case} -> 200" in caplog.text


def test_a_validation_error_does_not_repeat_the_body(client: TestClient) -> None:
    assert "Jane" not in client.post("/body", json={"name": "Jane Doe"}).text


def test_extra_keys_of_a_refusal_are_kept_beside_the_sentence() -> None:
    error = HTTPException(409, detail="No model yet.")
    assert refusal.error_body(error.detail, {"labeled": 0}) == {"detail": "No model yet.", "labeled": 0}
    assert (
        json.dumps(refusal.error_body({"detail": "No.", "labels_needed": 2}))
        == '{"detail": "No.", "labels_needed": 2}'
    )


def test_an_exception_in_the_log_does_not_name_the_file_it_failed_on() -> None:
    try:
        Path("/scans/Jane_Doe.nii.gz").read_bytes()
    except OSError:
        record = logging.LogRecord("lib", logging.ERROR, __file__, 1, "It failed.", (), sys.exc_info())
    written = NamelessFormatter("%(message)s").format(record)
    assert "FileNotFoundError at" in written
    assert "Jane" not in written
