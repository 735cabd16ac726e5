"""The OHIF viewer below /ohif/: its pages, our configuration, our modules; and how its pages come there."""

from __future__ import annotations

import http.client
import importlib
import io
import json
import re
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from server.ohif_pages import app_config
from server.routes.ohif import ohif_router
from server.settings import ServerSettings

ROOT = Path(__file__).resolve().parents[2]
INDEX = (
    '<!doctype html><html><head><script>window.PUBLIC_URL="/"</script><link href="/app.css" rel="stylesheet">'
    '<script defer src="/app.bundle.0123456789abcdef.js"></script></head><body></body></html>'
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("viewer") / "pages"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(INDEX)
    (folder / "app.css").write_text("a{src:url(/font.woff2)} b{src:url(data:x)} c{src:url(//x)}")
    (folder / "app.bundle.0123456789abcdef.js").write_text("let viewer;")
    (folder / "0123456789abcdef.wasm").write_bytes(b"\0asm")
    (folder / "assets" / "images.json").write_text("{}")
    (folder / "app-config.js").write_text("the package's own")
    (folder / ".ugmcl-version").write_text("hidden")
    (folder.parent / "secret.txt").write_text("secret")
    (folder / "way-out.txt").symlink_to(folder.parent / "secret.txt")
    app = FastAPI()
    app.include_router(ohif_router(folder))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as running:
            yield running
        server.should_exit = True
        thread.join(20)


@pytest.mark.parametrize(
    "path", ["", "viewer", "ugmcl?StudyInstanceUIDs=1.2.3", "viewer/dicomweb", "index.html"]
)
def test_every_address_of_the_viewers_own_is_its_page(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/ohif/{path}")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text == INDEX
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("path", "kind", "cache"),
    [
        ("app.bundle.0123456789abcdef.js", "text/javascript", "immutable"),
        ("0123456789abcdef.wasm", "application/wasm", "immutable"),
        ("assets/images.json", "application/json", "no-cache"),
        ("app.css", "text/css", "no-cache"),
        ("app-config.js", "text/javascript", "no-cache"),
        ("ugmcl/extension.js", "text/javascript", "no-cache"),
        ("ugmcl/mode.js", "text/javascript", "no-cache"),
    ],
)
def test_files_have_their_type_and_may_be_kept_as_long_as_they_hold(
    client: httpx.Client, path: str, kind: str, cache: str
) -> None:
    answer = client.get(f"/ohif/{path}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == kind
    assert cache in answer.headers["cache-control"]
    assert "connect-src 'self' data: blob:;" in answer.headers["content-security-policy"]


def package(folder: Path, files: dict[str, str]) -> Path:
    """An npm package with these files."""
    archive = folder / "package.tgz"
    with tarfile.open(archive, "w:gz") as made:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            made.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("package/dist/link.js")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        made.addfile(link)
    return archive


def test_fetched_pages_are_moved_below_the_mount_and_nothing_else_is_unpacked(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "buildtools"))
    fetch_ohif = importlib.import_module("fetch_ohif")
    sys.path.pop(0)
    archive = package(
        tmp_path,
        {
            "package/package.json": "{}",
            "package/dist/index.html": INDEX,
            "package/dist/app.css": "a{src:url(/font.woff2)} b{src:url(data:x)} c{src:url(//x)}",
            "package/dist/app.bundle.0123456789abcdef.js": '__webpack_require__.p = "/"; other.p = "/";',
            "package/dist/ort/large.wasm": "x",
            "package/dist/../../escaped.js": "x",
            "/package/dist/absolute.js": "x",
        },
    )
    pages = tmp_path / "pages"
    fetch_ohif.unpack(archive, pages)
    files = {str(path.relative_to(pages)): path.read_text() for path in pages.rglob("*") if path.is_file()}
    assert sorted(files) == ["app.bundle.0123456789abcdef.js", "app.css", "index.html"]
    assert files["app.css"] == "a{src:url(/ohif/font.woff2)} b{src:url(data:x)} c{src:url(//x)}"
    assert files["app.bundle.0123456789abcdef.js"] == '__webpack_require__.p = "/ohif/"; other.p = "/";'
    assert '<head><base href="/ohif/">' in files["index.html"]
    assert 'window.PUBLIC_URL="/ohif/"' in files["index.html"]
    assert 'href="/ohif/app.css"' in files["index.html"]
    assert 'src="/ohif/app.bundle.0123456789abcdef.js"' in files["index.html"]
    assert not (tmp_path / "escaped.js").exists()


@pytest.mark.parametrize(
    "path",
    [
        "missing.js",
        "ugmcl/missing.js",
        "../secret.txt",
        "%2e%2e/secret.txt",
        "assets/..%2f..%2fsecret.txt",
        "ugmcl/../../settings.py",
        "ugmcl/%2e%2e/settings.py",
        "/etc/hostname.txt",
        "%2fetc%2fhosts.txt",
        "way-out.txt",
        ".ugmcl-version",
        "x%00.js",
    ],
)
def test_files_outside_and_absent_ones_are_not_served(client: httpx.Client, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.base_url.port)
    connection.putrequest("GET", f"/ohif/{path}")  # sent as it stands
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, b"detail" in answer.read()) == (404, True)
    connection.close()


def test_configuration_is_ours_and_names_the_proxy(client: httpx.Client) -> None:
    served = client.get("/ohif/app-config.js").text
    assert served == app_config()
    config = json.loads(re.search(r"window\.config = (\{.*?\n\});", served, re.DOTALL)[1])  # type: ignore[index]
    source = config["dataSources"][0]["configuration"]
    assert (source["qidoRoot"], source["wadoRoot"]) == ("/proxy/dicom", "/proxy/dicom")
    assert config["modes"] == ["/ohif/ugmcl/mode.js"]


def test_folder_without_a_viewer_is_refused_and_none_means_the_stock_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no OHIF viewer"):
        ServerSettings(ohif=tmp_path)
    (tmp_path / "index.html").write_text(INDEX)
    assert ServerSettings(ohif=tmp_path).ohif_folder() == tmp_path
