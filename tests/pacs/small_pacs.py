"""A small DICOMweb server in this process that can be told to fail: real HTTP, a store in memory."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom
from pydicom.dataset import Dataset

from lib.pacs.multipart import boundary_of, dicom_body, read_parts
from tests.dicom.phantom_series import encoded


class SmallPacs(ThreadingHTTPServer):
    """The store and the faults.

    Attributes:
        objects: Files by SOPInstanceUID.
        faults: What the next requests meet, one each, first those whose path contains the key:
            a status, `cut` (half the body), `drop` (no answer), `alter` (pixels cut), `other` (a series).
        requests: `(method, path, status)` of each request.
        credentials: The `Authorization` header asked for, or empty.
        tags: Whether listings carry an ETag.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.objects: dict[str, bytes] = {}
        self.faults: list[tuple[str, int | str]] = []
        self.requests: list[tuple[str, str, int]] = []
        self.credentials, self.tags = "", True
        self.refuse_uids: set[str] = set()
        self.headers_of: list[dict[str, str]] = []
        self.searches: list[dict[str, list[str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"

    def add(self, instances: list[Dataset]) -> None:
        self.objects.update({str(dataset.SOPInstanceUID): encoded(dataset) for dataset in instances})

    def fault(self, path: str) -> int | str | None:
        for index, (key, fault) in enumerate(self.faults):
            if key in path:
                del self.faults[index]
                return fault
        return None

    def parsed(self) -> list[Dataset]:
        return [pydicom.dcmread(io.BytesIO(content)) for content in self.objects.values()]


class Requests(BaseHTTPRequestHandler):
    """QIDO-RS, WADO-RS and STOW-RS as far as the tests need them."""

    server: SmallPacs
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path.removeprefix("/dicom-web"), parse_qs(urlsplit(self.path).query)
        if self._stopped(path):
            return
        if path == "/series":
            self.server.searches.append(query)
            self._search(path, query, self._series(query["Modality"][0]))
        elif path.endswith("/instances"):
            uid = path.split("/")[4]
            found = [
                {"00080018": {"Value": [u]}} for u, d in self._by_uid().items() if d.SeriesInstanceUID == uid
            ]
            self._search(path, query, found)
        else:
            self._retrieve(path)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path.removeprefix("/dicom-web")
        if self._stopped(path):
            return
        answer: dict[str, Any] = {"00081198": {"Value": []}, "00081199": {"Value": []}}
        for content in read_parts([body], boundary_of(self.headers["Content-Type"])):
            uid = str(pydicom.dcmread(io.BytesIO(content)).SOPInstanceUID)
            item: dict[str, Any] = {"00081155": {"Value": [uid]}}
            if uid in self.server.refuse_uids:
                answer["00081198"]["Value"].append({**item, "00081197": {"Value": [0x0110]}})
            else:
                self.server.objects[uid] = content
                answer["00081199"]["Value"].append(item)
        status = 409 if answer["00081198"]["Value"] else 200
        self._answer(path, status, json.dumps(answer).encode(), {"Content-Type": "application/dicom+json"})

    def _stopped(self, path: str) -> bool:
        self.server.headers_of.append(dict(self.headers))
        if self.server.credentials and self.headers.get("Authorization") != self.server.credentials:
            self._answer(path, 401, b"who are you?")
            return True
        self.fault = self.server.fault(path)
        if isinstance(self.fault, int):
            self._answer(path, self.fault, b"", {"Location": "http://127.0.0.1:9/elsewhere"})
            return True
        if self.fault == "drop":
            self.server.requests.append((self.command, path, 0))
            self.close_connection = True
            self.connection.close()
            return True
        return False

    def _search(self, path: str, query: dict[str, list[str]], found: list[dict[str, Any]]) -> None:
        offset, limit = int(query["offset"][0]), int(query["limit"][0])
        body = json.dumps(found[offset : offset + limit]).encode()
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        if self.server.tags and self.headers.get("If-None-Match") == tag:
            self._answer(path, 304, b"", {"ETag": tag})
            return
        headers = {"ETag": tag} if self.server.tags else {}
        self._answer(path, 200, body, {"Content-Type": "application/dicom+json", **headers})

    def _retrieve(self, path: str) -> None:
        parts = path.split("/")
        found = [
            content
            for uid, content in self.server.objects.items()
            if self._by_uid()[uid].SeriesInstanceUID == parts[4] and (len(parts) < 7 or parts[6] == uid)
        ]
        if not found:
            self._answer(path, 404, b"")
            return
        if self.fault == "alter":
            found[0] = found[0][:-30]
        if self.fault == "other":
            dataset = pydicom.dcmread(io.BytesIO(found[0]))
            dataset.SeriesInstanceUID = "1.2.3"
            found[0] = encoded(dataset)
        body, content_type = dicom_body(found)
        self._answer(path, 200, body, {"Content-Type": content_type}, cut=self.fault == "cut")

    def _series(self, modality: str) -> list[dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = {}
        for dataset in self._by_uid().values():
            if modality == dataset.Modality:
                uid = str(dataset.SeriesInstanceUID)
                entry = entries.setdefault(uid, {"00201209": {"Value": [0]}})
                entry["00201209"]["Value"][0] += 1
                entry["0020000E"], entry["0020000D"] = (
                    {"Value": [uid]},
                    {"Value": [str(dataset.StudyInstanceUID)]},
                )
                entry["00080060"] = {"Value": [str(dataset.Modality)]}
        return [entries[uid] for uid in sorted(entries)]

    def _by_uid(self) -> dict[str, Dataset]:
        return {
            uid: pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
            for uid, content in self.server.objects.items()
        }

    def _answer(
        self, path: str, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        self.server.requests.append((self.command, path, status))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        else:
            self.wfile.write(body)


@contextmanager
def small_pacs() -> Iterator[SmallPacs]:
    """A running one on a free port."""
    with SmallPacs() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
