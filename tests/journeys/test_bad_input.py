"""Every bad input of the interface: its status, a sentence that names what was given and what is allowed, and
a disk on which nothing has changed, neither in the project nor around it."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests

from tests.journeys.live_server import LiveServer, phantom_project, serving
from tests.journeys.replies import voxels
from tests.server.conftest import SHAPE, add_models, phantom

pytestmark = pytest.mark.timeout(300)

AFFINE = phantom(0)[2]  # of every phantom
CASE = "case_03"
OPTIONS = ("--conf", "min_labels", "50", "--max-body-mib", "2")
# What the server writes on its own account: its log, and in the background the pool's scores and drafts.
OWN_FILES = re.compile(
    r"server-output\.txt|\.ugmcl/(logs/.*|training/score[^/]*\.json|(training/)?drafts/.*|maps/.*|catalogue\.db.*)"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with five phantoms, two model versions, a label of the first case, and no round to come."""
    project = phantom_project(tmp_path_factory.mktemp("refusing") / "project", 5)
    add_models(project.studies, 2)
    project.put_label(project.ids[0])
    with serving(project, *OPTIONS) as running:
        deadline = time.monotonic() + 60
        # The label that was laid into the folder gets its kept copy in the background.
        while not list(project.studies.glob(".ugmcl/labels/*/*/*.json")):
            assert time.monotonic() < deadline, "the label of the folder was not copied into the store"
            time.sleep(0.2)
        yield running


