"""Labels revealed round by round, by the command: shared starts, warm rounds, resumed bits, refusals."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ugmcl.toy_packs import NAMES, TINY, experiment, write_balls
from ugmcl import simulation, simulation_measures, trainer
from ugmcl.__main__ import main
from ugmcl.checkpoint import load_checkpoint
from ugmcl.simulation_plan import choose, label_order

LEARNING = "random,random_supervised,most_uncertain,most_uncertain_diverse"


def simulate(pack: Path, work: Path, *more: str) -> int:
    """The command on a toy pack: one seed, labels 2, 3 and 5, few steps unless said otherwise."""
    words = ["--labels", "2,3,5", "--seeds", "1", "--steps", "2", "--first-steps", "4",
             "--reference-steps", "3", "--precision", "fp32", "--device", "cpu",
             "--arms", LEARNING, *more]  # fmt: skip
    changes = [word for setting in TINY for word in ("--set", setting)]
    return main(["simulate", "--pack", str(pack), "--work", str(work), *words, *changes])


def arms_of(work: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in (work / "arms").glob("*.json")}


def without_clocks(record: dict[str, Any]) -> dict[str, Any]:
    clocks = {"seconds", "cpu_seconds", "evaluation_seconds", "provenance"}
    return {
        **record,
        "rounds": [{k: v for k, v in one.items() if k not in clocks} for one in record["rounds"]],
    }


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("pack") / "balls.npz")


@pytest.fixture(scope="module")
def whole(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All arms, run in one go."""
    work = tmp_path_factory.mktemp("whole")
    assert simulate(pack, work, "--arms", f"{LEARNING},all_labels_supervised") == 0
    return work


def test_every_arm_leaves_its_rounds(whole: Path) -> None:
    arms = arms_of(whole)
    assert set(arms) == {f"balls_{arm}_seed0" for arm in [*LEARNING.split(","), "all_labels_supervised"]}
    for name, arm in arms.items():
        labels = [6] if "all_labels" in name else [2, 3, 5]
        assert arm["planned"] == labels
        assert [one["labels"] for one in arm["rounds"]] == labels
        assert [len(one["labeled_ids"]) for one in arm["rounds"]] == labels
        for one in arm["rounds"]:
            assert set(one["test"]) == set(NAMES[6:])
            assert all(0 <= value <= 1 for value in one["test"].values())
            assert one["provenance"]["device"]
    assert [one["steps"] for one in arms["balls_random_seed0"]["rounds"]] == [4, 2, 2]
    assert arms["balls_all_labels_supervised_seed0"]["rounds"][0]["steps"] == 3
    assert arms["balls_random_supervised_seed0"]["method"] == "supervised"


def test_all_arms_begin_with_the_same_labels_and_keep_what_they_have(whole: Path) -> None:
    order = label_order(NAMES[:6], 0)
    for name, arm in arms_of(whole).items():
        if "all_labels" in name:
            continue
        sets = [one["labeled_ids"] for one in arm["rounds"]]
        assert sets[0] == order[:2]
        assert [ids[: len(before)] for before, ids in itertools.pairwise(sets)] == sets[:-1]
        if arm["strategy"] == "random":
            assert sets[-1] == order[:5]


def test_arms_that_are_still_alike_share_their_rounds(whole: Path) -> None:
    first = {
        arm["rounds"][0]["fingerprint"] for arm in arms_of(whole).values() if arm["method"] == "ug_mcl_plus"
    }
    assert len(first) == 1
    assert len(list((whole / "rounds").glob("balls_2labels_*"))) == 2  # one semi-supervised, one supervised


def test_a_round_starts_from_the_model_before_it_and_scores_the_pool_with_it(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []

    def watched(*arguments: Any, **options: Any) -> Any:
        starts.append(options["warm_start"])
        return original(*arguments, **options)

    original = simulation.train_experiment
    monkeypatch.setattr(simulation, "train_experiment", watched)
    assert simulate(pack, tmp_path, "--arms", "most_uncertain") == 0
    (arm,) = arms_of(tmp_path).values()
    folders = [tmp_path / "rounds" / f"{one['name']}-{one['fingerprint']}" for one in arm["rounds"]]
    assert starts[0] is None
    for start, folder in zip(starts[1:], folders, strict=False):
        kept = load_checkpoint(folder / "teacher.pt").state
        assert all(torch.equal(value, kept[name]) for name, value in start.state.items())
    for before, after, folder in zip(arm["rounds"], arm["rounds"][1:], folders, strict=False):
        scores = json.loads((folder / "scores.json").read_text())["scores"]
        assert set(scores) == set(NAMES[:6]) - set(before["labeled_ids"])
        best = sorted(scores, key=lambda case: -scores[case]["score"])
        added = after["labeled_ids"][len(before["labeled_ids"]) :]
        assert added == best[: len(added)]
    assert not (folders[-1] / "scores.json").exists()


def test_the_same_command_gives_the_same_bits(whole: Path, pack: Path, tmp_path: Path) -> None:
    assert simulate(pack, tmp_path) == 0
    for name, arm in arms_of(tmp_path).items():
        assert without_clocks(arm) == without_clocks(arms_of(whole)[name])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["train", "score", "measure", "record"])
