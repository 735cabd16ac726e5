"""Experiments on packs, by their command: folders of results, resumed bits, refused nonsense."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ugmcl.toy_packs import NAMES, experiment, write_balls
from ugmcl import packed_runs, run_predictions, trainer
from ugmcl.checkpoint import load_checkpoint
from ugmcl.experiment import read_record
from ugmcl.methods import METHODS
from ugmcl.pack import Pack
from ugmcl.run_predictions import eight_bits

MEASURES = {"predictive_entropy", "mutual_information", "head_disagreement", "teacher_student_disagreement"}


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    return write_balls(tmp_path / "balls.npz")


def content(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_checkpoint(one).state, load_checkpoint(other).state
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_leaves_its_folder(pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiment(pack, tmp_path / "work", "--methods", "ug_mcl,supervised,dtc") == 0
    folder = tmp_path / "work" / "balls_2labels_ug_mcl_seed0"
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "run.json", "predictions.npz", "student.pt", "teacher.pt",
    }  # fmt: skip
    record = json.loads((folder / "run.json").read_text())
    expected = {
        "name": folder.name, "data_set": "balls", "labeled": 2, "labeled_ids": NAMES[:2], "unlabeled": 4,
        "method": "ug_mcl", "seed": 0, "steps": 3, "model": "teacher", "evaluated_on": "test",
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    assert record["precision"]["name"] == "fp32"
    assert record["config"]["loss"]["beta"] == 0.75
    assert {"versions", "commit", "device", "threads"} <= set(record["provenance"])
    assert record["device"] == record["provenance"]["device"]
    for name in ("supervised", "dtc"):
        other = tmp_path / "work" / f"balls_2labels_{name}_seed0"
        assert not (other / "teacher.pt").exists()
        record = json.loads((other / "run.json").read_text())
        assert (record["model"], record["unlabeled"]) == ("student", 0 if name == "supervised" else 4)
    assert "[3/3] balls_2labels_dtc_seed0: 3 steps" in capsys.readouterr().out


def test_predictions_hold_both_networks_and_every_measure_the_method_has(pack: Path, tmp_path: Path) -> None:
    assert experiment(pack, tmp_path, "--methods", "ug_mcl,ua_mt,supervised") == 0
    arrays = content(tmp_path / "balls_2labels_ug_mcl_seed0" / "predictions.npz")
    meta = json.loads(bytes(arrays.pop("meta")).decode())
    assert meta["test"] == NAMES[6:]
    assert meta["ranking"] == NAMES[5:6]
    assert set(meta["score"]) == set(NAMES[5:])
    kinds = {"student", "teacher", "probs", "mc_probs"} | {f"map/{measure}" for measure in MEASURES}
    assert set(arrays) == {f"{kind}/{case}" for kind in kinds for case in NAMES[5:]}
    assert all(values.dtype == np.uint8 and values.shape == (24, 24, 24) for values in arrays.values())
    certain = arrays[f"probs/{NAMES[6]}"]
    assert np.array_equal(certain > 127, arrays[f"teacher/{NAMES[6]}"] > 0)
    for name, without in (
        ("ua_mt", {"head_disagreement"}),
        ("supervised", MEASURES - {"predictive_entropy", "mutual_information"}),
    ):
        found = content(tmp_path / f"balls_2labels_{name}_seed0" / "predictions.npz")
        assert {key.split("/")[1] for key in found if key.startswith("map/")} == MEASURES - without
        assert any(key.startswith("teacher/") for key in found) == (name == "ua_mt")


def test_eight_bits_round_and_clip() -> None:
    values = np.array([-1e-7, 0.0, 0.5, 1.49 / 255, 1.51 / 255, 1.0 + 1e-7])
    assert eight_bits(values).tolist() == [0, 0, 128, 1, 2, 255]


def test_a_finished_run_is_not_touched_again(pack: Path, tmp_path: Path) -> None:
    times = []
    for _ in range(2):
        assert experiment(pack, tmp_path / "w", "--methods", "supervised") == 0
        files = [path for path in (tmp_path / "w").glob("*/*") if path.name != ".lock"]
        times.append({path: path.stat().st_mtime_ns for path in files})
    assert len(times[0]) == 3
    assert times[0] == times[1]


def test_another_way_to_segment_keeps_the_networks_and_predicts_again(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert experiment(pack, tmp_path / "w", "--methods", "ua_mt") == 0
    (folder,) = [path.parent for path in (tmp_path / "w").glob("*/run.json")]
    before, weights = content(folder / "predictions.npz"), (folder / "teacher.pt").stat().st_mtime_ns
    monkeypatch.setattr(packed_runs, "train_experiment", lambda *_: pytest.fail("trained again"))
    assert experiment(pack, tmp_path / "w", "--methods", "ua_mt", "--set", "infer.mc_dropout=0.5") == 0
    after, record = content(folder / "predictions.npz"), read_record(folder / "run.json")
    assert record is not None
    assert record["config"]["infer"]["mc_dropout"] == 0.5
    assert record["prediction_provenance"]["versions"]["torch"] == torch.__version__
    assert (folder / "teacher.pt").stat().st_mtime_ns == weights
    maps = [name for name in before if name.startswith("map/predictive_entropy")]
    assert any((before[name] != after[name]).any() for name in maps)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["train", "predict", "copy"])
def test_a_killed_run_ends_with_the_bits_of_an_uninterrupted_one(
    where: str, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--methods", "ug_mcl_plus", "--steps", "6", "--set", "train.save_every_s=0")
    assert experiment(pack, tmp_path / "whole", *words) == 0
    place = {"train": (trainer, "train_step"), "predict": (run_predictions, "region_scores"),
             "copy": (packed_runs.shutil, "copyfile")}[where]  # fmt: skip
    original, calls = getattr(*place), []

    def killing(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == (4 if where == "train" else 2):
            raise Killed
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(*place, killing)
        with pytest.raises(Killed):
            experiment(pack, tmp_path / "cut", *words)
    folder = tmp_path / "cut" / "balls_2labels_ug_mcl_plus_seed0"
    assert not (folder / "run.json").exists()
    assert experiment(pack, tmp_path / "cut", *words) == 0
    whole = tmp_path / "whole" / folder.name
    assert same_weights(folder / "student.pt", whole / "student.pt")
    assert same_weights(folder / "teacher.pt", whole / "teacher.pt")
    one, other = content(folder / "predictions.npz"), content(whole / "predictions.npz")
    assert set(one) == set(other)
    assert all(np.array_equal(values, other[name]) for name, values in one.items())
    records = [read_record(place / "run.json") or {} for place in (folder, whole)]
    assert records[0]["fingerprint"] == records[1]["fingerprint"]
    assert not list(folder.glob("training-*"))


def test_a_command_that_is_to_end_early_goes_on_next_time(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--methods", "ug_mcl", "--steps", "4")
    assert experiment(pack, tmp_path / "whole", *words) == 0
    folder = tmp_path / "cut" / "balls_2labels_ug_mcl_seed0"
    for _ in range(3):
        assert experiment(pack, tmp_path / "cut", *words, "--stop-after", "1e-6") == 1
        assert not (folder / "run.json").exists()
    assert "the same command goes on from here" in capsys.readouterr().out
    assert experiment(pack, tmp_path / "cut", *words) == 0
    assert same_weights(folder / "student.pt", tmp_path / "whole" / folder.name / "student.pt")


def test_another_configuration_is_refused_and_replaced_only_when_asked(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "w"
    assert experiment(pack, work, "--methods", "ug_mcl") == 0
    assert experiment(pack, work, "--methods", "ug_mcl", "--beta", "0.5") == 2
    assert "balls_2labels_ug_mcl_seed0" in capsys.readouterr().err
    assert experiment(pack, work, "--methods", "ug_mcl", "--beta", "0.5", "--suffix", "beta0.5") == 0
    assert experiment(pack, work, "--methods", "ug_mcl", "--threshold-start", "1", "--replace") == 0
    betas = {
        path.parent.name: json.loads(path.read_text())["config"]["loss"] for path in work.glob("*/run.json")
    }
    assert betas["balls_2labels_ug_mcl-beta0.5_seed0"]["beta"] == 0.5
    assert betas["balls_2labels_ug_mcl_seed0"]["threshold_start"] == 1


def test_labels_seeds_and_cases_are_chosen_by_the_command(pack: Path, tmp_path: Path) -> None:
    words = ("--methods", "supervised", "--steps", "1", "--limit-test", "1", "--ranking", "0")
    assert experiment(pack, tmp_path / "a", *words, "--labels", "1,3", "--seeds", "2") == 0
    assert {path.parent.name for path in (tmp_path / "a").glob("*/run.json")} == {
        f"balls_{labels}labels_supervised_seed{seed}" for labels in (1, 3) for seed in (0, 1)
    }
    chosen = ("--labels", "", "--labeled-ids", "case3,case1", "--hold-out", "2", "--unlabeled", "1")
    assert experiment(pack, tmp_path / "b", *words, "--methods", "dtc", *chosen) == 0
    record = read_record(tmp_path / "b" / "balls_2labels_dtc_seed0" / "run.json") or {}
    assert record["labeled_ids"] == ["case3", "case1"]
    assert record["unlabeled"] == 1
    assert record["evaluated_on"] == "hold_out"
    predictions = content(tmp_path / "b" / "balls_2labels_dtc_seed0" / "predictions.npz")
    assert {name for name in predictions if name.startswith("student/")} == {"student/case4"}


def test_held_out_cases_are_in_no_stream(pack: Path) -> None:
    from tests.ugmcl.toy_scans import tiny_config
    from ugmcl.packed_plan import Selection, plan

    opened = Pack(pack)
    chosen = Selection(["ug_mcl"], [2], hold_out=2, ranking=5)
    (run,) = plan(opened, tiny_config(), chosen, lambda _, config: config)
    assert [case.id for case in run.test] == NAMES[4:6]
    assert [case.id for case in run.unlabeled] == NAMES[2:4]
    assert [case.id for case in run.ranking] == NAMES[2:4]
    assert all(case.label is None for case in run.unlabeled)


def test_a_run_may_only_train(pack: Path, tmp_path: Path) -> None:
    bare = write_balls(tmp_path / "bare.npz", test=0)
    assert experiment(bare, tmp_path / "w", "--methods", "dtc", "--limit-test", "0", "--ranking", "0") == 0
    folder = tmp_path / "w" / "balls_2labels_dtc_seed0"
    assert {path.name for path in folder.iterdir()} == {".lock", "run.json", "student.pt"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--methods", "ugmcl"), "There is no method 'ugmcl'; choose from: supervised"),
        (("--methods", "dtc", "--labels", "9"), "9 labels asked for; the pool has 6 cases: give 1 to 6"),
        (("--methods", "dtc", "--labels", "5", "--hold-out", "2"), "pool has 4 cases (2 more are held out)"),
        (("--methods", "dtc", "--labels", "two"), "--labels two is not a list of whole numbers"),
        (("--methods", "dtc", "--labels", ""), "Give --labels"),
        (("--methods", "dtc", "--hold-out", "6"), "6 cases cannot be held out of a pool of 6"),
        (("--methods", "dtc", "--labels", "", "--labeled-ids", "case7"), "case7 cannot be labeled"),
        (("--methods", "ug_mcl,ua_mt", "--beta", "0.5"), "--beta has no part in ua_mt"),
        (
            ("--methods", "ug_mcl_plus", "--threshold-start", "1"),
            "--threshold-start has no part in ug_mcl_plus",
        ),
        (("--methods", "ug_mcl", "--beta", "1.5"), "beta is 1.5; it must lie in [0, 1]"),
        (("--methods", "dtc", "--set", "train.nothing=1"), "no such value; give section.name=value"),
        (("--methods", "dtc", "--set", "train.optimizer=lion"), "optimizer is 'lion'; allowed: adamw, sgd"),
        (("--methods", "dtc", "--seeds", "0"), "--seeds is 0; it must be above 0"),
        (("--methods", "dtc", "--stop-after", "0"), "--stop-after is 0.0; it must be above 0"),
        (("--methods", "dtc", "--suffix", "a/b"), "letters, digits, points and hyphens only"),
        (("--methods", "dtc", "--preset", "quick"), "There is no preset 'quick'"),
    ],
)
def test_nonsense_is_answered_with_a_sentence_before_anything_starts(
    words: tuple[str, ...], sentence: str, pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment(pack, tmp_path / "w", *words) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("w/*/run.json"))


def test_a_pack_without_test_cases_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = write_balls(tmp_path / "bare.npz", test=0)
    assert experiment(bare, tmp_path / "w", "--methods", "dtc") == 2
    assert "no test cases. Hold some of the pool out with --hold-out N" in capsys.readouterr().err


def test_methods_are_listed_without_a_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiment(tmp_path / "none", tmp_path, "--list-methods") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in METHODS)


def test_a_run_that_another_process_works_on_is_left_to_it(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with packed_runs.locked(tmp_path / "w" / "balls_2labels_supervised_seed0" / ".lock") as ours:
        assert ours
        assert experiment(pack, tmp_path / "w", "--methods", "supervised,dtc", "--steps", "1") == 1
    assert "supervised_seed0: another process works on it" in capsys.readouterr().out
    assert [path.parent.name for path in (tmp_path / "w").glob("*/run.json")] == ["balls_2labels_dtc_seed0"]


def test_all_scans_fit_into_the_pools(pack: Path) -> None:
    from tests.ugmcl.toy_scans import tiny_config
    from ugmcl.packed_plan import whole_set_in_memory

    # 6 scans of 24^3 voxels, 7 bytes each, for two streams, 5 % more: 1.16 MiB, so the smallest allowed
    assert whole_set_in_memory(tiny_config(), Pack(pack)).train.pool_mib == 16
    # at half the spacing 8 times as much: 9.3 MiB; at a quarter 74.4
    fine = tiny_config(preprocess={"spacing_mm": (0.25, 0.25, 0.25)})
    assert whole_set_in_memory(fine, Pack(pack)).train.pool_mib == 76
