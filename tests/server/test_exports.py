"""Exports through HTTP: asked for, followed, downloaded as they are made, and removed."""

import gzip
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests

from server import folder_zip
from tests.server.conftest import Server


def test_a_folder_is_a_zip_that_any_program_opens(tmp_path: Path) -> None:
    folder = tmp_path / "20260131-093000-3fa1c2"
    (folder / "labels").mkdir(parents=True)
    packed = gzip.compress(random.Random(0).randbytes(700_000))
    contents = {"labels/ä b.nii.gz": packed, "dataset.json": b"{}" * 500_000, "empty.csv": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    parts = list(folder_zip.chunks(folder))
    assert max(len(part) for part in parts) < 2 * folder_zip.CHUNK
    assert len(parts) > 3
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        assert archive.testzip() is None
        assert {n: archive.read(f"{folder.name}/{n}") for n in contents} == contents
        assert archive.namelist() == sorted(archive.namelist())
        assert archive.getinfo(f"{folder.name}/dataset.json").compress_size < 10_000


def follow(server: Server, found: object, what: str = "exports") -> list[dict[str, Any]]:
    with server.get(f"/{what}/{found}/events", stream=True) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines(decode_unicode=True) if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_an_export_is_asked_for_followed_downloaded_and_removed(server: Server) -> None:
    answer = server.post("/exports", json={"layout": "monailabel", "cases": server.cases[:2]})
    assert answer.status_code == 200, answer.text
    export_id = answer.json()["id"]
    last = follow(server, export_id)[-1]
    assert (last["status"], last["ended"]) == ("done", True)
    found = server.get(f"/exports/{export_id}").json()
    assert found in server.get("/exports").json()["exports"]
    assert found["progress"] == {"written": 2, "cases": 2, "left_out": 0}
    [job] = [job for job in server.get("/jobs").json()["jobs"] if job["id"] == found["job"]]
    assert (job["kind"], job["status"], job["request"]["export"]) == ("export", "done", export_id)
    assert server.get(f"/jobs/{job['id']}").json() == job
    assert follow(server, job["id"], "jobs")[-1]["ended"]
    for step in ("cancel", "pause", "resume"):
        answer = server.post(f"/jobs/{job['id']}/{step}")
        assert answer.status_code == 409
        assert f"The export {export_id} is done and cannot be" in answer.json()["detail"]

    answer = server.get(f"/exports/{export_id}/archive")
    assert answer.headers["content-disposition"] == f'attachment; filename="export-{export_id}.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = {name.removeprefix(f"{export_id}/") for name in archive.namelist()}
        stock = json.loads(archive.read(f"{export_id}/datastore_v2.json"))
        for case in server.cases[:2]:
            kept = Path(found["folder"]) / "labels" / "final" / f"{case}.nii.gz"
            assert archive.read(f"{export_id}/labels/final/{case}.nii.gz") == kept.read_bytes()
    scans = [f"{case}.nii.gz" for case in server.cases[:2]]
    labels = [f"labels/final/{scan}" for scan in scans]
    assert names == {"datastore_v2.json", "history.csv", *scans, *labels}
    assert list(stock["objects"]) == server.cases[:2]

    assert requests.delete(f"{server.url}/exports/{export_id}", timeout=60).status_code == 200
    assert not Path(found["folder"]).exists()
    assert server.get(f"/exports/{export_id}/archive").status_code == 404
    assert server.get(f"/exports/{export_id}").json()["folder"] is None


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"layout": "bids"}, 422, "layout"),
        ({"layuot": "folder"}, 422, "layuot"),
        ({"cases": []}, 422, "cases"),
        ({"cases": ["nobody"]}, 404, "no image 'nobody'"),
        ({"cases": ["case_04"]}, 409, "1 of the chosen cases, such as 'case_04'"),
        ({"layout": "monailabel", "images": "none"}, 422, "together with its images"),
        ([], 400, "JSON object"),
    ],
)
def test_what_cannot_be_exported_is_refused(server: Server, body: Any, status: int, words: str) -> None:
    before = server.get("/exports").json()
    answer = server.post("/exports", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert server.get("/exports").json() == before


def test_an_unknown_export_is_404_on_every_route(server: Server) -> None:
    for path in ("", "/events", "/archive"):
        assert server.get(f"/exports/20260131-093000-000000{path}").status_code == 404
    for step in ("cancel", "pause", "resume"):
        answer = server.post(f"/exports/20260131-093000-000000/{step}")
        assert answer.status_code == 404
        assert "GET /exports lists them" in answer.json()["detail"]
    gone = requests.delete(f"{server.url}/exports/20260131-093000-000000", timeout=60)
    assert gone.status_code == 404


def test_an_unknown_job_is_404_on_every_route(server: Server) -> None:
    for path in ("", "/events"):
        answer = server.get(f"/jobs/999999{path}")
        assert (answer.status_code, "GET /jobs lists them" in answer.json()["detail"]) == (404, True)
    for step in ("cancel", "pause", "resume"):
        assert server.post(f"/jobs/999999/{step}").status_code == 404
    assert server.get("/jobs/first").status_code == 422
    assert server.get("/jobs/99999999999999999999").status_code == 422


def test_nothing_to_export_is_a_409(empty_server: Server) -> None:
    answer = empty_server.post("/exports")
    assert (answer.status_code, "no image has a final label" in answer.json()["detail"]) == (409, True)
