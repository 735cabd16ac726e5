"""What a GPU would refuse or wait for in training, found without one: see `numberless_device`."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.ugmcl.numberless_device import DEVICE, NumberlessGenerator, waiting_copies
from tests.ugmcl.toy_scans import BallStudy, labeled, tiny_config, unlabeled
from ugmcl import training_state
from ugmcl.augmentation import PreparedVolume, cut_patch
from ugmcl.config import Config, replace
from ugmcl.methods import METHODS, method_config
from ugmcl.precision import Precision
from ugmcl.sampling import TwoStreamSampler, prepare
from ugmcl.training_step import train_step


def rehearse(config: Config, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Two whole steps at the end of a round; the copies that made the host wait."""
    config = replace(config, train={"data_device": "training"})
    monkeypatch.setattr(training_state, "generator_on", lambda device, seed: NumberlessGenerator())
    run = training_state.start(config, None, Precision("fp32", DEVICE), 0)
    run.step = run.steps - 2
    study, where = BallStudy(config.network.classes), training_state.data_device(config, DEVICE)
    sampler = TwoStreamSampler(labeled("a", "b"), unlabeled("u"), study, config, run.rng, where)
    for pool in (sampler.labeled, sampler.unlabeled):
        for case in pool.cases:
            pool._bring_in(case)
    with waiting_copies() as copies:
        for _ in range(2):
            terms = train_step(run, sampler)
            run.step += 1
    assert {term.device.type for term in terms} == {DEVICE}
    assert all(weight.grad is not None for weight in run.student.encoder.parameters())
    return copies


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.same_as])
def test_no_method_reads_a_number_back_or_waits_for_a_copy(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = method_config(method, tiny_config(2, train={"unlabeled_batch": 2, "mc_samples": 4}))
    assert rehearse(config, monkeypatch) == []


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"augmentation": "flips", "optimizer": "sgd"}, "network": {"norm": "batch"}},
        {
            "train": {
                "augmentation": "published", "crop_offset": "published", "perturbation": "noise",
                "teacher_buffers": "published", "mc_stream": "all", "gradient_clip": 0.0,
            },
            "network": {"norm": "batch", "sdm_head": "published"},
            "loss": {"sdm_convention": "published", "dice": "published", "uncertainty_weighting": "mask"},
            "preprocess": {"padding": "zero"},
        },
        {"loss": {"cross_task_guidance": "mask"}, "network": {"norm": "group"}},
    ],
    ids=["batch", "published", "group"],
)  # fmt: skip
def test_no_option_reads_a_number_back_or_waits_for_a_copy(
    sections: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rehearse(tiny_config(2, **sections), monkeypatch) == []


def test_the_rehearsal_notices_what_it_looks_for() -> None:
    values = torch.zeros(3).to(DEVICE)
    with pytest.raises(RuntimeError):
        float(values.sum())
    with pytest.raises(RuntimeError):
        values + torch.zeros(3)
    with waiting_copies() as copies:
        torch.zeros(3).to(DEVICE, non_blocking=True)
        assert copies == []
        torch.zeros(3).to(DEVICE)
        assert copies == [(3,)]


@pytest.mark.parametrize("augmentation", ["full", "flips", "published", "none"])
def test_a_volume_smaller_than_the_patch_is_padded_on_its_device(augmentation: str) -> None:
    config = tiny_config(train={"augmentation": augmentation})
    volume = prepare(labeled("a")[0], BallStudy(), config).to(DEVICE)
    with waiting_copies() as copies:
        patch = cut_patch(volume, (32, 32, 32), config.train, "minimum", np.random.default_rng(0))
    assert patch.image.device.type == patch.sdm.device.type == DEVICE
    assert copies == []


@pytest.mark.parametrize(
    ("asked", "device", "held"),
    [
        ("auto", "cpu", "cpu"), ("auto", "cuda:1", "cuda:1"), ("cpu", "cuda", "cpu"),
        ("training", "cuda", "cuda"), ("training", "cpu", "cpu"),
    ],
)  # fmt: skip
def test_scans_live_where_training_happens_unless_told_otherwise(asked: str, device: str, held: str) -> None:
    assert training_state.data_device(tiny_config(train={"data_device": asked}), device) == held


def test_a_moved_volume_keeps_its_lowest_intensity_and_its_foreground_on_the_host() -> None:
    volume = prepare(labeled("a")[0], BallStudy(), tiny_config())
    moved: PreparedVolume = volume.to(DEVICE)
    assert moved.lowest == float(volume.image.min())
    assert moved.foreground is volume.foreground
    assert moved.nbytes == volume.nbytes
