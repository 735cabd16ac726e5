"""The whole comparison of methods on real scans, tiny: pack, run all methods, evaluate, report."""

import csv
import gzip
import json
import math
from pathlib import Path

import pytest

from server.cli import main
from ugmcl.methods import METHODS

METHODS_RUN = ("supervised", "mean_teacher", "ua_mt", "dtc", "entropy_minimization", "ug_mcl", "ug_mcl_plus")
TINY = ("network.filters=[4,8]", "network.convolutions=[1,1]", "train.skip_below=0", "infer.mc_samples=2")
RESULT_KEYS = {
    "dice", "dice_std_over_seeds", "jaccard", "asd_voxel", "hd95_voxel", "seeds", "steps", "device", "commit",
    "p_value_vs_supervised",
}  # fmt: skip
UNCERTAINTY_KEYS = {
    "error_auroc_band", "distance_auroc_band", "ece_band", "error_auroc_volume", "score_dice_spearman",
}  # fmt: skip

pytestmark = pytest.mark.real


@pytest.mark.timeout(600)
def test_every_method_goes_from_scans_to_the_tables(hippocampus: Path, tmp_path: Path) -> None:
    pack, work, tables = tmp_path / "hippocampus.npz", tmp_path / "runs", tmp_path / "csv"
    packing = ["pack", "--data", str(hippocampus), "--out", str(pack), "--merge", "--name", "hippocampus"]
    assert main(["experiment", *packing]) == 0
    settings = [part for value in TINY for part in ("--set", value)]
    size = ["--labels", "4", "--unlabeled", "4", "--limit-test", "4", "--ranking", "2", "--steps", "12"]
    places = ["--pack", str(pack), "--work", str(work), "--precision", "fp32"]
    training = ["run", *places, "--methods", ",".join(METHODS_RUN), *size, *settings]
    assert main(["experiment", *training]) == 0
    assert (
        main(["experiment", "evaluate", "--pack", str(pack), "--work", str(work), "--out", str(tables)]) == 0
    )
    with gzip.open(tables / "cases.csv.gz", "rt", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["method"] for row in rows} == set(METHODS_RUN)
    assert len({row["case"] for row in rows}) == 4
    docs = tmp_path / "docs"
    assert main(["experiment", "report", "--csv", str(tables), "--docs", str(docs)]) == 0
    figures = json.loads((docs / "results.json").read_text())
    found = figures["hippocampus"]["4"]
    assert set(found) == set(METHODS_RUN) <= set(METHODS)
    for name, method in found.items():
        assert set(method) >= RESULT_KEYS, name
        assert 0 <= method["jaccard"] <= method["dice"] <= 1
        assert method["steps"] == 12
        assert math.isfinite(method["hd95_voxel"])
        assert method["hd95_voxel"] > 0
    assert set(figures["uncertainty"]["hippocampus"]) >= UNCERTAINTY_KEYS
    text = (docs / "results.md").read_text()
    assert all(word in text for word in ("Wilcoxon", "Holm", "4 labels"))
