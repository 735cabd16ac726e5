"""The demo: what it says when something is in its way, its picture, one small run on a real server."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sample_data import generate
from sample_data.phantom import make_phantom
from server import demo
from server.demo_launch import copy_studies, free_port
from server.demo_picture import ShownCase, draw_picture, most_uncertain_slice
from server.demo_screen import RoundResult
from server.demo_session import DemoError, DemoSession, sentence_of
from tests.journeys.live_server import leaves_sockets_open


def arguments(*line: str) -> argparse.Namespace:
    """The demo's options from a command line."""
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(line)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample cohort."""
    return generate(tmp_path_factory.mktemp("cohort") / "sample", cases=6, labeled=2, heldout=2).parent


class Script(BaseHTTPRequestHandler):
    """Answers GET /rounds with one scripted state after another, the last one for good."""

    states: list[dict[str, Any]]

    def do_GET(self) -> None:  # the name http.server asks for
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        body = json.dumps({"rounds": [state]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[DemoSession]:
    """A session with a server that plays `Script.states`; only for rounds that are hard to bring about."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Script)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield DemoSession(f"http://127.0.0.1:{server.server_address[1]}", tmp_path)
    server.shutdown()
    thread.join()
    server.server_close()


def state(status: str, *ids: str, reason: str = "") -> dict[str, Any]:
    """A round as GET /rounds tells it."""
    return {"id": "r1", "status": status, "labeled_ids": list(ids), "labeled": len(ids), "reason": reason}


def test_waiting_ends_with_the_round_that_has_the_submitted_labels(scripted: DemoSession) -> None:
    Script.states = [state("done", "a"), state("running", "a", "b"), state("done", "a", "b")]
    seen: list[dict[str, Any]] = []
    finished = scripted.wait_for_round({"b"}, seen.append)
    assert finished is not None
    assert finished["labeled_ids"] == ["a", "b"]
    assert [entry["status"] for entry in seen] == ["running"]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_round_that_did_not_finish_is_told_with_its_reason(scripted: DemoSession, status: str) -> None:
    Script.states = [state("running", "a"), state(status, "a", reason="out of memory")]
    with pytest.raises(DemoError, match=rf"{status}: out of memory.*labels are safe"):
        scripted.wait_for_round({"a"}, lambda entry: None)


def test_a_server_that_starts_no_round_is_not_waited_for_in_vain(scripted: DemoSession) -> None:
    Script.states = [state("done", "a")]
    with pytest.raises(DemoError, match="started no round"):
        scripted.wait_for_round({"b"}, lambda entry: None, idle_s=0.5)


def test_without_a_new_label_the_last_finished_round_counts(scripted: DemoSession) -> None:
    Script.states = [state("running", "a"), state("done", "a")]
    finished = scripted.wait_for_round(set(), lambda entry: None)
    assert finished is not None
    assert finished["status"] == "done"
    Script.states = [state("failed", "a")]
    assert scripted.wait_for_round(set(), lambda entry: None) is None


def test_an_absent_server_is_named_with_what_to_do(cohort: Path, tmp_path: Path, capsys: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    line = ["--server", url, "--studies", str(cohort / "studies"), "--out", str(tmp_path)]
    assert demo.main(arguments(*line)) == 1
    said = capsys.readouterr().err
    assert url in said
    assert "make serve" in said
    assert "Traceback" not in said


def test_studies_without_references_are_refused(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "studies").mkdir()
    assert demo.main(arguments("--studies", str(tmp_path / "studies"))) == 1
    assert "no sample cohort" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--rounds", "--labels-per-round", "--round-seconds"])
def test_counts_below_one_are_refused(option: str, capsys: Any) -> None:
    assert demo.main(arguments(option, "0")) == 1
    assert option in capsys.readouterr().err


def test_the_demos_server_gets_only_the_labels_the_cohort_was_made_with(cohort: Path, tmp_path: Path) -> None:
    saved = cohort / "studies/labels/final/la_005.nii.gz"
    saved.write_bytes((cohort / "reference/labels/la_005.nii.gz").read_bytes())
    try:
        copy_studies(cohort, tmp_path / "studies")
    finally:
        saved.unlink()
    assert len(list((tmp_path / "studies").glob("*.nii.gz"))) == 6
    labels = sorted(path.name for path in (tmp_path / "studies/labels/final").iterdir())
    assert labels == ["la_001.nii.gz", "la_002.nii.gz"]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b'{"detail": "No such case."}', "No such case."),
        ('Status: 409; Response: {"detail": "No model yet.", "labeled": 0}', "No model yet."),
        ("Bad Gateway", "Bad Gateway"),
        (b"{broken", "{broken"),
    ],
)
def test_the_servers_own_sentence_is_shown(answer: object, sentence: str) -> None:
    assert sentence_of(answer) == sentence


def shown_case() -> ShownCase:
    """A phantom with a slightly wrong prediction and its uncertainty."""
    phantom = make_phantom(1, 0)
    prediction = np.roll(phantom.label, 2, axis=0)
    uncertainty = (prediction != phantom.label).astype(np.float32)
    return ShownCase("case", phantom.image, phantom.label, prediction, uncertainty, phantom.affine, 0.9)


def test_picture_is_drawn_with_and_without_a_case(tmp_path: Path) -> None:
    results = [
        RoundResult(4, 0.7, 9.0, None, 80.0, True, {"a": 0.6, "b": 0.8}),
        RoundResult(8, 0.8, 6.0, 0.93, 80.0, True, {"a": 0.75, "b": 0.85}),
    ]
    draw_picture(tmp_path / "both.png", results, shown_case())
    draw_picture(tmp_path / "curve.png", results[:1], None)
    assert (tmp_path / "both.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "both.png").stat().st_size > (tmp_path / "curve.png").stat().st_size > 10_000


def test_slice_shown_is_axial_whatever_the_scans_orientation() -> None:
    case = shown_case()
    turned = ShownCase(
        case.name,
        *(
            np.transpose(array, (2, 0, 1))
            for array in (case.image, case.reference, case.prediction, case.uncertainty)
        ),
        case.affine[:, [2, 0, 1, 3]],
        case.dice,
    )
    np.testing.assert_array_equal(most_uncertain_slice(case).image, most_uncertain_slice(turned).image)


@leaves_sockets_open  # the stock client never closes its connections
@pytest.mark.timeout(600)
def test_a_small_demo_runs_from_start_to_picture(cohort: Path, tmp_path: Path) -> None:
    line = ["--rounds", "2", "--labels-per-round", "1", "--round-seconds", "15"]
    line += ["--studies", str(cohort / "studies"), "--out", str(tmp_path / "build")]
    assert demo.main(arguments(*line)) == 0
    rounds = json.loads((tmp_path / "build/demo.json").read_text())["rounds"]
    assert [entry["labeled"] for entry in rounds] == [2, 3]
    for entry in rounds:
        assert entry.keys() == {"labeled", "dice", "error_auroc", "seconds"}
        assert 0 <= entry["dice"] <= 1
        assert entry["error_auroc"] is None or 0 <= entry["error_auroc"] <= 1
    assert (tmp_path / "build/demo.png").read_bytes()[:4] == b"\x89PNG"
    # The project of the demo's server is gone, its log is kept, and the cohort has no new label.
    assert sorted(path.name for path in (tmp_path / "build").iterdir()) == [
        "demo-server.log",
        "demo.json",
        "demo.png",
    ]
    assert len(list((cohort / "studies/labels/final").iterdir())) == 2
