"""A real Orthanc behind TLS and a password, and storing that breaks off in the middle of an object.

TLS ends in a relay in front of it: Debian 12's Orthanc 1.10.1 crashes at the first request by HTTPS.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from lib.dicom.segmentation_reading import read_segmentation
from lib.dicom.series import read_grid
from lib.pacs.connection import PacsConnection, PacsRefused
from lib.pacs.dicomweb import DicomWeb
from lib.pacs.settings import PacsSettings
from lib.volumes import read_label
from tests.dicom.phantom_series import encoded
from tests.pacs.cutting_relay import CuttingRelay, cutting_relay
from tests.pacs.orthanc import Orthanc, require_orthanc
from tests.pacs.project_support import STRUCTURES, PacsProjectInTest, phantom, uid_of
from tests.server.test_dicomweb_proxy import proxy_to

pytestmark = pytest.mark.viewer

PASSWORD = "s3cret"
MIDDLE = 2048
"""Bytes of a POST after which it is cut: well into the object, far from its end."""


def started(folder: Path, password: str = "") -> Orthanc:
    require_orthanc()
    folder.mkdir()
    orthanc = Orthanc(folder, password)
    orthanc.start()
    return orthanc


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    server = started(tmp_path / "orthanc")
    yield server
    server.stop()


@pytest.fixture
def relay(orthanc: Orthanc) -> Iterator[CuttingRelay]:
    with cutting_relay(orthanc.port) as running:
        yield running


@pytest.fixture
def series(orthanc: Orthanc) -> list[Dataset]:
    instances = phantom()
    store(PacsSettings(orthanc.url), instances)
    return instances


@pytest.fixture
def project(relay: CuttingRelay, series: list[Dataset], tmp_path: Path) -> Iterator[PacsProjectInTest]:
    found = PacsProjectInTest(f"{relay.url}/dicom-web", tmp_path / "work")
    found.look()
    yield found
    found.close()


def store(settings: PacsSettings, instances: list[Dataset]) -> None:
    connection = PacsConnection(settings)
    study = str(instances[0].StudyInstanceUID)
    assert not DicomWeb(connection).store(study, [encoded(one) for one in instances]).failed
    connection.close()


def check_stored(settings: PacsSettings, series: list[Dataset], drawn: NDArray[np.uint8]) -> None:
    """The PACS has one SEG, readable, and it is what was drawn."""
    connection = PacsConnection(settings)
    web = DicomWeb(connection)
    (entry,) = web.list_series("SEG").series
    contents: list[bytes] = []
    web.fetch_series(entry.study_uid, entry.uid, contents.append)
    connection.close()
    (seg,) = [pydicom.dcmread(io.BytesIO(content)) for content in contents]
    assert np.array_equal(read_segmentation(seg, read_grid(series), STRUCTURES).labels, drawn)


def check_kept(project: PacsProjectInTest, case_id: str, drawn: NDArray[np.uint8]) -> None:
    """The label is here, whatever became of its way to the PACS."""
    assert np.array_equal(read_label(project.store.get_label_uri(case_id, "final"))[0], drawn)
    state = project.pacs.state()
    assert (state["waiting"], state["refused"], state["not_sent"]) == (1, [], [])


@pytest.mark.journey("pacs_outage")
def test_cut_in_the_middle_of_storing_nothing_is_lost_or_half_written(
    orthanc: Orthanc, relay: CuttingRelay, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    before = orthanc.statistics()["CountInstances"]
    drawn = project.submit(uid_of(series))
    relay.cut_after = MIDDLE
    project.pacs.exchange.work()
    assert relay.cuts == project.pacs.source.web.connection.settings.attempts
    check_kept(project, uid_of(series), drawn)
    said = project.pacs.state()["delivery"]
    assert relay.url in said
    assert ("broke off" in said) or ("cannot be reached" in said)
    assert orthanc.statistics()["CountInstances"] == before

    relay.cut_after = None
    project.turn()
    assert project.pacs.state()["waiting"] == 0
    assert project.pacs.state()["delivery"] is None
    assert orthanc.statistics()["CountInstances"] == before + 1
    check_stored(PacsSettings(orthanc.url), series, drawn)


@pytest.mark.journey("pacs_outage")
def test_killed_in_the_middle_of_storing_it_is_delivered_once_it_is_back(
    orthanc: Orthanc, relay: CuttingRelay, project: PacsProjectInTest, series: list[Dataset]
) -> None:
    before = orthanc.statistics()["CountInstances"]
    drawn = project.submit(uid_of(series))
    relay.cut_after, relay.on_cut = MIDDLE, orthanc.kill
    project.turn()
    assert relay.cuts == 1
    project.look()
    assert not project.pacs.state()["reachable"]
    check_kept(project, uid_of(series), drawn)

    relay.cut_after = None
    orthanc.start()
    assert orthanc.statistics()["CountInstances"] == before
    project.turn()
    assert project.pacs.state()["reachable"]
    assert project.pacs.state()["waiting"] == 0
    assert orthanc.statistics()["CountInstances"] == before + 1
    check_stored(PacsSettings(orthanc.url), series, drawn)


def certificate(folder: Path, address: str = "127.0.0.1") -> Path:
    """A self-signed certificate with its key, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: apt install openssl")
    folder.mkdir()
    key, signed, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=pacs"]
    line += ["-addext", f"subjectAltName=IP:{address}", "-keyout", str(key), "-out", str(signed)]
    subprocess.run(line, check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + signed.read_bytes())
    return both


