"""Lists are filtered and conditional, requests are tried again where that helps, refusals say what to do."""

from __future__ import annotations

import base64
import logging
import shutil
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lib.pacs import dicomweb
from lib.pacs.connection import (
    PacsAnswerUnusable,
    PacsConnection,
    PacsError,
    PacsRefused,
    PacsUnavailable,
)
from lib.pacs.dicomweb import PAGE, DicomWeb
from lib.pacs.multipart import MultipartBroken, boundary_of, dicom_body, read_parts
from lib.pacs.settings import PacsSettings
from tests.dicom.phantom_series import PLANS, encoded, phantom_series
from tests.pacs.small_pacs import SmallPacs


def test_list_holds_the_series_of_a_modality_without_a_patients_data(pacs: SmallPacs, web: DicomWeb) -> None:
    mr, ct = phantom_series(PLANS["axial"]), phantom_series(PLANS["anisotropic"])
    pacs.add(mr + ct)
    (entry,) = web.list_series("CT").series
    assert (entry.uid, entry.study_uid) == (ct[0].SeriesInstanceUID, ct[0].StudyInstanceUID)
    assert (entry.modality, entry.instances) == ("CT", 7)
    assert "Phantom" not in repr(entry)


@pytest.mark.parametrize("tags", [True, False], ids=["ETag", "no ETag"])
def test_an_unchanged_list_is_known_to_be_unchanged(pacs: SmallPacs, web: DicomWeb, tags: bool) -> None:
    pacs.tags = tags
    pacs.add(phantom_series(PLANS["axial"]))
    first = web.list_series("MR")
    second = web.list_series("MR", first)
    assert (first.changed, second.changed) == (True, False)
    assert second.series == first.series
    assert pacs.requests[-1][2] == (304 if tags else 200)
    pacs.add(phantom_series(PLANS["oblique"]))
    third = web.list_series("MR", second)
    assert third.changed
    assert len(third.series) == 2


def test_a_long_list_is_read_page_by_page(
    pacs: SmallPacs, web: DicomWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb, "PAGE", 2)
    for _ in range(5):
        pacs.add(phantom_series(PLANS["axial"])[:2])
    assert len(web.list_series("MR").series) == 5
    assert len([path for _, path, _ in pacs.requests if path == "/series"]) == 3
    assert PAGE > 100


@pytest.mark.parametrize("fault", [500, 503, 429, "drop"])
def test_a_busy_pacs_is_asked_again_with_growing_waits(
    pacs: SmallPacs, web: DicomWeb, waits: list[float], fault: int | str
) -> None:
    pacs.add(phantom_series(PLANS["axial"]))
    pacs.faults = [("/series", fault), ("/series", fault)]
    assert len(web.list_series("MR").series) == 1
    assert len(waits) == 2
    assert 0.37 <= waits[0] <= 0.63
    assert 0.75 <= waits[1] <= 1.25


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        (500, PacsUnavailable, "cannot do this now"),
        (401, PacsRefused, "check user, password or token"),
        (403, PacsRefused, "check user, password or token"),
        (404, PacsRefused, "its address in the settings is wrong"),
        (302, PacsRefused, "a redirect"),
        (400, PacsRefused, "does not accept this request"),
        ("drop", PacsUnavailable, "broke off|cannot be reached"),
    ],
)
def test_a_refusal_says_what_to_do_and_is_not_repeated_in_vain(
    pacs: SmallPacs, web: DicomWeb, waits: list[float], fault: int | str, kind: type[PacsError], sentence: str
) -> None:
    pacs.faults = [("/series", fault)] * 3
    with pytest.raises(kind, match=sentence):
        web.list_series("MR")
    assert len(waits) == (2 if kind is PacsUnavailable else 0)


def test_a_pacs_that_is_down_is_named_without_credentials(caplog: pytest.LogCaptureFixture) -> None:
    settings = PacsSettings("http://127.0.0.1:9/dicom-web", user="reader", password="s3cret", attempts=2)
    assert "s3cret" not in repr(settings)
    connection = PacsConnection(settings, lambda seconds: None)
    with caplog.at_level(logging.DEBUG), pytest.raises(PacsUnavailable, match=r"127\.0\.0\.1:9") as refused:
        DicomWeb(connection).list_series("MR")
    connection.close()
    assert "s3cret" not in str(refused.value) + caplog.text


def test_credentials_are_sent(pacs: SmallPacs) -> None:
    pacs.credentials = "Basic " + base64.b64encode(b"reader:s3cret").decode()
    for settings in (
        PacsSettings(pacs.url, user="reader", password="s3cret"),
        PacsSettings(pacs.url, token="abc"),
    ):
        connection = PacsConnection(settings)
        assert not DicomWeb(connection).list_series("MR").series
        connection.close()
        pacs.credentials = "Bearer abc"