def test_a_killed_simulation_ends_with_the_figures_of_an_uninterrupted_one(
    where: str, whole: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"train": (trainer, "train_step"), "score": (simulation, "score_case"),
             "measure": (simulation_measures, "dice"),
             "record": (simulation, "write_record")}[where]  # fmt: skip
    original, calls, words = getattr(*place), [], ("--set", "train.save_every_s=0")

    def killing(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) in (3, 9):
            raise Killed
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(*place, killing)
        for _ in range(2):
            with pytest.raises(Killed):
                simulate(pack, tmp_path, *words)
    assert simulate(pack, tmp_path, *words) == 0
    kept, expected = arms_of(tmp_path), arms_of(whole)
    for name, arm in kept.items():
        assert [one["test"] for one in arm["rounds"]] == [one["test"] for one in expected[name]["rounds"]]
        assert [one["labeled_ids"] for one in arm["rounds"]] == [
            one["labeled_ids"] for one in expected[name]["rounds"]
        ]


def test_a_finished_simulation_is_not_touched_again(
    whole: Path, pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file() and path.suffix}
    monkeypatch.setattr(simulation, "train_experiment", lambda *_: pytest.fail("trained again"))
    assert simulate(pack, whole) == 0
    after = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file() and path.suffix}
    assert {p: t for p, t in after.items() if p.suffix != ".lock"} == {
        p: t for p, t in before.items() if p.suffix != ".lock"
    }
    assert capsys.readouterr().out == ""


def test_a_command_that_is_to_end_early_goes_on_next_time(whole: Path, pack: Path, tmp_path: Path) -> None:
    arm = ("--arms", "most_uncertain")
    assert simulate(pack, tmp_path, *arm, "--stop-after", "1e-6") == 1
    assert not arms_of(tmp_path)
    assert simulate(pack, tmp_path, *arm) == 0
    (found,) = arms_of(tmp_path).values()
    assert without_clocks(found) == without_clocks(arms_of(whole)["balls_most_uncertain_seed0"])


def test_other_settings_in_the_same_folder_are_refused(
    whole: Path, pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(pack, whole, "--steps", "5") == 2
    error = capsys.readouterr().err
    assert "random (seed 0)" in error
    assert "give another --work" in error


def test_a_finished_run_with_all_labels_can_be_the_reference(pack: Path, tmp_path: Path) -> None:
    assert experiment(pack, tmp_path / "runs", "--methods", "supervised", "--labels", "6") == 0
    folder = tmp_path / "runs" / "balls_6labels_supervised_seed0"
    words = ("--arms", "all_labels_supervised", "--reference-run")
    assert simulate(pack, tmp_path / "work", *words, str(folder)) == 0
    (arm,) = arms_of(tmp_path / "work").values()
    (only,) = arm["rounds"]
    assert (only["labels"], only["steps"], only["name"]) == (6, 3, folder.name)
    with np.load(folder / "predictions.npz") as arrays:
        found = {case: arrays[f"student/{case}"] for case in NAMES[6:]}
    from tests.ugmcl.toy_scans import ball_case
    from ugmcl.metrics import dice

    assert only["test"] == {case: dice(labels, ball_case(case)[1]) for case, labels in found.items()}


def test_a_run_with_few_labels_is_no_reference(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert experiment(pack, tmp_path / "runs", "--methods", "supervised", "--labels", "2") == 0
    words = ("--arms", "all_labels_supervised", "--reference-run")
    few = str(tmp_path / "runs" / "balls_2labels_supervised_seed0")
    assert simulate(pack, tmp_path / "work", *words, few) == 2
    assert "not a supervised run with all 6 labels" in capsys.readouterr().err
    assert simulate(pack, tmp_path / "work", *words, str(tmp_path)) == 2
    assert "holds no finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--arms", "best"), "There is no arm best; choose from: random,"),
        (("--labels", "3,2"), "not rising whole numbers"),
        (("--labels", "some"), "not rising whole numbers"),
        (("--labels", "2,7"), "the pool has 6 cases"),
        (("--method", "supervised"), "supervised is not one"),
        (("--method", "magic"), "There is no method 'magic'"),
        (("--steps", "0"), "--steps is 0"),
        (("--first-seed", "1"), "--first-seed is 1; give 0 to 0"),
        (("--set", "train.speed=9"), "no such value"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: tuple[str, ...], said: str, pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(pack, tmp_path, *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "rounds").exists()


def test_choosing_by_hand_made_scores() -> None:
    scores = {
        "a": {"score": 0.1, "features": [0.0, 0.0]},
        "b": {"score": 0.4, "features": [1.0, 0.0]},
        "c": {"score": 0.3, "features": [1.0, 0.1]},
        "d": {"score": 0.2, "features": [5.0, 0.0]},
    }
    order = ["c", "a", "d", "b"]
    assert choose("random", {}, ["a", "b", "d"], 2, order) == ["a", "d"]
    assert choose("most_uncertain", scores, list("abcd"), 2, order) == ["b", "c"]
    assert choose("most_uncertain_diverse", scores, list("abcd"), 2, order) == ["b", "d"]


def test_seeds_draw_different_first_labels() -> None:
    pool = [str(number) for number in range(20)]
    orders = [label_order(pool, seed) for seed in range(3)]
    assert all(sorted(order) == sorted(pool) for order in orders)
    assert len({tuple(order[:3]) for order in orders}) == 3
    assert label_order(pool, 1) == orders[1]
