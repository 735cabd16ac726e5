"""The comparison on real scans, tiny: it runs, resumes where it was stopped, and writes its figures."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from server.experiments import main
from server.scan_set import Loader, base_config, read_dataset
from ugmcl.config import replace
from ugmcl.experiment import Experiment, read_record, run_experiment
from ugmcl.precision import Precision

TINY = ["network.filters=[4,8]", "network.convolutions=[1,1]", "train.min_steps=2"]
KEYS = {"dice", "dice_std", "dice_by_seed", "seconds", "seeds"}

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_command(data: Path, folder: Path, *more: str) -> int:
    settings = [part for value in TINY for part in ("--set", value)]
    size = ["--threads", "1", "--cpu-seconds", "1.5", "--labeled", "2", "--unlabeled", "3", "--test", "4"]
    places = ["--data", str(data), "--work", str(folder / "runs")]
    places += ["--out", str(folder / "hippocampus.json")]
    return main(["hippocampus", *places, *size, *settings, *more])


def test_two_labels_give_figures_and_finished_runs_are_kept(hippocampus: Path, tmp_path: Path) -> None:
    chosen = ["--only", "binary/ug_mcl", "binary/supervised", "--seeds", "1"]
    assert run_command(hippocampus, tmp_path, *chosen) == 0
    figures = json.loads((tmp_path / "hippocampus.json").read_text())
    assert set(figures["binary"]) == {"ug_mcl", "supervised"}
    for arm in figures["binary"].values():
        assert set(arm) >= KEYS
        assert 0 <= arm["dice"] <= 1
        assert arm["seeds"] == [0]
    assert {"versions", "threads", "commit"} <= set(figures)

    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}
    assert run_command(hippocampus, tmp_path, *chosen) == 0
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}

    ranking = tmp_path / "score_ranking.json"
    assert main(["score-ranking", "--work", str(tmp_path / "runs"), "--out", str(ranking)]) == 0
    candidates = json.loads(ranking.read_text())["candidates"]
    assert {"volume_mean", "foreground_mean", "mass_over_foreground", "expected_dice_loss"} <= set(candidates)


def test_runs_side_by_side_give_the_figures_of_runs_in_turn(hippocampus: Path, tmp_path: Path) -> None:
    chosen = ["--only", "binary/ug_mcl", "binary/supervised", "--seeds", "1"]
    assert run_command(hippocampus, tmp_path, *chosen, "--threads", "2") == 0
    figures = json.loads((tmp_path / "hippocampus.json").read_text())
    assert set(figures["binary"]) == {"ug_mcl", "supervised"}
    files = sorted((tmp_path / "runs" / "logs").glob("*.log"))
    assert [file.stem for file in files] == ["binary_supervised_seed0", "binary_ug_mcl_seed0"]


def test_a_run_that_fails_beside_another_is_named_with_its_log(
    hippocampus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "binary_ug_mcl_seed0.json").mkdir(parents=True)  # so that its record cannot be kept
    chosen = ["--only", "binary/ug_mcl", "binary/supervised", "--seeds", "1"]
    assert run_command(hippocampus, tmp_path, *chosen, "--threads", "2") == 2
    said = capsys.readouterr().err
    assert "binary_ug_mcl_seed0 failed" in said
    assert ".log" in said


def test_stopped_run_goes_on_where_it_was(hippocampus: Path, tmp_path: Path) -> None:
    dataset, load = read_dataset(hippocampus), Loader(merge=True)
    config = base_config(("hippocampus",), dataset.unlabeled(dataset.pool[:2]), load, TINY)
    config = replace(config, train={"steps": 6, "skip_below": 0.0})
    run = Experiment(
        "binary", "ug_mcl", 0, config,
        dataset.cases(dataset.pool[:2]), dataset.unlabeled(dataset.pool[2:4]),
        dataset.cases(dataset.test[:2]),
    )  # fmt: skip
    steps: list[int] = []
    stopped = run_experiment(
        run, load, tmp_path, Precision(),
        progress=lambda progress: steps.append(progress.step), should_stop=lambda: len(steps) == 3,
    )  # fmt: skip
    assert stopped is None
    assert not (tmp_path / "binary_ug_mcl_seed0.json").exists()

    record = run_experiment(run, load, tmp_path, Precision(), progress=lambda p: steps.append(p.step))
    assert record is not None
    assert steps == [1, 2, 3, 4, 5, 6]
    assert record == read_record(tmp_path / "binary_ug_mcl_seed0.json")
    assert set(record["test"]) == {"teacher", "student"}


def test_another_configuration_is_another_run(hippocampus: Path) -> None:
    dataset, load = read_dataset(hippocampus), Loader(merge=True)
    config = base_config(("hippocampus",), dataset.unlabeled(dataset.pool[:2]), load, TINY)
    cases = dataset.cases(dataset.pool[:2])
    one = Experiment("binary", "supervised", 0, config, cases, [], cases)
    two = Experiment("binary", "supervised", 0, replace(config, train={"steps": 7}), cases, [], cases)
    assert one.name == two.name
    assert one.fingerprint != two.fingerprint


def test_a_mistyped_name_is_answered_with_a_sentence(
    hippocampus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(hippocampus, tmp_path, "--only", "ternary") == 2
    assert "matches no run" in capsys.readouterr().err
    assert run_command(hippocampus, tmp_path, "--set", "train.nothing=1") == 2
    assert "section.name=value" in capsys.readouterr().err
