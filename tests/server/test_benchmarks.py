"""The benchmarks count what went wrong, and time what they say."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from server.benchmarks import load, scale, viewers
from server.benchmarks.served import percentile, write_label, write_scans


def test_a_case_given_to_two_readers_or_after_its_label_is_counted() -> None:
    ledger = load.Ledger()
    for case, reader in (("a", "ann"), ("b", "bob"), ("a", "ann")):
        ledger.given(case, reader)
    assert ledger.doubles == []
    ledger.given("a", "bob")
    ledger.acknowledged("b", 1, "bob")
    ledger.given("b", "bob")
    assert len(ledger.doubles) == 2


def test_every_answer_is_timed_and_a_failure_is_an_error() -> None:
    ledger = load.Ledger()

    def fail() -> None:
        raise RuntimeError("Status: 500")

    assert ledger.timed("next", lambda: 7) == 7
    with pytest.raises(RuntimeError) as caught:
        ledger.timed("submit", fail)
    ledger.failed("ann", caught.value)
    ledger.acknowledged("a", 1, "ann")
    found = load.summary(2, 1.0, ledger, ["a"])
    told = {key: found[key] for key in ("readers", "requests", "errors", "double_leases", "lost_labels")}
    assert told == {"readers": 2, "requests": 2, "errors": 1, "double_leases": 0, "lost_labels": 1}
    assert found["error_kinds"] == {"RuntimeError: Status: 500": 1}
    assert "| next | 1 |" in load.table(found)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 1.0)] == [50.0, 95.0, 100.0]
    assert percentile([3.0], 0.95) == 3.0


def test_generated_scans_and_labels_differ_from_each_other(tmp_path: Path) -> None:
    ids = write_scans(tmp_path / "studies", 3, (8, 8, 8))
    contents = {np.asarray(nib.load(tmp_path / "studies" / f"{i}.nii").dataobj).tobytes() for i in ids}
    assert len(contents) == 3
    labels = {write_label(tmp_path / "label.nii.gz", (8, 8, 8), number).tobytes() for number in range(40)}
    assert len(labels) == 40


def test_the_table_of_sizes_shows_the_growth() -> None:
    rows = {
        str(count): {f"{name}_{share}_ms": value for name in scale.COLUMNS for share in ("p50", "p95")}
        | {"start_s": 0.1, "first_start_s": 0.2}
        for count, value in ((100, 2.0), (1000, 3.0))
    }
    shown = scale.table({**rows, "stock": {}})
    assert "| 1,000 | 3.0 / 3.0 |" in shown
    assert "growth of p95 | x 1.5 |" in shown


def test_the_first_call_does_not_count() -> None:
    called: list[int] = []
    assert len(scale.timed(called.append, 4)) == 4
    assert called == [0, 1, 2, 3, 4]


def test_a_wait_for_a_segmentation_is_split_without_rest() -> None:
    told = {
        "load": 0.25,
        "preprocess": 0.25,
        "inference": 2.0,
        "postprocess": 0.5,
        "write": 0.75,
        "total": 4.0,
    }
    parts = viewers.split(told, viewers.OUR_PHASES, request_s=4.5, reading_s=0.125)
    assert parts == {"network": 0.5, "preprocessing": 0.5, "model": 2.0, "encoding": 1.5, "reading": 0.125}
    stock = {"pre": 0.5, "infer": 2.0, "invert": 0.0, "post": 0.25, "write": 0.25, "total": 3.0}
    parts = viewers.split(stock, viewers.STOCK_PHASES, request_s=3.25, reading_s=0.25)
    assert parts == {"network": 0.25, "preprocessing": 0.5, "model": 2.0, "encoding": 0.5, "reading": 0.25}


def test_waits_are_medians_in_milliseconds_with_their_splits_as_groups() -> None:
    waits = viewers.Waits()
    for seconds in (1.0, 9.0, 2.0):
        waits.add("next_ms", seconds)
    waits.add("next_split_ms.network", 0.5)
    assert viewers.nested(waits.medians()) == {"next_ms": 2000.0, "next_split_ms": {"network": 500.0}}
    assert waits.each() == {"next_ms": [1000.0, 9000.0, 2000.0]}


def test_waits_in_the_table_have_a_row_each_and_a_dash_for_what_they_lack() -> None:
    found: dict[str, object] = {f"{name}_ms": 7.0 for name in viewers.ROWS}
    found |= {f"{name}_split_ms": {"network": 2.0, "model": 4.6} for name in viewers.ROWS}
    lines = viewers.table(found).splitlines()
    assert len(lines) == 2 + len(viewers.ROWS)
    assert lines[-1] == "| Segment to overlay, stock | 7 | - | 2 | - | 5 | - | - |"


def test_bench_of_viewers_refuses_a_scan_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["viewers", "--scan", str(tmp_path / "none.nii.gz")])
    with pytest.raises(SystemExit):
        viewers.main()
    assert "there is no such file; name a NIfTI file" in capsys.readouterr().err
