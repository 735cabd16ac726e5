"""The fixed interface, asked of a real server through HTTP and the stock client."""

import gc
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import requests
from monailabel.client.client import MONAILabelClient, MONAILabelUtils

from tests.server.conftest import Server

ROUND_KEYS = {
    "id", "status", "labeled", "labeled_ids", "unlabeled", "model_version", "promoted", "reason", "metrics",
    "progress", "started_at", "finished_at", "duration_s",
}  # fmt: skip


# The stock client leaves its sockets and files to the garbage collector; that is its own business.
leaves_sockets_open = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def stock_client(server: Server, tmp_path: Path) -> Iterator[MONAILabelClient]:
    yield MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id="reader")
    gc.collect()


def parts(answer: requests.Response) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The params and the files of a multipart reply, read by the stock client's parser."""
    message = Message()
    message["content-type"] = answer.headers["content-type"]
    form, files = MONAILabelUtils.parse_multipart(io.BytesIO(answer.content), message)
    return json.loads(form["params"]), files


def opened(content: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def test_health_and_ready_need_no_model(empty_server: Server) -> None:
    assert empty_server.get("/health").json() == {"status": "ok"}
    ready = empty_server.get("/ready")
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "reason": "ready"}


def test_info_is_valid_before_a_first_model(empty_server: Server) -> None:
    info = empty_server.get("/info/").json()
    assert {"ugmcl", "ugmcl_uncertainty"} <= set(info["models"])
    assert info["models"]["ugmcl_uncertainty"]["labels"] == {"low": 1, "medium": 2, "high": 3}
    assert set(info["strategies"]) == {"most_uncertain", "random", "first"}
    assert "ugmcl" in info["trainers"]
    assert info["model_version"] is None


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/infer/ugmcl?image=case_00"), ("GET", "/uncertainty/case_00"), ("POST", "/train/ugmcl")],
)
def test_before_a_first_model_the_answer_is_409_with_what_is_needed(
    empty_server: Server, method: str, path: str
) -> None:
    answer = requests.request(method, empty_server.url + path, timeout=60)
    assert answer.status_code == 409
    assert answer.json()["labels_needed"] == 100
    assert answer.json()["labeled"] == 0
    assert isinstance(answer.json()["detail"], str)


def test_before_a_first_model_a_case_is_offered_without_score(empty_server: Server) -> None:
    answer = empty_server.post("/activelearning/most_uncertain", json={}).json()
    assert answer["id"] in empty_server.cases
    assert answer["model_version"] is None


def test_next_sample_is_an_empty_object_once_every_case_is_labeled(empty_server: Server) -> None:
    for case in empty_server.cases:
        assert empty_server.submit(case).status_code == 200
    try:
        for strategy in ("most_uncertain", "random", "first"):
            for body in ({}, {"client_id": "reader-9"}):
                answer = empty_server.post(f"/activelearning/{strategy}", json=body)
                assert (answer.status_code, answer.json()) == (200, {})
    finally:
        for case in empty_server.cases:
            gone = requests.delete(f"{empty_server.url}/datastore/label?id={case}&tag=final", timeout=60)
            assert gone.status_code == 200


def test_no_training_is_404_as_the_stock_viewers_read_it(empty_server: Server) -> None:
    assert empty_server.get("/train/?check_if_running=true").status_code == 404


def test_a_listed_origin_may_read_and_write(empty_server: Server) -> None:
    origin = {"origin": "http://viewer.example"}
    answer = empty_server.post("/activelearning/first", json={}, headers=origin)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin["origin"]
    asked = {**origin, "access-control-request-method": "PUT"}
    assert (
        requests.options(empty_server.url + "/datastore/label", headers=asked, timeout=30).status_code == 200
    )


def test_a_round_is_requested_listed_and_cancelled(server: Server) -> None:
    task = server.post("/train/ugmcl", json={"client_id": "reader"})
    assert task.status_code == 200
    assert task.json()["status"] in ("SUBMITTED", "RUNNING")
    assert server.get("/train/?check_if_running=true").status_code == 200
    assert requests.delete(server.url + "/train/", timeout=30).status_code == 200
    rounds = server.get("/rounds").json()["rounds"]
    assert set(rounds[-1]) == ROUND_KEYS
    assert rounds[-1]["status"] == "cancelled"
    assert set(rounds[-1]["progress"]) == {"step", "steps", "eta_s"}
    assert server.get("/train/?check_if_running=true").status_code == 404


