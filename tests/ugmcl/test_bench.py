"""The published layout and ours compute the same; the bench runs and writes every figure it promises."""

import csv
import json
from pathlib import Path

import pytest
import torch

from ugmcl import bench_gpu
from ugmcl.bench import TARGETS, alternate, main
from ugmcl.bench_gpu import step_times
from ugmcl.bench_profile import longest_operations
from ugmcl.bench_sides import QUICK, bench_config, exact_pair, paper_config
from ugmcl.config import Config, replace
from ugmcl.inference import window_channels
from ugmcl.network import DualTaskVNet
from ugmcl.precision import Precision
from ugmcl.published_layout import monte_carlo_mean, naive_inference, start_published
from ugmcl.uncertainty import stochastic_passes


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_both_layouts_have_the_same_loss_at_every_step(norm: str) -> None:
    config = replace(bench_config(QUICK, "cpu"), network={"norm": norm})
    ours, theirs = exact_pair(config, "cpu")
    losses = [(ours(), theirs()) for _ in range(4)]
    assert all(abs(a - b) < 1e-3 for a, b in losses)
    assert losses[0][0] != losses[-1][0]


@pytest.mark.parametrize("samples", [8, 5])
def test_stored_passes_of_repeated_batches_average_to_the_same_as_shared_passes(samples: int) -> None:
    config = replace(bench_config(QUICK, "cpu"), train={"mc_samples": samples})
    run = start_published(config)
    image = torch.randn(3, 1, 16, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        run.generator.manual_seed(7)
        theirs = monte_carlo_mean(run, image)
        generator = torch.Generator().manual_seed(7)
        ours = stochastic_passes(run.teacher, run.teacher.encode(image), samples, generator).probs
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("measure", ["predictive_entropy", "mutual_information", "head_disagreement"])
@pytest.mark.parametrize(
    "chosen", [bench_config(QUICK, "cpu"), paper_config(QUICK)], ids=["default", "paper"]
)
def test_naive_and_shared_inference_agree_under_the_same_masks(chosen: Config, measure: str) -> None:
    config = replace(chosen, infer={"measure": measure})
    torch.manual_seed(3)
    network = DualTaskVNet(config.network).eval()
    image = torch.randn(2, 1, *config.preprocess.patch)
    with torch.inference_mode():
        ours = window_channels(network, image, config, 8, torch.Generator().manual_seed(4))
        theirs = naive_inference(network, image, config, 8, torch.Generator().manual_seed(4))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_pairs_alternate_their_order_and_leave_the_warm_up_untimed() -> None:
    order: list[str] = []
    pairs = alternate(lambda: order.append("ours"), lambda: order.append("theirs"), pairs=2, warm_up=1)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert pairs.pairs == 2
    assert len(pairs.results) == 3


def test_the_gpu_bench_is_rehearsed_on_a_cpu_and_writes_the_row_that_the_report_reads(tmp_path: Path) -> None:
    assert bench_gpu.run("cpu", tmp_path / "bench-gpu.json", quick=True) == 0
    figures = json.loads((tmp_path / "bench-gpu.json").read_text())
    assert set(figures["steps"]) == {"ug_mcl", "ug_mcl_plus", "supervised", "published layout"}
    assert all(step["ms"] > 0 for step in figures["steps"].values())
    assert set(figures["growth"]) == {"T", "patch", "batch"}
    assert figures["inference"]["ratio_to_plain"] > 0
    row = next(csv.DictReader((tmp_path / "gpu.csv").read_text().splitlines()))
    assert float(row["train_step_ms"]) == figures["train_step_ms"]
    assert float(row["train_step_ratio"]) == figures["train_step_ratio"]
    assert float(row["volume_inference_ms"]) == figures["inference"]["T=8"]["total"]
    assert row["device"] == figures["device"]


def test_the_longest_operations_of_a_step_are_named() -> None:
    found = longest_operations("ug_mcl", Precision(), bench_gpu.QUICK, most=8)
    assert len(found) == 8
    assert [one[1] for one in found] == sorted((one[1] for one in found), reverse=True)
    assert all(calls >= 1 / 3 for _, _, calls in found)
    assert any("convolution" in name for name, _, _ in found)


def test_what_takes_minutes_of_its_own_can_be_left_out(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--quick", "--out", str(tmp_path / "figures.json")]
    assert bench_gpu.main([*words, "--leave-out", "growth", "compiled"]) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["growth"] == {}
    assert (tmp_path / "gpu.csv").exists()


def test_step_times_leave_the_warm_up_out() -> None:
    calls: list[int] = []
    times = step_times(lambda: calls.append(1), "cpu", 3, 4)
    assert (len(calls), len(times)) == (7, 4)
    assert all(0 <= one < 100 for one in times)


def test_quick_bench_writes_every_key_with_equal_losses_and_outputs(tmp_path: Path) -> None:
    assert main(["--quick", "--threads", "1", "--out", str(tmp_path / "bench.json")]) == 0
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert set(TARGETS) <= set(figures)
    assert all(figures[name] > 0 for name in TARGETS)
    assert figures["loss_difference"] < 1e-3
    assert figures["inference_output_difference"] < 1e-3
    assert set(figures["peak_memory_mib"]) == {"ours", "published_layout"}
    assert min(figures["peak_memory_mib"].values()) > 0
    assert {"versions", "threads", "device", "commit", "date"} <= set(figures)
