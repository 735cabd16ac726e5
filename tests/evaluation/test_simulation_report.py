"""From simulated rounds to CSV files, and from these to the page, the picture and active_learning.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from server.cli import main
from server.evaluation.csv_files import read_rows
from server.evaluation.report import BEGIN, END
from server.evaluation.simulation_report import MARKERS
from tests.ugmcl.toy_packs import TINY, write_balls

CASES = ("one", "two", "three")
PLANNED = (3, 5, 8)
FULL = 0.9


def write_arm(
    work: Path,
    arm: str,
    seed: int,
    dices: Sequence[float],
    *,
    settings: str = "s1",
    data_set: str = "hippocampus",
) -> None:
    """An arm's file as `simulate run` leaves it; each case is a little off the mean."""
    strategy = "all" if arm.startswith("all") else arm.removesuffix("_supervised")
    planned = [150] if strategy == "all" else list(PLANNED)
    rounds: list[dict[str, Any]] = [
        {
            "labels": labels, "labeled_ids": [f"case_{k}" for k in range(labels)], "steps": 200,
            "seconds": 50.5, "cpu_seconds": 40.5, "precision": {"name": "bf16"},
            "test": {case: dice + 0.01 * shift for case, shift in zip(CASES, (-1, 0, 1), strict=True)},
            "provenance": {"device": "a processor", "commit": "c0ffee" * 6, "versions": {"torch": "2.13.0"}},
        }
        for labels, dice in zip(planned, dices, strict=False)
    ]  # fmt: skip
    record = {"data_set": data_set, "arm": arm, "seed": seed, "strategy": strategy, "planned": planned,
              "method": "supervised" if arm.endswith("_supervised") else "ug_mcl_plus", "settings": settings,
              "rounds": rounds}  # fmt: skip
    path = work / "arms" / f"{data_set}_{arm}_seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def write_simulation(work: Path) -> None:
    for seed in range(2):
        write_arm(work, "random", seed, (0.80, 0.85, 0.88 + 0.002 * seed))
        write_arm(work, "most_uncertain", seed, (0.80, 0.87, 0.90))
        write_arm(work, "random_supervised", seed, (0.70, 0.80, 0.85))
    write_arm(work, "all_labels_supervised", 0, (FULL,))


def simulate(*words: str) -> int:
    return main(["simulate", *words])


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    write_simulation(tmp_path / "work")
    assert simulate("evaluate", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "csv")) == 0
    return tmp_path / "csv"


def test_the_summary_has_the_layout_that_readers_rely_on(csv: Path, tmp_path: Path) -> None:
    assert simulate("report", "--csv", str(csv), "--docs", str(tmp_path / "docs")) == 0
    content = json.loads((tmp_path / "docs" / "active_learning.json").read_text())
    assert set(content) == {"random", "random_supervised", "most_uncertain", "all_labels_supervised"}
    entry = {"labels_to_95", "labels_to_98", "labels_to_99", "area", "seeds"}
    assert all(set(one) == entry for one in content.values())
    best = content["most_uncertain"]
    assert best["seeds"] == [0, 1]
    assert best["labels_to_95"] == pytest.approx(3 + 2 * (0.855 - 0.80) / 0.07, abs=1e-5)
    assert best["labels_to_99"] == pytest.approx(5 + 3 * (0.891 - 0.87) / 0.03, abs=1e-5)
    assert best["area"] == pytest.approx((2 * 0.835 + 3 * 0.885) / 5, abs=1e-5)
    assert content["random_supervised"]["labels_to_95"] is None
    assert content["random"]["labels_to_99"] is None
    assert content["all_labels_supervised"]["area"] == pytest.approx(FULL)


def test_the_page_names_goals_seeds_steps_commit_and_machine(csv: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "results.md").write_text(f"# Results\n\n{BEGIN}\nexperiment\n{END}\n\nby hand\n")
    assert simulate("report", "--csv", str(csv), "--docs", str(docs)) == 0
    text = (docs / "results.md").read_text()
    assert f"{BEGIN}\nexperiment\n{END}\n\nby hand" in text
    assert "Dice 0.9000; 95 % = 0.8550, 98 % = 0.8820, 99 % = 0.8910" in text
    assert "| UG-MCL+, most uncertain | 0.8000 | 0.8700 | 0.9000 | 200 | 122 | 0, 1 | c0ffeec | A |" in text
    assert "| Supervised, random order | > 8 (" in text
    assert "- A: a processor; torch 2.13.0" in text
    assert "Not finished" not in text
    picture = matplotlib.image.imread(docs / "images" / "results" / "active_learning_hippocampus.png")
    assert picture.shape[1] >= 1000
    assert picture[..., :3].std() > 0.02


