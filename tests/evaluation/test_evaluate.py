"""From packs and run folders to CSV files: what is there, what is done again, what is refused."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from server.evaluation.csv_files import COLUMNS, Row, csv_path, read_rows, write_rows
from server.evaluation.evaluate import evaluate
from tests.evaluation.synthetic_experiment import predicted, write_run, write_synthetic_pack
from ugmcl.metrics import dice

SMALL = (10, 11, 9)
Experiment = tuple[Path, Path, Path]


def quiet(_: str) -> None:
    """Says nothing."""


@pytest.fixture
def one_run(tmp_path: Path) -> Experiment:
    """A pack, one run of it, and a folder for the CSV files."""
    pack = write_synthetic_pack(tmp_path / "pack.npz", pool=3, test=3, shape=SMALL)
    write_run(tmp_path / "runs", pack, "ug_mcl", 0, ranking=3, shape=SMALL)
    return tmp_path / "pack.npz", tmp_path / "runs", tmp_path / "csv"


def some(rows: list[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_cases_have_student_and_teacher_with_and_without_largest_component(experiment: Experiment) -> None:
    rows = some(read_rows(experiment[2], "cases"), method="ug_mcl_plus", labels=10, seed=0)
    assert len(rows) == 2 * 6 * 2  # roles, test cases, components
    assert {row["role"] for row in rows} == {"student", "teacher"}
    assert not {row["case"] for row in rows} & {f"case_{number:02d}" for number in range(8)}


def test_dice_in_the_csv_is_that_of_the_stored_prediction(one_run: Experiment) -> None:
    pack, work, out = one_run
    evaluate([pack], work, out, quiet)
    with np.load(pack) as arrays:
        true = arrays["label/case_04"]
    label = predicted("case_04", 0.5, 0, SMALL)[0]
    (row,) = some(read_rows(out, "cases"), case="case_04", role="teacher", largest_component=0)
    assert row["dice"] == pytest.approx(dice(label, true), rel=1e-5)


def test_every_measure_stands_beside_the_distance_map_in_band_and_volume(experiment: Experiment) -> None:
    rows = some(read_rows(experiment[2], "uncertainty"), method="ug_mcl", labels=10, seed=1, set="test")
    found = {(row["measure"], row["scaling"], row["region"]) for row in rows}
    measures = {"predictive_entropy", "mutual_information", "head_disagreement", "distance"}
    expected = {(m, s, r) for m in measures for s in ("none", "platt") for r in ("band", "volume")}
    expected |= {("error_probability", s, r) for s in ("none", "temperature") for r in ("band", "volume")}
    assert found == expected


def test_scaling_changes_the_calibration_error_only(experiment: Experiment) -> None:
    rows = some(read_rows(experiment[2], "uncertainty"), method="ug_mcl", labels=10, seed=0, set="test",
                measure="predictive_entropy", region="band")  # fmt: skip
    raw, scaled = (some(rows, scaling=name) for name in ("none", "platt"))
    assert [row["auroc"] for row in raw] == [row["auroc"] for row in scaled]
    assert np.mean([row["ece"] for row in scaled]) < np.mean([row["ece"] for row in raw])


def test_without_ranking_cases_nothing_is_scaled(tmp_path: Path) -> None:
    pack = write_synthetic_pack(tmp_path / "pack.npz", pool=2, test=2, shape=SMALL)
    write_run(tmp_path / "runs", pack, "supervised", 0, ranking=0, teacher=False, shape=SMALL)
    evaluate([tmp_path / "pack.npz"], tmp_path / "runs", tmp_path / "csv", quiet)
    assert {row["scaling"] for row in read_rows(tmp_path / "csv", "uncertainty")} == {"none"}
    assert read_rows(tmp_path / "csv", "runs")[0]["temperature"] is None


def test_two_classes_have_rows_of_their_own(tmp_path: Path) -> None:
    pack = write_synthetic_pack(tmp_path / "pack.npz", pool=2, test=2, shape=SMALL, classes=("front", "back"))
    write_run(tmp_path / "runs", pack, "supervised", 0, ranking=0, teacher=False, shape=SMALL)
    evaluate([tmp_path / "pack.npz"], tmp_path / "runs", tmp_path / "csv", quiet)
    rows = read_rows(tmp_path / "csv", "cases")
    assert {row["class"] for row in rows} == {"foreground", "front", "back"}
    # The synthetic run predicts the first class only.
    assert {row["failed"] for row in rows if row["class"] == "back"} == {1}
    assert {row["dice"] for row in rows if row["class"] == "back"} == {0.0}


def test_a_run_is_measured_once_and_again_when_it_changed(one_run: Experiment) -> None:
    pack, work, out = one_run
    said: list[str] = []
    evaluate([pack], work, out, quiet)
    before = csv_path(out, "cases").read_bytes()
    evaluate([pack], work, out, said.append)
    assert said[-1].endswith("already there")
    record = work / "hippocampus_10labels_ug_mcl_seed0" / "run.json"
    record.write_text(record.read_text().replace('"steps": 1500', '"steps": 1600'))
    evaluate([pack], work, out, said.append)
    assert said[-1].endswith("evaluated")
    assert read_rows(out, "runs")[0]["steps"] == 1600
    assert csv_path(out, "cases").read_bytes() == before


def test_rows_of_an_interrupted_evaluation_are_written_anew(one_run: Experiment) -> None:
    pack, work, out = one_run
    evaluate([pack], work, out, quiet)
    whole = csv_path(out, "cases").read_bytes()
    write_rows(out, "runs", [])  # killed before runs.csv, which is written last
    evaluate([pack], work, out, quiet)
    assert csv_path(out, "cases").read_bytes() == whole


def test_an_unfinished_run_and_one_without_predictions_are_left_out(one_run: Experiment) -> None:
    pack, work, out = one_run
    done = work / "hippocampus_10labels_ug_mcl_seed0"
    for name, missing in (("unfinished", "run.json"), ("only_trained", "predictions.npz")):
        shutil.copytree(done, work / name)
        (work / name / missing).unlink()
    assert [run.name for run in evaluate([pack], work, out, quiet)] == [done.name]


def test_the_best_of_no_run_is_refused(tmp_path: Path) -> None:
    write_synthetic_pack(tmp_path / "pack.npz", pool=1, test=1, shape=SMALL)
    with pytest.raises(ValueError, match="is not a folder"):
        evaluate([tmp_path / "pack.npz"], tmp_path / "none", tmp_path / "csv", quiet)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match="no finished run of hippocampus"):
        evaluate([tmp_path / "pack.npz"], tmp_path / "runs", tmp_path / "csv", quiet)


def test_predictions_on_another_grid_are_refused(one_run: Experiment) -> None:
    _, work, out = one_run
    other = work.parent / "other.npz"
    write_synthetic_pack(other, pool=3, test=3, shape=(8, 8, 8))
    with pytest.raises(ValueError, match="made from another pack"):
        evaluate([other], work, out, quiet)


def test_a_run_that_names_another_pack_is_refused(one_run: Experiment) -> None:
    pack, work, out = one_run
    path = work / "hippocampus_10labels_ug_mcl_seed0" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pack": "0" * 64}))
    with pytest.raises(ValueError, match="another pack of hippocampus"):
        evaluate([pack], work, out, quiet)


def test_damaged_predictions_are_named(one_run: Experiment) -> None:
    pack, work, out = one_run
    path = work / "hippocampus_10labels_ug_mcl_seed0" / "predictions.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"predictions\.npz is damaged"):
        evaluate([pack], work, out, quiet)


def test_csv_numbers_come_back_as_numbers_and_missing_ones_as_none(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS["cases"], 1) | {"dice": 0.123456789, "hd95_mm": None, "case": "a,b"}
    write_rows(tmp_path, "cases", [row])
    (back,) = read_rows(tmp_path, "cases")
    assert (back["dice"], back["hd95_mm"], back["case"], back["seed"]) == (0.123457, None, "a,b", 1)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gzip.compress(b""), id="empty"),
        pytest.param(gzip.compress(b"run,method\n"), id="other columns"),
        pytest.param(b"run,method\n", id="not compressed"),
        pytest.param(gzip.compress(b"run,method\n" * 99)[:-9], id="cut short"),
        pytest.param(None, id="missing"),
    ],
)
def test_csv_of_another_shape_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        csv_path(tmp_path, "cases").write_bytes(content)
    with pytest.raises(ValueError, match=r"cases\.csv"):
        read_rows(tmp_path, "cases")


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    rows = [dict.fromkeys(COLUMNS["cases"], number) for number in range(3)]
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_rows(folder, "cases", rows)
    assert csv_path(tmp_path / "a", "cases").read_bytes() == csv_path(tmp_path / "b", "cases").read_bytes()


def test_a_word_where_a_number_belongs_names_its_line(tmp_path: Path) -> None:
    write_rows(tmp_path, "scores", [dict.fromkeys(COLUMNS["scores"], 1)])
    path = csv_path(tmp_path, "scores")
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress((text.rstrip()[:-1] + "high\n").encode()))
    with pytest.raises(ValueError, match="line 2"):
        read_rows(tmp_path, "scores")
