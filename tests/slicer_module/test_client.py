"""The module's client: what it asks, and the sentence it has for everything that goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from UGMCLAssistLib.client import AssistClient
from UGMCLAssistLib.errors import AssistError, ServerOutOfReach, ServerRefusal
from UGMCLAssistLib.multipart import parts_by_name

from server.multipart import multipart_reply
from tests.server.conftest import free_port
from tests.slicer_module.conftest import Answer, ToldServer


def client(told: ToldServer) -> AssistClient:
    return AssistClient(told.url + "/", " reader-1 ")


def reply_body(tmp_path: Path, files: dict[str, bytes]) -> tuple[str, bytes]:
    """A reply as the server itself writes it."""
    paths = []
    for name, content in files.items():
        path = tmp_path / f"{name}.nrrd"
        path.write_bytes(content)
        paths.append((name, path))
    reply = multipart_reply({"label_names": {"foreground": 1}}, paths, lambda: None)
    body = b""

    async def gather() -> None:
        nonlocal body
        async for chunk in reply.body_iterator:
            body += chunk if isinstance(chunk, bytes) else str(chunk).encode()

    import anyio

    anyio.run(gather)
    return reply.headers["content-type"], body


def test_a_refusal_is_the_servers_own_sentence(told_server: ToldServer, tmp_path: Path) -> None:
    told_server.answers["/infer/ugmcl"] = Answer(409, body=b'{"detail": "No model yet.", "labels_needed": 1}')
    with pytest.raises(ServerRefusal, match=r"^No model yet\.$") as refused:
        client(told_server).segment("case_07", tmp_path)
    assert refused.value.status == 409


def test_a_status_without_a_sentence_is_named(told_server: ToldServer) -> None:
    told_server.answers["/rounds"] = Answer(502, body=b"<html>Bad Gateway</html>")
    with pytest.raises(ServerRefusal, match="status 502"):
        client(told_server).rounds()


def test_a_page_instead_of_json_is_no_server_of_ours(told_server: ToldServer) -> None:
    told_server.answers["/rounds"] = Answer(body=b"<html>Welcome</html>")
    with pytest.raises(ServerOutOfReach, match="is this a server of ugmcl-assist"):
        client(told_server).rounds()


def test_nobody_at_the_address_says_what_to_do() -> None:
    with pytest.raises(ServerOutOfReach, match="start `ugmcl-assist serve`, or correct the address"):
        AssistClient(f"http://127.0.0.1:{free_port()}", "reader-1").next_case()


@pytest.mark.parametrize(("url", "reader"), [("127.0.0.1:8000", "r"), ("http://here", "  ")])
def test_address_and_name_are_checked_before_anything_is_asked(url: str, reader: str) -> None:
    with pytest.raises(AssistError):
        AssistClient(url, reader)


def test_a_scan_keeps_its_ending_and_no_name_from_outside(told_server: ToldServer, tmp_path: Path) -> None:
    told_server.answers["/datastore/image"] = Answer(
        headers={"Content-Disposition": "attachment; filename*=utf-8''..%2F..%2Fcase%C3%A4.NII.GZ"},
        body=b"scan",
    )
    path = client(told_server).download_image("../../x y", tmp_path)
    assert path == tmp_path / "image.nii.gz"
    assert path.read_bytes() == b"scan"
    assert told_server.asked[0][1] == "/datastore/image?image=..%2F..%2Fx+y"


def test_a_download_that_breaks_off_leaves_no_scan(told_server: ToldServer, tmp_path: Path) -> None:
    told_server.answers["/datastore/image"] = Answer(
        headers={"Content-Disposition": 'attachment; filename="a.nrrd"'}, body=b"half", announced=8
    )
    with pytest.raises(ServerOutOfReach):
        client(told_server).download_image("a", tmp_path)
    assert not (tmp_path / "image.nrrd").exists()


def test_segmentation_keeps_label_and_map_apart(told_server: ToldServer, tmp_path: Path) -> None:
    # The separators of a multipart reply may occur in a file.
    kind, body = reply_body(tmp_path, {"image": b"\r\n--label\r\n\r\n", "uncertainty": b"map\r\n"})
    told_server.answers["/infer/ugmcl"] = Answer(headers={"Content-Type": kind}, body=body)
    folder = tmp_path / "results"
    folder.mkdir()
    found = client(told_server).segment("case_07", folder)
    assert found.params["label_names"] == {"foreground": 1}
    assert found.label.read_bytes() == b"\r\n--label\r\n\r\n"
    assert found.uncertainty.read_bytes() == b"map\r\n"


def test_a_reply_without_the_map_is_not_taken(told_server: ToldServer, tmp_path: Path) -> None:
    kind, body = reply_body(tmp_path, {"image": b"label"})
    told_server.answers["/infer/ugmcl"] = Answer(headers={"Content-Type": kind}, body=body)
    with pytest.raises(ServerOutOfReach, match="lacks the part uncertainty"):
        client(told_server).segment("case_07", tmp_path)


def test_a_cut_off_reply_is_noticed_at_every_length(tmp_path: Path) -> None:
    kind, body = reply_body(tmp_path, {"image": b"label", "uncertainty": b"map"})
    assert set(parts_by_name(kind, body)) == {"params", "image", "uncertainty"}
    for length in range(len(body) - len("--\r\n")):
        with pytest.raises(ServerOutOfReach):
            parts_by_name(kind, body[:length])


def test_a_label_is_sent_with_its_reader(told_server: ToldServer, tmp_path: Path) -> None:
    told_server.answers["/datastore/label"] = Answer(body=b'{"image": "a", "label": "a"}')
    (tmp_path / "l.nrrd").write_bytes(b"voxels")
    client(told_server).submit("a", tmp_path / "l.nrrd", {"comment": "edge"})
    method, path, body = told_server.asked[0]
    assert (method, path) == ("PUT", "/datastore/label?image=a&tag=final")
    assert b"voxels" in body
    said = json.loads(body.split(b'name="params"\r\n\r\n')[1].split(b"\r\n")[0])
    assert said == {"comment": "edge", "client_id": "reader-1", "tool": "3D Slicer, UGMCLAssist"}


def test_ids_are_quoted_in_paths(told_server: ToldServer) -> None:
    client(told_server).skip("a/b?c", "motion")
    assert told_server.asked[0][1] == "/leases/a%2Fb%3Fc/skip"
    assert json.loads(told_server.asked[0][2]) == {"client_id": "reader-1", "reason": "motion"}