def test_infer_answers_params_then_image_with_one_model_version(server: Server) -> None:
    answer = server.post(f"/infer/ugmcl?image={server.cases[3]}")
    assert answer.status_code == 200, answer.text
    params, files = parts(answer)
    assert len(files) == 1
    assert params["model_version"] == server.get("/info/").json()["model_version"]
    assert 0 <= params["uncertainty"]["score"] <= 1
    assert params["uncertainty"]["url"] == f"/uncertainty/{server.cases[3]}"
    label = opened(next(iter(files.values())))
    image = nib.load(server.studies / f"{server.cases[3]}.nii.gz")
    assert label.shape == image.shape
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)


def test_infer_with_uncertainty_adds_the_map_as_the_last_part(server: Server) -> None:
    form = {"params": json.dumps({"uncertainty": True, "mc_samples": 2, "result_extension": ".nrrd"})}
    answer = server.post(f"/infer/ugmcl?image={server.cases[3]}", data=form)
    assert answer.content.index(b'name="params"') < answer.content.index(b'name="image"')
    assert answer.content.index(b'name="image"') < answer.content.index(b'name="uncertainty"')
    params, files = parts(answer)
    names = list(files)
    assert len(names) == 2
    assert all(name.endswith(".nrrd") for name in names)
    header = nrrd.read_header(io.BytesIO(files[names[1]]))
    assert header["type"] == "float"
    assert params["uncertainty"]["mc_samples"] == 2


