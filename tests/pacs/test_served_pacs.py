"""The whole job on a real Orthanc through a real server: list, next, label, round, results, an outage."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lib.dicom.parametric_map import read_map
from lib.dicom.references import BY_HAND
from lib.dicom.segmentation_reading import read_segmentation
from lib.dicom.segmentation_writing import write_segmentation
from lib.dicom.series import read_grid
from lib.dicom.structures import StructureMap
from lib.pacs.connection import PacsConnection
from lib.pacs.dicomweb import DicomWeb
from lib.pacs.settings import PacsSettings
from lib.volumes import encode
from tests.dicom.phantom_series import encoded
from tests.journeys.live_server import CPU, SMALL, LiveServer, Project, _running
from tests.pacs.ball_series import PLAN, ball_series
from tests.pacs.orthanc import Orthanc, require_orthanc
from tests.server.conftest import APP, command, free_port
from ugmcl.config import replace
from ugmcl.presets import preset

pytestmark = pytest.mark.viewer

STRUCTURES = StructureMap.of({"heart": 1})
PATIENCE_S = 120.0
CASES = 6


@dataclass
class Hospital:
    """An Orthanc with series, a server on it, and what is drawn on each series."""

    orthanc: Orthanc
    web: DicomWeb
    server: LiveServer
    series: dict[str, list[Dataset]]
    labels: dict[str, NDArray[np.uint8]]

    def add(self, seed: int) -> str:
        """Another series of another patient."""
        instances, label = ball_series(seed)
        uid = str(instances[0].SeriesInstanceUID)
        study = str(instances[0].StudyInstanceUID)
        assert not self.web.store(study, [encoded(dataset) for dataset in instances]).failed
        self.series[uid], self.labels[uid] = instances, label
        return uid

    def study(self, uid: str) -> str:
        return str(self.series[uid][0].StudyInstanceUID)

    def segs(self) -> list[Dataset]:
        """Every SEG in the Orthanc."""
        found: list[bytes] = []
        for entry in self.web.list_series("SEG").series:
            self.web.fetch_series(entry.study_uid, entry.uid, found.append)
        return [pydicom.dcmread(io.BytesIO(content)) for content in found]

    def submit(self, uid: str) -> requests.Response:
        """The label of a series as NIfTI."""
        content = encode(self.labels[uid], read_grid(self.series[uid]).affine, "label.nii.gz")
        meaning = {"label_info": [{"name": "heart", "idx": 1}]}
        return self.server.request(
            "PUT",
            f"/datastore/label?image={uid}",
            files={"label": ("label.nii.gz", content)},
            data={"params": json.dumps(meaning)},
        )

    def submit_dicom(self, uid: str, content: bytes, query: str) -> requests.Response:
        return self.server.request("PUT", f"/datastore/label?{query}", files={"label": ("seg", content)})

    def drawn(self, uid: str) -> bytes:
        """The label of a series as another workstation's SEG."""
        return write_segmentation(self.labels[uid], read_grid(self.series[uid]), STRUCTURES, BY_HAND)

    def infer(self, query: str, **params: Any) -> requests.Response:
        answer = self.server.post(f"/infer/ugmcl?{query}", data={"params": json.dumps(params)})
        assert answer.status_code == 200, answer.text[:500]
        return answer

    def cases(self, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.server.get("/cases", params=query).json()["cases"]
        return found

    def pacs(self) -> dict[str, Any]:
        state: dict[str, Any] = self.server.get("/info/").json()["pacs"]
        return state

    def wait(self, true: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := true()):
            assert time.monotonic() < deadline, f"{what}: {self.pacs()}\n{self.server.said()}"
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    require_orthanc()
    folder = tmp_path_factory.mktemp("hospital")
    (folder / "orthanc").mkdir()
    orthanc = Orthanc(folder / "orthanc")
    orthanc.start()
    connection = PacsConnection(PacsSettings(orthanc.url, attempts=2, backoff_s=0.1))
    try:
        web = DicomWeb(connection)
        found = Hospital(orthanc, web, None, {}, {})  # type: ignore[arg-type]
        for seed in range(CASES):
            found.add(seed)
        workspace = folder / "work"
        _leave_small_network(workspace)
        port = free_port()
        line = command("serve", "--studies", orthanc.url, "--port", str(port), "--workspace", str(workspace))
        line += ["--labels", "heart", *CPU, "--conf", "debounce_s", "0.5", "--conf", "pacs_poll_s", "0.5"]
        with _running(Project(folder, []), port, line) as server:
            found.server = server
            yield found
    finally:
        connection.close()
        orthanc.stop()


def _leave_small_network(workspace: Path) -> None:
    """The configuration "of an earlier round", with a network that trains in seconds."""
    config = preset("default", ("heart",), [PLAN.shape], [PLAN.spacing])
    config = replace(config, network=SMALL, train={"steps": 12}, preprocess={"patch": (16, 16, 16)})
    target = workspace / "training" / "work"
    target.mkdir(parents=True)
    (target / "config.json").write_text(json.dumps(config.to_dict()))


@pytest.mark.journey("orthanc_list")
@pytest.mark.journey("pacs_outage")
@pytest.mark.timeout(900)
def test_job_on_a_pacs(hospital: Hospital) -> None:
    """One journey, because a server takes long to start: each paragraph stands on the one before."""
    server = hospital.server
    listed = hospital.wait(lambda: len(found := hospital.cases(sort="id")) == CASES and found, "listed")
    assert [case["id"] for case in listed] == sorted(hospital.series)
    for case in listed:
        assert case["series_instance_uid"] == case["id"]
        assert case["study_instance_uid"] == hospital.study(case["id"])
    asked = {"client_id": "reader-1"}
    offered = server.post("/activelearning/most_uncertain", json=asked).json()
    assert offered["id"] in hospital.series
    assert offered["StudyInstanceUID"] == hospital.study(offered["id"])
    scan = server.get(f"/datastore/image?image={offered['id']}")
    assert (scan.status_code, scan.content[:2]) == (200, b"\x1f\x8b")

    order = [offered["id"], *(uid for uid in sorted(hospital.series) if uid != offered["id"])]
    assert hospital.submit(order[0]).status_code == 200
    by_series = hospital.submit_dicom(order[1], hospital.drawn(order[1]), f"series={order[1]}")
    assert by_series.status_code == 200, by_series.text
    by_study = hospital.submit_dicom(order[2], hospital.drawn(order[2]), f"study={hospital.study(order[2])}")
    assert by_study.json()["image"] == order[2]
    stored = hospital.web.store(hospital.study(order[3]), [hospital.drawn(order[3])])
    assert not stored.failed, "as another workstation does it"
    done = server.wait_for_labels(*order[:4])
    assert done["status"] == "done"
    segs = hospital.wait(lambda: len(found := hospital.segs()) == 4 and found, "every label is in the PACS")
    for seg in segs:
        uid = str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID)
        read = read_segmentation(seg, read_grid(hospital.series[uid]), STRUCTURES)
        assert np.array_equal(read.labels, hospital.labels[uid])
        assert not read.by_model

    rest = order[4]
    grid = read_grid(hospital.series[rest])
    answer = hospital.infer(f"series={rest}&output=dicom_seg", push=True)
    assert answer.headers["content-type"] == "application/dicom"
    model = read_segmentation(answer.content, grid, STRUCTURES)
    assert model.by_model
    version = answer.headers["x-model-version"]
    parametric = server.get(f"/uncertainty?series={rest}&format=dicom")
    assert (parametric.status_code, parametric.headers["x-model-version"]) == (200, version)
    values = read_map(parametric.content, grid)
    assert 0.0 <= values.min() < values.max() <= 1.0
    hospital.wait(lambda: len(hospital.segs()) == 5, "the result is in the PACS")
    hospital.wait(lambda: len(hospital.web.list_series("OT").series) == 1, "and its map")
    again = hospital.infer(f"image={rest}&output=json", push=True).json()
    assert again["pushed"]["segmentation"] == model.instance_uid, "the same result is the same object"
    hospital.wait(lambda: hospital.pacs()["waiting"] == 0, "delivered")
    assert len(hospital.segs()) == 5
    statuses = {case["id"]: case["status"] for case in hospital.cases()}
    assert statuses[rest] == "unlabeled", "a model's result is no label"

    hospital.orthanc.stop()
    hospital.wait(lambda: not hospital.pacs()["reachable"], "the outage is noticed")
    assert server.get("/ready").status_code == 200
    hospital.infer(f"image={rest}&output=image")
    assert hospital.submit(rest).status_code == 200
    server.wait_for_labels(*order[:5])
    assert hospital.pacs()["waiting"] == 1
    assert len(hospital.cases()) == CASES
    hospital.orthanc.start()
    hospital.wait(lambda: hospital.pacs()["waiting"] == 0, "delivered after the outage")
    assert len(hospital.segs()) == 6

    new = hospital.add(77)
    hospital.wait(lambda: new in {case["id"] for case in hospital.cases()}, "a new series is noticed")
    hospital.wait(lambda: hospital.cases(status="unlabeled")[0]["score"] is not None, "the pool is scored")


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("series=1.2.3", 404, "no series"),
        ("study=1.2.3", 404, "no study"),
        ("series=../x", 400, "slash"),
        ("", 422, "No image was given"),
    ],
)
def test_other_uids_are_refused(hospital: Hospital, query: str, status: int, said: str) -> None:
    for method, path in (("POST", "/infer/ugmcl"), ("PUT", "/datastore/label"), ("GET", "/uncertainty")):
        if method == "GET" and not query:
            continue
        files = {"label": ("a.nii.gz", b"x")} if method == "PUT" else None
        answer = hospital.server.request(method, f"{path}?{query}", files=files)
        assert answer.status_code == status, (path, answer.text)
        assert said in answer.json()["detail"]