def test_tls_takes_the_authority_and_the_client_certificate_of_the_settings(
    pacs: SmallPacs, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    pacs.socket = context.wrap_socket(pacs.socket, server_side=True)
    url, waits = pacs.url.replace("http://", "https://"), []

    def listed(**given: Path) -> int:
        connection = PacsConnection(PacsSettings(url, attempts=2, **given), waits.append)  # type: ignore[arg-type]
        try:
            return len(DicomWeb(connection).list_series("MR").series)
        finally:
            connection.close()

    pacs.add(phantom_series(PLANS["axial"]))
    with pytest.raises(PacsRefused, match="authority as pacs_ca_file"):
        listed()
    assert not waits
    with pytest.raises(PacsError):
        listed(ca_file=certificate)
    assert listed(ca_file=certificate, client_certificate=certificate, client_key=key) == 1


def test_an_answer_that_is_no_dicomweb_is_refused(pacs: SmallPacs, web: DicomWeb) -> None:
    hostile = phantom_series(PLANS["axial"])[0]
    content = encoded(hostile)
    uid = str(hostile.SeriesInstanceUID).encode()
    pacs.objects = {"1.2": content.replace(uid, b"../../etc".ljust(len(uid), b"/"))}
    with pytest.raises(PacsAnswerUnusable, match="UIDs are numbers joined by dots"):
        web.list_series("MR")
    with pytest.raises(PacsAnswerUnusable):
        web.fetch_series("1.2", "3/../../system", lambda content: None)


def test_stored_and_refused_objects_are_told_apart(pacs: SmallPacs, web: DicomWeb) -> None:
    first, second = phantom_series(PLANS["axial"])[:2]
    pacs.refuse_uids = {str(second.SOPInstanceUID)}
    pacs.faults = [("/studies", 503)]
    answer = web.store(str(first.StudyInstanceUID), [encoded(first), encoded(second)])
    assert answer.stored == (str(first.SOPInstanceUID),)
    assert answer.failed == {str(second.SOPInstanceUID): 0x0110}
    assert list(pacs.objects) == [str(first.SOPInstanceUID)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100_000])
def test_parts_are_read_however_the_body_is_cut_into_pieces(size: int) -> None:
    objects = [b"first", b"", b"\r\n--not the boundary\r\n", bytes(range(256)) * 3]
    body, content_type = dicom_body(objects)
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert list(read_parts(pieces, boundary_of(content_type))) == objects


@pytest.mark.parametrize("keep", [0, 10, 60, -1, -3])
def test_a_body_that_ends_early_is_never_taken_for_whole(keep: int) -> None:
    body, content_type = dicom_body([b"first", b"second"])
    cut = body.removesuffix(b"\r\n")[:keep] if keep else b""
    with pytest.raises(MultipartBroken, match="ends in the middle"):
        list(read_parts([cut], boundary_of(content_type)))


def test_another_content_type_is_refused() -> None:
    for content_type in ("text/html", "multipart/related", ""):
        with pytest.raises(MultipartBroken, match="not multipart/related"):
            boundary_of(content_type)


BAD_SETTINGS = {
    "no address": ({"url": "orthanc:8042"}, "give http"),
    "no such port": ({"url": "http://host:99999/dicom-web"}, "give http"),
    "password in the address": ({"url": "http://u:p@host/dicom-web"}, "settings of their own"),
    "query in the address": ({"url": "http://host/dicom-web?x=1"}, "a query or a fragment"),
    "user without password": ({"user": "reader"}, "a user with a password"),
    "user and token": ({"user": "a", "password": "b", "token": "c"}, "a user with a password"),
    "in clear": ({"url": "http://pacs.hospital/dicom-web", "token": "c"}, "in clear"),
    "no such file": ({"ca_file": Path("/nowhere.pem")}, "no file /nowhere.pem"),
    "no attempts": ({"attempts": 0}, "at least one attempt"),
    "no modality": ({"modalities": ()}, "at least one modality"),
}


@pytest.mark.parametrize(("given", "sentence"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_settings_that_cannot_work_are_refused(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        PacsSettings(**{"url": "https://host/dicom-web", **given})  # type: ignore[arg-type]
    assert "u:p" not in str(refused.value)


def test_files_that_hold_no_certificate_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "authority.pem"
    file.write_text("no certificate")
    for given, sentence in (
        ({"ca_file": file}, "holds no certificate"),
        ({"client_certificate": file}, "cannot be used with its key"),
    ):
        with pytest.raises(ValueError, match=sentence) as refused:
            PacsConnection(PacsSettings("https://host/dicom-web", **given))  # type: ignore[arg-type]
        assert str(file) in str(refused.value)


def test_search_of_the_settings_narrows_the_list(pacs: SmallPacs) -> None:
    settings = replace(PacsSettings(pacs.url), search={"StudyDescription": "RESEARCH"})
    connection = PacsConnection(settings)
    DicomWeb(connection).list_series("MR")
    connection.close()
    assert settings.modalities == ("MR", "CT")
