"""The benchmarks count what went wrong, and time what they say."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from server.benchmarks import load, scale
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
