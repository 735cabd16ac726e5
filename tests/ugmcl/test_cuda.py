"""On a real GPU: the numbers of the CPU, and steps that never make the host wait."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ugmcl.toy_scans import FP32, BallStudy, labeled, tiny_config, unlabeled
from ugmcl import bench_gpu, training_state
from ugmcl.compiled import compile_where_asked
from ugmcl.config import Config
from ugmcl.distance import published_distance_maps
from ugmcl.inference import Predictor
from ugmcl.methods import METHODS, method_config
from ugmcl.network import InstanceNorm
from ugmcl.precision import Precision
from ugmcl.sampling import TwoStreamSampler
from ugmcl.trainer import FitResult, fit
from ugmcl.training_step import train_step

pytestmark = pytest.mark.gpu
CUDA, HALF = Precision("fp32", "cuda"), Precision("bf16", "cuda", True)
METHOD_NAMES = [name for name, method in METHODS.items() if not method.same_as]


@pytest.fixture(autouse=True)
def exact_convolutions() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trained(config: Config, precision: Precision, workdir: Path, **options: Any) -> FitResult:
    study = BallStudy(config.network.classes)
    return fit(
        config, labeled("a", "b"), unlabeled("u", "v"), [], study, workdir, precision=precision, **options
    )


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_step_never_makes_the_host_wait(method: str) -> None:
    config = method_config(method, tiny_config(2, train={"unlabeled_batch": 2, "mc_samples": 4}))
    run = training_state.start(config, None, HALF, 0)
    run.step = run.steps - 2
    sampler = TwoStreamSampler(labeled("a", "b"), unlabeled("u"), BallStudy(2), config, run.rng, "cuda")
    for _ in range(8):  # reads the cases, lets cuDNN try its convolutions, makes the optimizer's state
        train_step(run, sampler)
    with waiting_is_an_error():
        terms = train_step(run, sampler)
    assert all(torch.isfinite(term) for term in terms)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_without_random_voxels_the_gpu_trains_to_the_numbers_of_the_cpu(norm: str, tmp_path: Path) -> None:
    config = tiny_config(
        2,
        network={"dropout": 0.0, "norm": norm},
        train={"perturbation": "none", "copy_paste": "on", "skip_below": 0.0, "steps": 4, "optimizer": "sgd"},
    )
    there, here = (trained(config, precision, tmp_path) for precision in (CUDA, FP32))
    for name, value in here.teacher.state.items():
        torch.testing.assert_close(there.teacher.state[name], value, rtol=1e-2, atol=1e-3)


def test_a_stopped_round_goes_on_with_its_random_numbers(tmp_path: Path) -> None:
    config, asked = tiny_config(train={"skip_below": 0.0, "steps": 6}), iter([False, False, True])
    stopped = trained(config, CUDA, tmp_path, should_stop=lambda: next(asked))
    assert (stopped.stopped, stopped.steps) == (True, 3)
    assert trained(config, CUDA, tmp_path).steps == 6


def test_distance_maps_of_crops_have_the_bits_of_the_cpu() -> None:
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (3, 9, 8, 7)))
    assert torch.equal(published_distance_maps(label.cuda(), 2).cpu(), published_distance_maps(label, 2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_normalization_is_that_of_the_cpu(layout: torch.memory_format) -> None:
    norm, values = InstanceNorm(4, affine=True), 3 + torch.randn(2, 4, 6, 7, 8)
    expected = norm(values)
    found = norm.cuda()(values.cuda().to(memory_format=layout))
    assert found.is_contiguous(memory_format=layout)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", [CUDA, HALF], ids=["fp32", "bf16"])
def test_a_scan_is_segmented_as_on_the_cpu(precision: Precision, tmp_path: Path) -> None:
    model = trained(tiny_config(train={"steps": 40}), FP32, tmp_path).student
    scan, _ = BallStudy()(labeled("x")[0])
    here = Predictor(model, precision=FP32).predict(scan)
    there = Predictor(model, precision=precision).predict(scan)
    assert (here.labels == there.labels).mean() > 0.99
    assert here.uncertainty is not None
    assert there.uncertainty is not None
    assert there.uncertainty.shape == here.uncertainty.shape
    assert float(np.abs(here.probs - there.probs).mean()) < 0.02


@pytest.mark.slow
def test_compiled_networks_train() -> None:
    config = tiny_config(train={"compile": "on", "copy_paste": "on"})
    run = training_state.start(config, None, HALF, 0)
    sampler = TwoStreamSampler(labeled("a"), unlabeled("u"), BallStudy(), config, run.rng, "cuda")
    assert compile_where_asked(run, sampler)
    run.step = run.steps - 1
    assert torch.isfinite(train_step(run, sampler).total)


@pytest.mark.slow
def test_the_gpu_bench_runs(tmp_path: Path) -> None:
    assert bench_gpu.run("cuda", tmp_path / "figures.json", quick=True, leave_out=["compiled"]) == 0
    assert (tmp_path / "gpu.csv").exists()
