"""Bad input: answered with a sentence and the right status, and nothing changed on disk."""

import gzip
import io
import json
import threading
from collections.abc import Callable

import nibabel as nib
import numpy as np
import pytest
import requests

from tests.server.conftest import SHAPE, Server, phantom

DEEP = '{"a": ' + "[" * 100_000
CLIMBING = ["../../etc/passwd", "/etc/hostname", "..\\x", "._case", "a%00b", "x" * 300]


def nifti(array: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    _, _, own = phantom(3)
    return gzip.compress(nib.Nifti1Image(array, own if affine is None else affine).to_bytes())


def label_file(content: bytes, name: str = "label.nii.gz") -> dict[str, tuple[str, io.BytesIO]]:
    return {"label": (name, io.BytesIO(content))}


def refused(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, (answer.status_code, answer.text[:500])
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    assert "Traceback" not in detail
    return str(detail)


@pytest.fixture
def unchanged(server: Server) -> object:
    """The project's files are the same after the test as before, and there is no further round."""
    before, rounds = server.files(), server.get("/rounds").json()
    yield server
    assert server.files() == before
    assert server.get("/rounds").json() == rounds


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/infer/ugmcl?image=nothing", 404),
        ("POST", "/infer/deepedit?image=case_03", 404),
        ("POST", "/infer/ugmcl", 422),
        ("POST", "/infer/ugmcl?image=case_03&output=dicom_seg", 422),
        ("POST", "/infer/ugmcl?session_id=nothing", 404),
        ("GET", "/uncertainty/nothing", 404),
        ("GET", "/uncertainty/case_03?format=dicom", 422),
        ("POST", "/activelearning/best", 404),
        ("POST", "/train/deepedit", 404),
        ("POST", "/models/v9/publish", 404),
        ("POST", "/batch/infer/deepedit", 404),
        ("POST", "/scoring/dice", 404),
        ("GET", "/model/deepedit", 404),
        ("PUT", "/model/ugmcl", 405),
        ("DELETE", "/model/ugmcl", 405),
        ("GET", "/datastore/image?image=nothing", 404),
        ("GET", "/datastore/image/info?image=nothing", 404),
        ("GET", "/datastore/label?label=case_04&tag=final", 404),
        ("DELETE", "/datastore/label?id=case_04&tag=final", 404),
        ("DELETE", "/datastore/image?id=nothing", 404),
        ("GET", "/datastore/label?label=case_00&tag=best", 400),
        ("GET", "/datastore/?output=everything", 422),
        ("GET", "/datastore/label?label=case_00&version=a%00", 422),
        ("GET", "/adjudications?after=a%00", 422),
        ("POST", "/reload", 404),
        ("GET", "/proxy/dicom/%2e%2e/system", 400),
        ("GET", "/proxy/dicom/studies", 404),
    ],
)
def test_unknown_and_unacceptable_requests(unchanged: Server, method: str, path: str, status: int) -> None:
    refused(requests.request(method, unchanged.url + path, timeout=30), status)


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/infer/ugmcl?image={}"),
        ("POST", "/infer/ugmcl?session_id={}"),
        ("PUT", "/datastore/label?image={}"),
        ("PUT", "/datastore/label?image=case_03&tag={}"),
        ("PUT", "/datastore/image?image={}"),
        ("GET", "/datastore/image?image={}"),
        ("GET", "/datastore/label?label=case_00&tag={}"),
        ("DELETE", "/datastore/image?id={}"),
        ("PUT", "/datastore/image/info?image={}"),
    ],
)
def test_unsafe_names_are_400_everywhere(unchanged: Server, method: str, path: str, name: str) -> None:
    content = io.BytesIO(nifti(np.ones(SHAPE, np.uint8)))
    files = {"label" if "label" in path else "file": ("a.nii.gz", content)} if method == "PUT" else None
    refused(requests.request(method, unchanged.url + path.format(name), files=files, timeout=30), 400)


