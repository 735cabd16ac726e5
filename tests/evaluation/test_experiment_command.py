"""`ugmcl-assist experiment evaluate` and `report`, as they are typed."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest

from server.cli import main
from tests.evaluation.synthetic_experiment import write_run, write_synthetic_pack


def test_evaluate_then_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = (12, 13, 10)
    pack = write_synthetic_pack(tmp_path / "pack.npz", pool=3, test=4, shape=shape)
    for method, skill in (("supervised", 0.3), ("ug_mcl", 0.5)):
        write_run(tmp_path / "runs", pack, method, 0, skill=skill, ranking=3, shape=shape)
    csv, docs = str(tmp_path / "csv"), str(tmp_path / "docs")
    evaluate = [
        "experiment",
        "evaluate",
        "--pack",
        str(tmp_path / "pack.npz"),
        "--work",
        str(tmp_path / "runs"),
    ]
    assert main([*evaluate, "--out", csv]) == 0
    assert "ug_mcl_seed0: evaluated" in capsys.readouterr().out
    assert main(["experiment", "report", "--csv", csv, "--docs", docs]) == 0
    written = capsys.readouterr().out
    for name in ("results.md", "results.json", "worst_hippocampus.png"):
        assert name in written
    overlay = matplotlib.image.imread(tmp_path / "docs" / "images" / "results" / "worst_hippocampus.png")
    assert overlay[..., :3].std() > 0.1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "--pack", "none.npz", "--work", ".", "--out", "csv"], "none.npz"),
        (["report", "--csv", "none"], "run `experiment evaluate`"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", *arguments]) == 2
    assert sentence in capsys.readouterr().err