@pytest.mark.parametrize(
    ("output", "kind"), [("json", "application/json"), ("image", "application/octet-stream")]
)
def test_stock_outputs_answer_as_stock(server: Server, output: str, kind: str) -> None:
    answer = server.post(f"/infer/ugmcl?image={server.cases[3]}&output={output}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == kind


def test_the_uncertainty_task_gives_three_bands(server: Server) -> None:
    answer = server.post(f"/infer/ugmcl_uncertainty?image={server.cases[3]}&output=image")
    assert answer.status_code == 200
    assert set(np.unique(np.asarray(opened(answer.content).dataobj))) <= {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("form", "magic"), [("", b"NRRD"), ("?format=nifti", b"\x1f\x8b"), ("?format=nrrd", b"NRRD")]
)
def test_the_map_is_served_in_both_formats_with_its_version(server: Server, form: str, magic: bytes) -> None:
    answer = server.get(f"/uncertainty/{server.cases[4]}{form}")
    assert answer.status_code == 200, answer.text
    assert answer.content.startswith(magic)
    assert answer.headers["x-model-version"] == server.get("/info/").json()["model_version"]
    if magic == b"\x1f\x8b":
        values = np.asarray(opened(answer.content).dataobj)
        assert values.dtype == np.float32
        assert 0 <= values.min() <= values.max() <= 1


def test_models_are_listed_and_publishing_one_moves_the_answer_to_it(server: Server) -> None:
    models = server.get("/models").json()["models"]
    assert set(models[0]) == {"version", "published", "round", "metrics", "created_at"}
    assert [model["version"] for model in models] == server.versions
    first, last = server.versions
    assert server.post(f"/models/{first}/publish").json()["version"] == first
    params, _ = parts(server.post(f"/infer/ugmcl?image={server.cases[3]}"))
    assert params["model_version"] == first
    assert server.post(f"/models/{last}/publish").status_code == 200


@pytest.mark.parametrize("strategy", ["most_uncertain", "random", "first"])
def test_every_strategy_offers_an_unlabeled_case(server: Server, strategy: str) -> None:
    answer = server.post(f"/activelearning/{strategy}", json={"client_id": "reader"}).json()
    assert answer["id"] in server.cases[2:]
    assert {"score", "model_version", "path", "ts"} <= set(answer)


def test_the_history_of_a_label_is_told(server: Server) -> None:
    [version] = server.get(f"/datastore/label/history?label={server.cases[0]}").json()["versions"]
    assert (version["state"], version["source"]) == ("active", "submitted")
    assert version["sha256"] == version["info"]["sha256"]
    assert server.get("/datastore/label/history?label=nobody").status_code == 404


@pytest.fixture
def three_more(server: Server) -> Iterator[None]:
    """Unlabeled scans, since other tests label those that there are."""
    names = ["more_0", "more_1", "more_2"]
    scan = server.studies / f"{server.cases[0]}.nii.gz"
    for name in names:
        with scan.open("rb") as file:
            assert server.put(f"/datastore/?image={name}", files={"file": (f"{name}.nii.gz", file)}).ok
    yield
    for name in names:
        assert requests.delete(f"{server.url}/datastore/?id={name}", timeout=60).ok


@pytest.mark.usefixtures("three_more")
def test_readers_get_cases_of_their_own_until_they_give_them_back(server: Server) -> None:
    def ask(reader: str) -> Any:
        return server.post("/activelearning/most_uncertain", json={"client_id": reader}).json()

    for lease in server.get("/leases").json()["leases"]:  # of other tests
        server.post(f"/leases/{lease['case_id']}/release", json={"client_id": lease["reader"]})
    ann, bob = ask("ann"), ask("bob")
    assert ann["id"] != bob["id"]
    assert ask("ann")["id"] == ann["id"]
    listed = {lease["reader"]: lease["case_id"] for lease in server.get("/leases").json()["leases"]}
    assert (listed["ann"], listed["bob"]) == (ann["id"], bob["id"])
    alive = server.post(f"/leases/{ann['id']}/heartbeat", json={"client_id": "ann"})
    assert alive.json()["expires_at"] > ann["lease"]["expires_at"]
    refused = server.post(f"/leases/{ann['id']}/heartbeat", json={"client_id": "bob"})
    assert refused.status_code == 409
    assert "not leased to 'bob'" in refused.json()["detail"]
    assert server.post(f"/leases/{ann['id']}/skip", json={"client_id": "ann"}).status_code == 200
    assert ask("ann")["id"] not in (ann["id"], bob["id"])
    for reader in ("ann", "bob"):
        case = ask(reader)["id"]
        assert server.post(f"/leases/{case}/release", json={"client_id": reader}).status_code == 200
    planned = server.put(f"/leases/{bob['id']}/plan", json={"priority": 5})
    assert planned.json() == {"id": bob["id"], "priority": 5, "assigned_to": None, "readers_wanted": 1}
    assert ask("cleo")["id"] == bob["id"]
    assert server.post(f"/leases/{bob['id']}/release", json={"client_id": "cleo"}).status_code == 200
    server.put(f"/leases/{bob['id']}/plan", json={"priority": 0})
    assert server.post("/leases/nobody/release", json={"client_id": "ann"}).status_code == 404
    assert server.post(f"/leases/{bob['id']}/skip", json={}).status_code == 422


@leaves_sockets_open
def test_the_stock_client_runs_through_its_job(server: Server, stock_client: MONAILabelClient) -> None:
    client = stock_client
    assert not client.auth_enabled()
    assert "ugmcl" in client.info()["models"]
    case = client.next_sample("most_uncertain", {})["id"]
    label, params = client.infer("ugmcl", case, {"uncertainty": True})
    assert nib.load(label).get_data_dtype() == np.uint8, "the stock client must keep the label, not the map"
    assert "model_version" in params
    uploaded, params = client.infer("ugmcl", "", {}, file=str(server.studies / f"{case}.nii.gz"))
    assert uploaded
    assert params["uncertainty"]["url"] is None
    saved = nib.load(client.download_label(server.cases[0], "final"))
    reference = nib.load(server.labels / f"{server.cases[0]}.nii.gz")
    np.testing.assert_array_equal(np.asarray(saved.dataobj), np.asarray(reference.dataobj))
    assert client.train_status()["id"]
    assert set(client.datastore()["objects"]) == set(server.cases)


@leaves_sockets_open
def test_a_session_is_made_used_and_ended(server: Server, stock_client: MONAILabelClient) -> None:
    client = stock_client
    session = client.create_session(str(server.studies / f"{server.cases[4]}.nii.gz"))["session_id"]
    assert client.get_session(session)["name"] == session
    label, _ = client.infer("ugmcl", "", {}, session_id=session)
    assert nib.load(label).shape == (24, 20, 16)
    client.remove_session(session)
    assert server.get(f"/session/{session}").status_code == 404


def test_an_image_is_added_checked_and_removed(server: Server) -> None:
    source = server.studies / f"{server.cases[4]}.nii.gz"
    with source.open("rb") as file:
        added = server.put("/datastore/image?image=guest", files={"file": ("guest.nii.gz", file)})
    assert added.json() == {"image": "guest"}
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for check_sum, status in [(f"SHA256:{digest}", 200), (digest, 200), ("SHA256:00", 404)]:
        head = requests.head(f"{server.url}/datastore/image?image=guest&check_sum={check_sum}", timeout=30)
        assert head.status_code == status
    assert server.get("/datastore/image?image=guest").content == source.read_bytes()
    assert requests.delete(f"{server.url}/datastore/image?id=guest", timeout=30).status_code == 200
    assert server.get("/datastore/image?image=guest").status_code == 404


def test_batch_inference_keeps_a_proposal_for_each_case_and_no_final_label(server: Server) -> None:
    params = {"mc_samples": 1}
    answer = server.post("/batch/infer/ugmcl?images=all&run_sync=true", json=params)
    assert answer.status_code == 200, answer.text
    tags = server.get("/datastore/").json()["label_tags"]
    assert tags["original"] == len(server.cases)
    assert tags["final"] < len(server.cases)


@leaves_sockets_open
def test_two_stock_clients_read_a_case_and_a_third_reader_settles_it(server: Server, tmp_path: Path) -> None:
    case = server.cases[4]
    empty = nib.load(server.labels / f"{case}.nii.gz")
    other = np.zeros(empty.shape, np.uint8)
    other[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(other, empty.affine), tmp_path / "other.nii.gz")
    files = {"first reader": server.labels / f"{case}.nii.gz", "second reader": tmp_path / "other.nii.gz"}
    assert server.put(f"/leases/{case}/plan", json={"readers_wanted": 2}).json()["readers_wanted"] == 2
    for reader, file in files.items():
        client = MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id=reader)
        assert client.save_label(case, str(file), "final", {"label_info": []})["label"] == case
    gc.collect()
    assert server.get(f"/datastore/label?label={case}&tag=final").status_code == 404
    page = server.get("/adjudications").json()
    assert (page["total"], page["next"]) == (1, None)
    [waiting] = page["adjudications"]
    assert server.get(f"/adjudications/{case}").json() == waiting
    assert [reading["reader"] for reading in waiting["readings"]] == list(files)
    assert waiting["pairs"][0]["dice"] == {"foreground": 0.0}
    chosen = waiting["readings"][1]["label"]
    kept = server.get(f"/datastore/label?label={case}&tag=final&version={chosen}")
    assert np.array_equal(np.asarray(opened(kept.content).dataobj), other)
    assert server.get(f"/datastore/label?label={case}&tag=final&version=none").status_code == 404
    route = f"/adjudications/{case}/settle"
    assert server.post(route, json={"label": chosen}).status_code == 422, "who settles it?"
    assert server.post(route, json={"label": "none", "client_id": "chief"}).status_code == 422
    settled = server.post(route, json={"label": chosen, "client_id": "chief"}).json()
    assert (settled["reading"], settled["settled_by"]) == (chosen, "chief")
    assert server.post(route, json={"label": chosen, "client_id": "chief"}).status_code == 409
    assert server.get(f"/datastore/label?label={case}&tag=final").content == kept.content
    told = {entry["reader"]: entry for entry in server.get("/readers").json()["readers"]}
    assert [told[reader]["labels_saved"] for reader in files] == [1, 1]
    assert told["first reader"]["mean_dice"] == 0.0
    assert server.put(f"/leases/{case}/plan", json={"readers_wanted": 11}).status_code == 422
    requests.delete(f"{server.url}/datastore/label?id={case}&tag=final", timeout=60).raise_for_status()
    server.put(f"/leases/{case}/plan", json={"readers_wanted": 1}).raise_for_status()


