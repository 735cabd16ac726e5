"""The multipart reply, read by the stock client's own parser."""

import asyncio
from email.message import Message
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from monailabel.client.client import MONAILabelUtils

from server.multipart import file_reply, multipart_reply


def send(response: Any) -> tuple[dict[str, str], bytes]:
    sent: list[dict[str, Any]] = []

    async def collect(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(10)
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": "POST",
        "headers": [],
        "asgi": {"spec_version": "2.4"},
        "extensions": {},
    }
    asyncio.run(response(scope, receive, collect))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return headers, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    label, uncertainty = tmp_path / "label.nrrd", tmp_path / "map.nrrd"
    label.write_bytes(b"NRRD\r\n--label" * 50_000)
    uncertainty.write_bytes(b"\x00\r\n\x01" * 1000)
    return label, uncertainty


def test_the_stock_client_reads_params_then_the_label_first(files: tuple[Path, Path]) -> None:
    reply = multipart_reply({"score": 0.5}, [("image", files[0]), ("uncertainty", files[1])], lambda: None)
    headers, body = send(reply)
    message = Message()
    message["content-type"] = headers["content-type"]
    form, found = MONAILabelUtils.parse_multipart(BytesIO(body), message)
    assert form == {"params": '{"score": 0.5}'}
    assert list(found) == ["label.nrrd", "map.nrrd"]
    assert [found[name] for name in found] == [file.read_bytes() for file in files]


def test_the_announced_length_is_exact(files: tuple[Path, Path]) -> None:
    headers, body = send(multipart_reply({}, [("image", files[0])], lambda: None))
    assert int(headers["content-length"]) == len(body)


@pytest.mark.parametrize("kind", ["multipart", "file"])
def test_result_files_are_removed_also_when_the_client_hangs_up(kind: str, files: tuple[Path, Path]) -> None:
    def remove() -> None:
        files[0].unlink()

    reply = (
        multipart_reply({}, [("image", files[0])], remove)
        if kind == "multipart"
        else file_reply(files[0], "a/b", remove)
    )

    async def gone(message: object) -> None:
        raise OSError

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def run() -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "headers": [],
            "asgi": {"spec_version": "2.4"},
            "extensions": {},
        }
        await reply(scope, receive, gone)  # type: ignore[arg-type]

    with pytest.raises(Exception):  # noqa: B017, PT011 - which one is the framework's business
        asyncio.run(run())
    assert not files[0].exists()


def test_numbers_that_json_cannot_carry_are_not_sent(files: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="JSON"):
        multipart_reply({"score": float("nan")}, [("image", files[0])], lambda: None)