def test_seg_of_another_series_is_refused_with_the_reason(hospital: Hospital) -> None:
    first, second = sorted(hospital.series)[:2]
    before = hospital.server.get(f"/datastore/label/history?label={first}").json()
    answer = hospital.submit_dicom(first, hospital.drawn(second), f"image={first}")
    assert answer.status_code == 422
    assert "frame of reference" in answer.json()["detail"]
    cut = hospital.submit_dicom(first, hospital.drawn(first)[:-300], f"image={first}")
    assert cut.status_code == 422
    assert hospital.server.get(f"/datastore/label/history?label={first}").json() == before


def test_stock_server_serves_a_pacs_too(hospital: Hospital, tmp_path: Path) -> None:
    port = free_port()
    line = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(APP), "--port", str(port)]
    line += ["--studies", hospital.orthanc.url, "--host", "127.0.0.1", *CPU]
    line += ["--conf", "workspace", str(tmp_path / "work"), "--conf", "labels", "heart"]
    with _running(Project(tmp_path, []), port, line, "/info/") as stock:
        listed = stock.get("/datastore/?output=all").json()["objects"]
        assert sorted(listed) == sorted(hospital.series)
        offered = stock.post("/activelearning/first", json={}).json()
        scan = stock.get(f"/datastore/image?image={offered['id']}")
        assert scan.content[:2] == b"\x1f\x8b"
        assert stock.get("/info/").json()["pacs"]["reachable"]