def test_documentation_page_and_openapi_have_examples(server: Server) -> None:
    page = server.get("/").text
    assert "swagger" in page.lower()
    parts = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(parts) == 3
    assert [one for one in parts if not one.startswith("/")] == []  # nothing from another host
    assert all(server.get(one).status_code == 200 for one in parts)
    assert server.get("/docs").text == page
    schema = server.get("/openapi.json").json()
    routes = {"/health", "/ready", "/rounds", "/models", "/models/{version}/publish", "/infer/{model}"}
    routes |= {
        "/uncertainty/{image}",
        "/activelearning/{strategy}",
        "/train/{model}",
        "/datastore/label",
        "/info/",
    }
    assert routes <= set(schema["paths"])
    assert "/reload" not in schema["paths"]
    assert json.dumps(schema).count('"example') > 15


@pytest.mark.parametrize(
    "path",
    [
        "/info/",
        "/datastore/",
        "/datastore/?output=all",
        "/datastore/?output=train",
        "/ohif/",
        "/logs/?html=false",
        "/model/info/ugmcl",
        "/static/favicon.ico",
    ],
)
def test_remaining_stock_routes_answer_without_failing(server: Server, path: str) -> None:
    assert server.get(path).status_code in (200, 404)


def test_the_log_names_no_case_and_no_body(server: Server) -> None:
    server.post("/activelearning/random", json={"client_id": "Jane_Doe"})
    server.put(
        "/datastore/image/info", params={"image": server.cases[3]}, data={"info": '{"patient": "Jane_Doe"}'}
    )
    server.post(
        f"/infer/ugmcl?image={server.cases[3]}", data={"params": '{"note": "Jane_Doe", "uncertainty": true}'}
    )
    written = server.log.read_text() + (server.studies / ".ugmcl" / "logs" / "server.log").read_text()
    assert "POST /infer/{model} -> 200" in written
    assert "Jane_Doe" not in written
    assert not [case for case in server.cases if case in written]