def disk(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file in and around the project."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and not OWN_FILES.search(name) and not name.endswith(".tmp"):
            found[name] = (path.stat().st_size, path.stat().st_mtime_ns)
    return found


@pytest.fixture
def unchanged(server: LiveServer) -> Iterator[LiveServer]:
    """The server; after the test its disk, rounds and live model are what they were before."""
    around = server.project.folder.parent

    def state() -> tuple[Any, ...]:
        return disk(around), server.rounds(), server.get("/models").json(), server.get("/datastore/").json()

    before = state()
    yield server
    assert state() == before


def sentence(answer: requests.Response, status: int, *words: str) -> dict[str, Any]:
    """Check a refusal; returns its JSON."""
    assert answer.status_code == status, (answer.status_code, answer.text[:800])
    body: dict[str, Any] = answer.json()
    detail = body["detail"]
    assert isinstance(detail, str)
    assert detail[0].isupper() or not detail[0].isalpha() or detail.startswith(("params", "label_info"))
    assert detail.rstrip().endswith((".", ")", "}"))
    assert " " in detail
    assert "Traceback" not in detail
    assert str(Path.home()) not in detail
    assert "/site-packages" not in detail
    for word in words:
        assert word in detail, detail
    return body


NAMES = [
    # method, path, status, what the sentence names
    ("POST", "/infer/ugmcl?image=case_99", 404, ["case_99"]),
    ("POST", "/infer/deepedit?image=case_03", 404, ["deepedit", "ugmcl", "ugmcl_uncertainty"]),
    ("POST", "/activelearning/best", 404, ["best", "first", "most_uncertain", "random"]),
    ("POST", "/train/deepedit", 404, ["deepedit", "ugmcl"]),
    ("POST", "/models/v9/publish", 404, ["v9", "v0001"]),
    ("GET", "/uncertainty/case_99", 404, ["case_99"]),
    ("GET", "/uncertainty/case_03?format=tiff", 422, ["nrrd", "nifti", "dicom"]),
    ("POST", "/infer/ugmcl?image=case_03&output=tiff", 422, ["tiff", "image, json"]),
    ("GET", "/uncertainty/case_03?format=dicom", 422, ["PACS", "NIfTI", "NRRD", "--studies"]),
    ("POST", "/infer/ugmcl?image=case_03&output=dicom_seg", 422, ["PACS", "NIfTI", "NRRD", "--studies"]),
    ("POST", "/infer/ugmcl?image=/etc/hostname", 400, ["/etc/hostname"]),
    ("POST", "/infer/ugmcl?image=..%2F..%2Fetc%2Fpasswd", 400, ["../../etc/passwd"]),
    ("GET", "/uncertainty/..%2F..%2Fetc%2Fpasswd", 400, ["../../etc/passwd"]),
    ("GET", "/datastore/image?image=..%2Freference%2Fcase_03", 400, ["../reference/case_03"]),
    ("GET", "/datastore/label?label=case_00&tag=..%2F..", 400, ["final", "original"]),
    ("DELETE", "/datastore/label?id=case_00&tag=best", 400, ["best", "final", "original"]),
    ("DELETE", "/datastore/?id=..%2Fcase_00", 400, ["../case_00"]),
    ("POST", "/models/..%2F..%2Fv1/publish", 400, ["../../v1"]),
    ("POST", "/activelearning/..%2Fetc", 400, ["../etc"]),
    ("POST", "/infer/ugmcl?session_id=..%2F..%2Fetc", 400, ["../../etc"]),
]


@pytest.mark.parametrize(("method", "path", "status", "words"), NAMES, ids=[row[1] for row in NAMES])
def test_names_that_do_not_exist_or_must_not(
    unchanged: LiveServer, method: str, path: str, status: int, words: list[str]
) -> None:
    sentence(unchanged.request(method, path), status, *words)


@pytest.mark.parametrize(
    ("params", "status", "words"),
    [
        ("{not json", 400, ["params", "JSON"]),
        ("[1, 2]", 400, ["params", "object"]),
        ('{"mc_samples": -1}', 422, ["mc_samples", "-1", "1 to 64"]),
        ('{"mc_samples": 1e9}', 422, ["mc_samples", "1 to 64"]),
        ('{"uncertainty": "perhaps"}', 422, ["perhaps", "true, false"]),
        ('{"result_extension": "../../x.nrrd"}', 422, ["../../x.nrrd", ".nii.gz", ".nrrd"]),
        ('{"result_dtype": "complex64"}', 422, ["complex64", "uint8"]),
        ('{"image": "/etc/hostname"}', 400, ["/etc/hostname"]),
        ('{"model": "/etc/hostname"}', 400, ["/etc/hostname"]),
        ('{"save_label": true, "label_tag": "../../x"}', 400, ["../../x"]),
    ],
)
def test_parameters_that_are_not_acceptable(
    unchanged: LiveServer, params: str, status: int, words: list[str]
) -> None:
    sentence(unchanged.post(f"/infer/ugmcl?image={CASE}", data={"params": params}), status, *words)


def packed(array: np.ndarray, affine: np.ndarray = AFFINE) -> bytes:
    return gzip.compress(nib.Nifti1Image(array, affine).to_bytes())


def block(value: float, kind: type = np.uint8, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    array = np.zeros(shape, kind)
    array[4:9, 4:9, 4:9] = value
    return array


def moved(millimeters: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += millimeters
    return affine


LABELS: dict[str, tuple[Callable[[], bytes], list[str]]] = {
    "bytes that are no image": (lambda: b"no image at all", ["label cannot be used"]),
    "truncated": (lambda: packed(block(1))[:-30], ["truncated"]),
    "other shape": (lambda: packed(block(1, shape=(20, 24, 16))[:, :, :15]), ["20x24x15", "24x20x16"]),
    "shifted by 10 um": (lambda: packed(block(1), moved(0.01)), ["0.001 mm", "0.01 mm"]),
    "unknown value": (lambda: packed(block(7)), ["value 7", "1 (foreground)"]),
    "empty": (lambda: packed(block(0)), ["no_finding", "allow_empty_labels"]),
    "fraction": (lambda: packed(block(0.5, np.float32)), ["0.5", "whole numbers"]),
    "negative": (lambda: packed(block(-2, np.int16)), ["-2", "whole numbers"]),
    "not a number": (lambda: packed(block(np.nan, np.float32)), ["NaN", "whole numbers"]),
    "infinite": (lambda: packed(block(np.inf, np.float32)), ["infinite", "whole numbers"]),
    "two-dimensional": (lambda: packed(np.ones(SHAPE[:2], np.uint8)), ["label cannot be used"]),
    "four-dimensional": (lambda: packed(np.ones((*SHAPE, 2), np.uint8)), ["label cannot be used"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_are_not_acceptable(unchanged: LiveServer, kind: str) -> None:
    make, words = LABELS[kind]
    files = {"label": ("label.nii.gz", make())}
    body = sentence(unchanged.request("PUT", f"/datastore/label?image={CASE}", files=files), 422, *words)
    if kind in ("other shape", "shifted by 10 um"):
        assert body["expected_shape"] == list(SHAPE)
        np.testing.assert_allclose(body["expected_affine"], AFFINE, atol=1e-6)


@pytest.mark.parametrize(
    ("label_info", "words"),
    [
        ([{"name": "high", "idx": 1}], ["high", "delete the segments low, medium, high"]),
        ([{"name": "a", "idx": 1}, {"name": "b", "idx": 1}], ["idx", "different"]),
        ([{"name": "a"}], ["label_info", "idx"]),
        ({"a": 1}, ["label_info", "list", "dict"]),
    ],
)
def test_label_meanings_that_are_not_acceptable(
    unchanged: LiveServer, label_info: Any, words: list[str]
) -> None:
    sentence(unchanged.submit(CASE, {"label_info": label_info}), 422, *words)


IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "bytes that are no image": (lambda: b"no image at all", "."),
    "truncated": (lambda: packed(phantom(3)[0])[:-400], "truncated"),
    "constant": (lambda: packed(np.full(SHAPE, 3.0, np.float32)), "constant"),
    "NaN": (lambda: packed(np.full(SHAPE, np.nan, np.float32)), "NaN"),
    "infinite": (lambda: packed(block(np.inf, np.float32)), "infinite"),
    "single slice": (lambda: packed(phantom(3)[0][:, :, :1]), "24 x 20 x 1 "),
    "two-dimensional": (lambda: packed(phantom(3)[0][:, :, 0]), "3D"),
    "four-dimensional": (lambda: packed(np.stack([phantom(3)[0]] * 2, -1)), "24 x 20 x 16 x 2"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_that_cannot_be_used(unchanged: LiveServer, kind: str) -> None:
    make, word = IMAGES[kind]
    for method, path in (("POST", "/infer/ugmcl"), ("PUT", "/datastore/?image=guest")):
        files = {"file": ("scan.nii.gz", make())}
        sentence(unchanged.request(method, path, files=files), 422, word)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/datastore/label?image=case_03", "label"),
        ("/datastore/?image=guest", "file"),
        ("/session/", "files"),
    ],
)
@pytest.mark.parametrize(
    ("name", "status"),
    [("../../x.nii.gz", 400), ("..\\..\\x.nii.gz", 400), ("._x.nii.gz", 400), ("x.exe", 422), ("x.zip", 422)],
)
def test_file_names_that_are_not_acceptable(
    unchanged: LiveServer, path: str, key: str, name: str, status: int
) -> None:
    sentence(unchanged.request("PUT", path, files={key: (name, packed(block(1)))}), status)


def test_unknown_image_and_unsafe_tag_of_a_submission(unchanged: LiveServer) -> None:
    def put(query: str) -> requests.Response:
        files = {"label": ("label.nii.gz", packed(block(1)))}
        return unchanged.request("PUT", f"/datastore/label?{query}", files=files)

    sentence(put("image=case_99"), 404, "case_99")
    sentence(put(f"image={CASE}&tag=..%2F..%2Fevil"), 400, "../../evil")
    sentence(put(f"image={CASE}&tag=best"), 400, "best", "final", "original")
    sentence(put("image=..%2Fcase_03"), 400, "../case_03")


def test_a_body_above_the_limit(unchanged: LiveServer) -> None:
    large = {"label": ("label.nii.gz", bytes(3 * 2**20))}
    sentence(unchanged.request("PUT", f"/datastore/label?image={CASE}", files=large), 413, "2 MiB")


@pytest.mark.parametrize("body", ["{not json", "[1, 2]", '"text"'])
def test_bodies_that_are_no_json_object(unchanged: LiveServer, body: str) -> None:
    for path in ("/train/ugmcl", "/activelearning/first"):
        sentence(unchanged.post(path, data=body, headers={"content-type": "application/json"}), 400, "JSON")


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32, np.float64, np.uint16])
def test_whole_numbers_of_any_type_are_stored_as_the_smallest_unsigned_one(
    server: LiveServer, kind: type
) -> None:
    files = {"label": ("label.nii.gz", packed(block(1, kind), AFFINE))}
    answer = server.request("PUT", "/datastore/label?image=case_03", files=files)
    assert answer.status_code == 200, answer.text
    stored = voxels(server.project.studies / "labels" / "final" / "case_03.nii.gz")
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, block(1))
    assert server.request("DELETE", "/datastore/label?id=case_03&tag=final").status_code == 200


def test_an_empty_label_is_kept_when_the_expert_says_so(server: LiveServer) -> None:
    files = {"label": ("label.nii.gz", packed(block(0), AFFINE))}
    data = {"params": json.dumps({"no_finding": True})}
    answer = server.request("PUT", "/datastore/label?image=case_04", files=files, data=data)
    assert answer.status_code == 200, answer.text
    assert server.request("DELETE", "/datastore/label?id=case_04&tag=final").status_code == 200


def test_concurrent_submissions_of_a_case_leave_one_of_them_whole(server: LiveServer) -> None:
    versions = []
    for size in range(2, 8):
        array = np.zeros(SHAPE, np.uint8)
        array[2 : 2 + size, 2 : 2 + size, 2 : 2 + size] = 1
        versions.append(array)
    answers: list[tuple[int, str]] = []

    def submit(array: np.ndarray) -> None:
        files = {"label": ("label.nii.gz", packed(array, AFFINE))}
        answer = server.request("PUT", "/datastore/label?image=case_02", files=files)
        answers.append((answer.status_code, answer.text))

    threads = [threading.Thread(target=submit, args=(array,)) for array in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [200] * 6, answers
    folder = server.project.studies / "labels" / "final"
    kept = voxels(folder / "case_02.nii.gz")
    assert any(np.array_equal(kept, array) for array in versions)
    assert [path.name for path in folder.glob("*case_02*")] == ["case_02.nii.gz"]
    objects = server.get("/datastore/?output=all").json()["objects"]
    assert list(objects["case_02"]["labels"]) == ["final"]
