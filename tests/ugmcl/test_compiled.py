"""Compiled networks train to the same numbers, and a compiler that fails is no reason not to train."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from tests.ugmcl.toy_scans import FP32, BallStudy, labeled, tiny_config, unlabeled
from ugmcl import compiled, training_state
from ugmcl.compiled import PARTS, compile_networks, compile_where_asked
from ugmcl.sampling import TwoStreamSampler
from ugmcl.training_state import TrainingState
from ugmcl.training_step import train_step

# torch looks at `.grad` of whatever enters a compiled function, features of the encoder too.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

CONFIG = tiny_config(train={"skip_below": 0.0, "steps": 4})


def begin() -> tuple[TrainingState, TwoStreamSampler]:
    run = training_state.start(CONFIG, None, FP32, 0)
    sampler = TwoStreamSampler(labeled("a"), unlabeled("u"), BallStudy(), CONFIG, run.rng)
    return run, sampler


def weights_after(run: TrainingState, sampler: TwoStreamSampler, steps: int) -> list[torch.Tensor]:
    for _ in range(steps):
        train_step(run, sampler)
        run.step += 1
    return [value.clone() for value in run.student.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_trying_the_compiled_networks_leaves_the_training_as_it_was() -> None:
    plain = weights_after(*begin(), 3)
    run, sampler = begin()
    first = weights_after(run, sampler, 1)
    assert compile_networks(run, sampler, "eager")
    assert all(part in network.__dict__ for part in PARTS for network in (run.student, run.teacher.network))
    assert run.step == 1
    assert same(first, list(run.student.state_dict().values()))
    assert same(weights_after(run, sampler, 2), plain)


def test_a_compiler_that_fails_is_named_and_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise OSError("there is no compiler here")

    plain = weights_after(*begin(), 2)
    run, sampler = begin()
    with caplog.at_level(logging.WARNING):
        assert not compile_networks(run, sampler, broken)
    assert "there is no compiler here" in caplog.text
    assert "training goes on without" in caplog.text
    assert not any(part in run.student.__dict__ for part in PARTS)
    assert same(weights_after(run, sampler, 2), plain)


def test_nothing_is_compiled_on_a_cpu_or_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "compile_networks", lambda *arguments: True)
    run, sampler = begin()
    assert not compile_where_asked(run, sampler)
    asked = tiny_config(train={"compile": "on"})
    run = training_state.start(asked, None, FP32, 0)
    sampler = TwoStreamSampler(labeled("a"), [], BallStudy(), asked, np.random.default_rng(0))
    assert not compile_where_asked(run, sampler)
    monkeypatch.setattr(run, "precision", training_state.Precision("fp32", "cuda"))
    assert compile_where_asked(run, sampler)
