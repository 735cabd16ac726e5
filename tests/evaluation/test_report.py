"""From CSV files to results.md, its pictures and results.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from server.evaluation.case_metrics import MERGED, METRICS
from server.evaluation.csv_files import COLUMNS, Row, read_rows, write_rows
from server.evaluation.drawing import spread_out
from server.evaluation.report import BEGIN, END, report, with_generated
from server.evaluation.results_file import read_gpu, results, to_json
from server.evaluation.summary import Evaluated, comparisons, gap_closed
from server.evaluation.tables import p_value

Experiment = tuple[Path, Path, Path]
ENTRY = {"dice", "dice_std_over_seeds", "jaccard", "asd_voxel", "hd95_voxel", "seeds", "steps", "device",
         "commit", "p_value_vs_supervised"}  # fmt: skip


@pytest.fixture(scope="module")
def docs(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A docs folder with the report in it."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "results.md").write_text(f"# Results\n\nby hand\n\n{BEGIN}\nold\n{END}\n\nalso by hand\n")
    report(experiment[2], folder, ["supervised", "ug_mcl_plus"])
    return folder


def rows_of(dices: dict[tuple[str, int], list[float]], labels: int = 10) -> dict[str, list[Row]]:
    """Rows of runs with the given Dice of each test case, by method and seed."""
    rows: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    for (method, seed), values in dices.items():
        identity = {"run": f"{method}{labels}{seed}", "data_set": "hippocampus", "labels": labels,
                    "method": method, "seed": seed}  # fmt: skip
        rows["runs"].append(
            {**dict.fromkeys(COLUMNS["runs"]), **identity, "model": "student", "steps": 10, "device": "d",
             "commit": "c", "versions": "v"}
        )  # fmt: skip
        for number, value in enumerate(values):
            figures = {**dict.fromkeys(METRICS, 1.0), "dice": value}
            rows["cases"].append({**identity, "role": "student", "case": f"case_{number}", "class": MERGED,
                                  "largest_component": 0, **figures})  # fmt: skip
    return rows


def test_mean_over_cases_then_sample_deviation_over_seeds() -> None:
    rows = rows_of({("ug_mcl", 0): [0.8, 0.9], ("ug_mcl", 1): [0.9, 1.0]})
    (figures,) = Evaluated(rows).figures("hippocampus", 10)
    assert figures.metrics["dice"] == pytest.approx((0.9, np.std([0.85, 0.95], ddof=1)))
    assert figures.by_case["dice"] == pytest.approx({"case_0": 0.85, "case_1": 0.95})


def test_one_seed_has_no_deviation() -> None:
    (figures,) = Evaluated(rows_of({("ug_mcl", 0): [0.8]})).figures("hippocampus", 10)
    assert figures.metrics["dice"].std is None


def test_p_values_are_corrected_for_the_methods_of_the_table() -> None:
    base = [0.5, 0.52, 0.54, 0.56, 0.58]
    better = {
        name: [d + gain * (1 + i) for i, d in enumerate(base)]
        for name, gain in (("dtc", 0.01), ("ua_mt", 0.02))
    }
    rows = rows_of({("supervised", 0): base, **{(name, 0): values for name, values in better.items()}})
    compared = comparisons(Evaluated(rows).figures("hippocampus", 10), "supervised")
    assert [one.wilcoxon_holm for one in compared] == pytest.approx([4 / 32, 4 / 32])


def test_gap_closed_is_a_share_of_the_way_to_all_labels() -> None:
    rows = rows_of({("supervised", 0): [0.8], ("ug_mcl", 0): [0.85]})
    assert gap_closed(Evaluated(rows).figures("hippocampus", 10), 0.9) == {"ug_mcl": pytest.approx(0.5)}
    assert gap_closed(Evaluated(rows).figures("hippocampus", 10), None) == {}


def test_results_have_the_layout_that_readers_rely_on(docs: Path) -> None:
    content = json.loads((docs / "results.json").read_text())
    assert set(content) == {"hippocampus", "uncertainty", "gpu"}
    assert set(content["hippocampus"]) == {"5", "10", "150"}
    assert all(
        set(entry) == ENTRY for methods in content["hippocampus"].values() for entry in methods.values()
    )
    plus = content["hippocampus"]["10"]["ug_mcl_plus"]
    assert plus["seeds"] == [0, 1]
    assert 0 < plus["p_value_vs_supervised"] < 1
    assert content["hippocampus"]["10"]["supervised"]["p_value_vs_supervised"] is None
    assert content["hippocampus"]["10"]["supervised"]["dice"] < plus["dice"] <= 1
    assert set(content["uncertainty"]["hippocampus"]) == {
        "error_auroc_band", "distance_auroc_band", "ece_band", "error_auroc_volume", "score_dice_spearman",
    }  # fmt: skip
    judged = content["uncertainty"]["hippocampus"]
    assert judged["error_auroc_band"] > judged["distance_auroc_band"]
    assert content["gpu"] == dict.fromkeys(
        ("train_step_ms", "train_step_ratio", "volume_inference_ms", "device")
    )


def test_identical_methods_and_single_cases_give_null_and_not_nan() -> None:
    rows = rows_of({("supervised", 0): [0.8, 0.9, 0.7], ("ug_mcl", 0): [0.8, 0.9, 0.7]})
    entry = json.loads(to_json(results(Evaluated(rows), {}, {})))["hippocampus"]["10"]["ug_mcl"]
    assert (entry["p_value_vs_supervised"], entry["dice_std_over_seeds"]) == (None, None)


def test_what_is_written_by_hand_stays(docs: Path) -> None:
    text = (docs / "results.md").read_text()
    assert text.startswith("# Results\n\nby hand\n\n<!-- generated")
    assert text.endswith(f"{END}\n\nalso by hand\n")
    assert "\nold\n" not in text


def test_the_same_csv_gives_the_same_page(experiment: Experiment, docs: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in (docs / "results.md", docs / "results.json")}
    shutil.copy(docs / "results.md", tmp_path / "results.md")
    report(experiment[2], tmp_path, ["supervised", "ug_mcl_plus"])
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_every_row_names_seeds_commit_and_machine(docs: Path) -> None:
    text = (docs / "results.md").read_text()
    assert "| 1500 | 0, 1 | c0ffeec | A |" in text
    assert "- A: a processor; python 3.11.2; torch 2.13.0" in text


def test_pictures_are_there_and_not_blank(docs: Path) -> None:
    text = (docs / "results.md").read_text()
    stems = ("learning_curve_{}", "cases_{}_5", "cases_{}_10", "calibration_{}", "risk_coverage_{}")
    names = [stem.format("hippocampus") for stem in stems]
    for name in names:
        assert f"(images/results/{name}.png)" in text
        pixels = matplotlib.image.imread(docs / "images" / "results" / f"{name}.png")
        assert pixels.shape[1] >= 1000
        assert pixels[..., :3].std() > 0.02


def test_one_marker_without_the_other_is_refused_before_anything_is_written(
    experiment: Experiment, tmp_path: Path
) -> None:
    (tmp_path / "results.md").write_text(f"# Results\n{BEGIN}\n")
    with pytest.raises(ValueError, match="each once"):
        report(experiment[2], tmp_path, [])
    assert [path.name for path in tmp_path.iterdir()] == ["results.md"]


def test_a_page_without_markers_gets_them_at_its_end() -> None:
    assert (
        with_generated("# Results\n", "x", Path("p"))
        == f"# Results\n\n## Experiments\n\n{BEGIN}\n\nx\n\n{END}\n"
    )


def test_runs_on_held_out_cases_are_marked(experiment: Experiment, tmp_path: Path) -> None:
    shutil.copytree(experiment[2], tmp_path / "csv")
    runs = [{**run, "evaluated_on": "hold_out"} for run in read_rows(tmp_path / "csv", "runs")]
    write_rows(tmp_path / "csv", "runs", runs)
    report(tmp_path / "csv", tmp_path, [])
    assert "measured on 6 cases held out of the pool" in (tmp_path / "results.md").read_text()


def test_gpu_figures_come_from_their_own_csv(tmp_path: Path) -> None:
    assert read_gpu(tmp_path) == {}
    path = tmp_path / "gpu.csv"
    path.write_text("train_step_ms,train_step_ratio,volume_inference_ms,device\n58.5,6.1,900,NVIDIA H100\n")
    assert read_gpu(tmp_path)["train_step_ratio"] == 6.1
    path.write_text("train_step_ms\n58.5\n")
    with pytest.raises(ValueError, match="needs one row"):
        read_gpu(tmp_path)


def test_p_values_below_a_thousandth_are_not_spelled_out() -> None:
    assert [p_value(value) for value in (None, 0.0004, 0.0314)] == ["-", "< 0.001", "0.031"]


def test_labels_move_apart_as_little_as_they_must() -> None:
    assert spread_out([0.0, 5.0], 1.0) == [0.0, 5.0]
    assert spread_out([1.0, 1.0], 1.0) == pytest.approx([0.5, 1.5])
    placed = spread_out([3.0, 1.0, 1.1, 0.9], 1.0)
    assert np.diff(sorted(placed)).min() >= 1.0 - 1e-9
    assert np.argsort(placed).tolist() == [3, 1, 2, 0]