def test_label_travels_to_a_pacs_with_tls_and_password_and_no_other_certificate_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UGMCL_PACS_PASSWORD", PASSWORD)
    ours, other = certificate(tmp_path / "ours"), certificate(tmp_path / "other")
    orthanc = started(tmp_path / "orthanc", PASSWORD)
    try:
        with cutting_relay(orthanc.port, ours) as relay:
            _travel(f"{relay.url}/dicom-web", tmp_path / "work", ours, other)
    finally:
        orthanc.stop()


def _travel(url: str, folder: Path, ours: Path, other: Path) -> None:
    direct = PacsSettings(url, user="reader", password=PASSWORD, ca_file=ours)
    instances = phantom()
    store(direct, instances)
    project = PacsProjectInTest(url, folder, pacs_user="reader", pacs_ca_file=ours)
    project.look()
    assert project.pacs.state()["reachable"]
    drawn = project.submit(uid_of(instances))
    with proxy_to(**project.pacs.source.web.connection.client_options()) as browser:
        listed = browser.get("/proxy/dicom/studies", headers={"Accept": "application/dicom+json"})
        assert [one["0020000D"]["Value"] for one in listed.json()] == [[instances[0].StudyInstanceUID]]

    # The same project with another authority: refused with what to do, and the label goes on waiting.
    project.conf["pacs_ca_file"] = other
    project = project.reopen()
    project.turn()
    state = project.pacs.state()
    assert not state["reachable"]
    for said in (state["trouble"], state["delivery"]):
        assert "is not trusted (self-signed certificate)" in said
        assert "pacs_ca_file" in said
        assert PASSWORD not in said
    check_kept(project, uid_of(instances), drawn)
    with proxy_to(**project.pacs.source.web.connection.client_options()) as browser:
        refused = browser.get("/proxy/dicom/studies")
        assert refused.status_code == 502
        assert "pacs_ca_file" in refused.json()["detail"]

    project.conf["pacs_ca_file"] = ours
    project = project.reopen()
    project.turn()
    assert project.pacs.state()["waiting"] == 0
    project.close()
    check_stored(direct, instances, drawn)


def test_certificate_of_another_address_is_refused_with_the_reason(tmp_path: Path) -> None:
    elsewhere = certificate(tmp_path / "elsewhere", "127.0.0.2")
    with cutting_relay(9, elsewhere) as relay:
        connection = PacsConnection(PacsSettings(f"{relay.url}/dicom-web", ca_file=elsewhere))
        with pytest.raises(PacsRefused, match=r"IP address mismatch.*correct the address"):
            DicomWeb(connection).list_series("MR")
        connection.close()