def test_the_same_csv_gives_the_same_page_and_only_its_part_changes(csv: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    assert simulate("report", "--csv", str(csv), "--docs", str(docs)) == 0
    first = (docs / "results.md").read_text()
    (docs / "results.md").write_text(first.replace(MARKERS[1], f"{MARKERS[1]}\n\nby hand"))
    assert simulate("report", "--csv", str(csv), "--docs", str(docs)) == 0
    assert (docs / "results.md").read_text() == first.rstrip() + "\n\nby hand\n"


def test_an_arm_that_did_not_come_to_its_end_is_marked_and_has_no_area(tmp_path: Path) -> None:
    write_arm(tmp_path / "work", "random", 0, (0.80, 0.85, 0.88))
    write_arm(tmp_path / "work", "most_uncertain", 0, (0.80, 0.87))
    assert simulate("evaluate", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "csv")) == 0
    assert simulate("report", "--csv", str(tmp_path / "csv"), "--docs", str(tmp_path / "docs")) == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "**Not finished**, 8 labels not reached: UG-MCL+, most uncertain." in text
    assert "`all_labels_supervised` was not run" in text
    assert "mean Dice, 3 to 5 labels" in text
    content = json.loads((tmp_path / "docs" / "active_learning.json").read_text())
    assert content["most_uncertain"]["area"] is None
    assert content["most_uncertain"]["labels_to_95"] is None


def test_seeds_that_only_the_csv_files_know_are_kept(csv: Path, tmp_path: Path) -> None:
    write_arm(tmp_path / "later", "random", 2, (0.81, 0.86, 0.89))
    assert simulate("evaluate", "--work", str(tmp_path / "later"), "--out", str(csv)) == 0
    rounds = read_rows(csv, "simulation_rounds")
    assert {row["seed"] for row in rows_of(rounds, "random")} == {0, 1, 2}
    assert {row["seed"] for row in rows_of(rounds, "most_uncertain")} == {0, 1}
    assert rows_of(rounds, "random")[1]["added"] == "case_3 case_4"


def rows_of(rounds: list[dict[str, Any]], arm: str) -> list[dict[str, Any]]:
    return [row for row in rounds if row["arm"] == arm]


def test_rounds_with_other_settings_are_not_mixed(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (csv / "simulation_rounds.csv").read_bytes()
    write_arm(tmp_path / "other", "random", 2, (0.81, 0.86, 0.89), settings="s2")
    words = ("evaluate", "--work", str(tmp_path / "other"), "--out", str(csv))
    assert simulate(*words) == 2
    assert "random on hippocampus with other settings" in capsys.readouterr().err
    assert (csv / "simulation_rounds.csv").read_bytes() == before
    assert simulate(*words, "--replace") == 0
    assert {row["seed"] for row in rows_of(read_rows(csv, "simulation_rounds"), "random")} == {2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("evaluate", "--work", "none", "--out", "csv"), "none holds no round of a simulation"),
        (("report", "--csv", "none"), "run `simulate evaluate` with --out none"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert simulate(*words) == 2
    assert said in capsys.readouterr().err


def test_from_a_pack_to_the_page(tmp_path: Path) -> None:
    pack, changes = write_balls(tmp_path / "balls.npz"), [word for one in TINY for word in ("--set", one)]
    words = ["--labels", "2,3", "--seeds", "1", "--steps", "2", "--reference-steps", "2", "--precision",
             "fp32", "--device", "cpu", "--threads", "1",
             "--arms", "random,most_uncertain,all_labels_supervised"]  # fmt: skip
    assert simulate("run", "--pack", str(pack), "--work", str(tmp_path / "work"), *words, *changes) == 0
    assert simulate("evaluate", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "csv")) == 0
    assert simulate("report", "--csv", str(tmp_path / "csv"), "--docs", str(tmp_path / "docs")) == 0
    content = json.loads((tmp_path / "docs" / "active_learning.json").read_text())
    assert set(content) == {"random", "most_uncertain", "all_labels_supervised"}
    assert 0 <= content["random"]["area"] <= 1