def test_worklist_pages_through_the_cases(server: Server) -> None:
    stored = server.get("/datastore/?output=all").json()["objects"]
    unlabeled = sorted(case for case in stored if "final" not in stored[case]["labels"])
    assert len(unlabeled) >= 2
    listed, query = [], {"status": "unlabeled", "limit": 1}
    while True:
        found = server.get("/cases", params=query).json()
        listed += found["cases"]
        assert found["total"] == len(unlabeled)
        if found["next"] is None:
            break
        query["after"] = found["next"]
    assert sorted(case["id"] for case in listed) == unlabeled
    assert {case["series_instance_uid"] for case in listed} == {None}


@pytest.mark.parametrize("query", ["status=x", "sort=x", "limit=0", "limit=many", "after=x"])
def test_worklist_refuses_other_values_in_a_sentence(server: Server, query: str) -> None:
    answer = server.get(f"/cases?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"].endswith(".")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/infer/ugmcl?image=case_03&output=dicom_seg"),
        ("GET", "/uncertainty/case_03?format=dicom"),
        ("GET", "/uncertainty?series=1.2.3"),
        ("POST", "/infer/ugmcl?series=1.2.3"),
        ("PUT", "/datastore/label?image=case_03"),
    ],
)
def test_dicom_is_for_cases_of_a_pacs(server: Server, method: str, path: str) -> None:
    dicom = {"label": ("seg", bytes(128) + b"DICM")} if method == "PUT" else None
    answer = requests.request(method, server.url + path, files=dicom, timeout=60)
    assert answer.status_code == 422
    assert "PACS" in answer.json()["detail"]


def test_push_is_for_cases_of_a_pacs(server: Server) -> None:
    answer = server.post("/infer/ugmcl?image=case_03", data={"params": '{"push": true}'})
    assert answer.status_code == 422
    assert "PACS" in answer.json()["detail"]