@pytest.mark.parametrize(
    "path",
    [
        "/uncertainty/{}",
        "/infer/{}?image=case_03",
        "/activelearning/{}",
        "/session/{}",
        "/models/{}/publish",
        "/train/{}",
    ],
)
def test_unsafe_names_in_paths_are_400(unchanged: Server, path: str) -> None:
    for name in ("..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "..%5Cx", "._case", "%00"):
        method = "GET" if path.startswith(("/uncertainty", "/session")) else "POST"
        refused(requests.request(method, unchanged.url + path.format(name), timeout=30), 400)


@pytest.mark.parametrize("params", ["{bad", "[1]", '"text"', "NaN", '{"a": NaN}', "null", DEEP], ids=range(7))
def test_params_that_are_no_json_object_are_400(unchanged: Server, params: str) -> None:
    refused(unchanged.post("/infer/ugmcl?image=case_03", data={"params": params}), 400)
    files = label_file(nifti(np.ones(SHAPE, np.uint8)))
    refused(unchanged.put("/datastore/label?image=case_03", files=files, data={"params": params}), 400)


@pytest.mark.parametrize(
    "params",
    [
        {"mc_samples": 0},
        {"mc_samples": "many"},
        {"mc_samples": "9" * 5000},
        {"uncertainty": "perhaps"},
        {"result_extension": ".exe"},
        {"result_extension": "/../x.nii.gz"},
        {"result_dtype": "complex64"},
    ],
)
def test_unacceptable_parameters_are_422(unchanged: Server, params: dict[str, object]) -> None:
    refused(unchanged.post("/infer/ugmcl?image=case_03", data={"params": json.dumps(params)}), 422)


NOT_KEPT = [
    r'{"comment": "\ud800"}',
    r'{"comment": ["nul \u0000"]}',
    '{"a": ' + "[" * 40 + "]" * 40 + "}",
    '{"a": 1e400}',
]


@pytest.mark.parametrize("params", NOT_KEPT, ids=["surrogate", "NUL", "deep", "infinite"])
def test_what_would_break_later_answers_is_not_kept(unchanged: Server, params: str) -> None:
    files = label_file(nifti(np.ones(SHAPE, np.uint8)))
    refused(unchanged.put("/datastore/label?image=case_03", files=files, data={"params": params}), 422)
    refused(unchanged.put("/datastore/image/info?image=case_03", data={"info": params}), 422)
    assert unchanged.get("/datastore/image/info?image=case_03").status_code == 200
    assert unchanged.get("/datastore/?output=all").status_code == 200


CLIENTS = {
    "surrogate": r'"\ud800"',
    "NUL": r'"a\u0000"',
    "object": '{"a": 1}',
    "number": "12",
    "long": '"' + "x" * 5000 + '"',
}


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_any_client_id_gets_a_case_and_leaves_a_short_text(server: Server, client: str) -> None:
    body = f'{{"client_id": {client}}}'
    answer = server.post("/activelearning/random", data=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    stamped = answer.json()["strategy"]["random"]["client_id"]
    assert stamped is None or (isinstance(stamped, str) and len(stamped) <= 200)


def test_an_info_of_another_shape_does_not_keep_a_case_from_being_offered(empty_server: Server) -> None:
    for case in empty_server.cases:
        told = empty_server.put(f"/datastore/image/info?image={case}", data={"info": '{"strategy": "mine"}'})
        assert told.status_code == 200
    answer = empty_server.post("/activelearning/first", json={})
    assert answer.status_code == 200, answer.text
    assert list(answer.json()["strategy"]) == ["first"]


@pytest.mark.parametrize("key", ["image", "model"])
def test_params_cannot_name_another_image_or_model(unchanged: Server, key: str) -> None:
    form = {"params": json.dumps({key: "/etc/hostname"})}
    refused(unchanged.post("/infer/ugmcl?image=case_03", data=form), 400)


@pytest.mark.parametrize("body", ["{bad", "[1, 2]", DEEP], ids=["broken", "list", "deep"])
def test_bodies_that_are_no_json_object_are_400(unchanged: Server, body: str) -> None:
    for path in ("/train/ugmcl", "/activelearning/first"):
        answer = unchanged.post(path, data=body, headers={"content-type": "application/json"})
        assert "JSON object" in refused(answer, 400)


def test_a_json_body_without_its_content_type_is_told_to_name_it(unchanged: Server) -> None:
    answer = unchanged.post("/activelearning/first", data="{}", headers={"content-type": "text/plain"})
    assert "Content-Type: application/json" in refused(answer, 400)


def test_infer_says_that_params_go_into_a_form(unchanged: Server) -> None:
    answer = unchanged.post("/infer/ugmcl?image=case_03", json={"uncertainty": True})
    assert "form field" in refused(answer, 415)


def test_a_plan_with_a_misspelt_key_is_refused(unchanged: Server) -> None:
    answer = unchanged.put("/leases/case_03/plan", json={"priorty": 3})
    assert "priorty" in refused(answer, 422)


def wrong_grid() -> bytes:
    return nifti(np.ones((5, 6, 7), np.uint8))


def shifted() -> bytes:
    affine = phantom(3)[2].copy()
    affine[0, 3] += 0.01
    return nifti(np.ones(SHAPE, np.uint8), affine)


def marked(value: float, kind: type) -> bytes:
    array = np.zeros(SHAPE, kind)
    array[3:6, 3:6, 3:6] = value
    return nifti(array)


LABELS: dict[str, Callable[[], bytes]] = {
    "no image": lambda: b"this is not an image",
    "truncated": lambda: nifti(np.ones(SHAPE, np.uint8))[:-40],
    "other grid": wrong_grid,
    "shifted": shifted,
    "unknown value": lambda: marked(7, np.uint8),
    "empty": lambda: marked(0, np.uint8),
    "fraction": lambda: marked(0.5, np.float32),
    "negative": lambda: marked(-1, np.int16),
    "not a number": lambda: marked(np.nan, np.float32),
    "two-dimensional": lambda: nifti(np.ones(SHAPE[:2], np.uint8)),
    "four-dimensional": lambda: nifti(np.ones((*SHAPE, 2), np.uint8)),
}


@pytest.mark.parametrize("kind", LABELS)
def test_unacceptable_labels_are_422(unchanged: Server, kind: str) -> None:
    answer = unchanged.put("/datastore/label?image=case_03", files=label_file(LABELS[kind]()))
    refused(answer, 422)
    if kind in ("other grid", "shifted"):
        assert answer.json()["expected_shape"] == list(SHAPE)
        assert len(answer.json()["expected_affine"]) == 4


@pytest.mark.parametrize(
    "content",
    [
        b"not an image",
        nifti(np.full(SHAPE, 3.0, np.float32)),
        nifti(np.full(SHAPE, np.nan, np.float32)),
        nifti(np.zeros((*SHAPE, 2), np.float32)),
        nifti(np.zeros((24, 20, 1), np.float32)),
    ],
    ids=["junk", "constant", "NaN", "4D", "single slice"],
)
def test_unusable_images_are_422_as_upload_and_as_new_image(unchanged: Server, content: bytes) -> None:
    for method, path in (("POST", "/infer/ugmcl"), ("PUT", "/datastore/image?image=guest")):
        files = {"file": ("scan.nii.gz", io.BytesIO(content))}
        refused(requests.request(method, unchanged.url + path, files=files, timeout=30), 422)


@pytest.mark.parametrize(
    ("name", "status"), [("../../a.nii.gz", 400), ("a.exe", 422), ("a.zip", 422), ("._a.nii.gz", 400)]
)
def test_unsafe_and_foreign_file_names_are_refused(unchanged: Server, name: str, status: int) -> None:
    content = nifti(np.ones(SHAPE, np.uint8))
    refused(unchanged.put("/datastore/label?image=case_03", files=label_file(content, name)), status)
    refused(unchanged.put("/datastore/image", files={"file": (name, io.BytesIO(content))}), status)
    refused(unchanged.put("/session/", files={"files": (name, io.BytesIO(content))}), status)
    refused(unchanged.post("/infer/ugmcl", files={"file": (name, io.BytesIO(content))}), status)


def test_archives_are_not_unpacked(unchanged: Server) -> None:
    files = {"files": ("scan.nii.gz", io.BytesIO(b"x"))}
    refused(unchanged.put("/session/?uncompress=true", files=files), 422)


def test_a_body_above_the_limit_is_413_and_reaches_the_client(unchanged: Server) -> None:
    large = bytes(40 * 2**20)
    answer = unchanged.put("/datastore/label?image=case_03", files=label_file(large))
    assert "2 MiB" in refused(answer, 413)

    def streamed() -> object:
        for _ in range(40):
            yield large[: 2**20]

    headers = {"content-type": "application/json"}
    refused(unchanged.post("/train/ugmcl", data=streamed(), headers=headers), 413)


def test_foreign_hosts_and_pages_are_refused(unchanged: Server) -> None:
    refused(unchanged.get("/info/", headers={"host": "evil.example"}), 400)
    refused(unchanged.post("/train/ugmcl", json={}, headers={"origin": "http://evil.example"}), 403)
    answer = unchanged.get("/info/", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_concurrent_labels_of_one_case_leave_exactly_one_of_them(server: Server) -> None:
    versions = [marked(1, np.uint8), nifti(phantom(2)[1])]
    answers: list[requests.Response] = []

    def submit(content: bytes) -> None:
        answers.append(server.put("/datastore/label?image=case_02", files=label_file(content)))

    threads = [threading.Thread(target=submit, args=(versions[index % 2],)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 6
    stored = nib.load(server.studies / "labels" / "final" / "case_02.nii.gz")
    kept = np.asarray(stored.dataobj)
    sent = [np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(version)).dataobj) for version in versions]
    assert any(np.array_equal(kept, version) for version in sent)
    requests.delete(server.url + "/train/", timeout=30)
