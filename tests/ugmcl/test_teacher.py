"""The mean teacher: its decay, its ramp and its normalization buffers."""

import copy

import pytest
import torch

from tests.ugmcl.toy_scans import tiny_config
from ugmcl.network import DualTaskVNet
from ugmcl.teacher import MeanTeacher


def student(norm: str = "batch") -> DualTaskVNet:
    torch.manual_seed(0)
    return DualTaskVNet(tiny_config(network={"norm": norm}).network).train()


def moved(network: DualTaskVNet, by: float) -> DualTaskVNet:
    other = copy.deepcopy(network)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(by)
    return other


def offset(teacher: MeanTeacher, start: DualTaskVNet) -> float:
    """How far the teacher's weights lie from `start`; the same for every weight here."""
    pairs = list(zip(teacher.network.parameters(), start.parameters(), strict=True))
    distances = torch.cat([(a - b).flatten() for a, b in pairs])
    assert distances.std() < 1e-6
    return distances.mean().item()


def test_a_teacher_without_memory_is_the_student() -> None:
    start = student()
    teacher = MeanTeacher(start, decay=0.0)
    target = moved(start, 1.0)
    teacher.update(target, step=500)
    for mine, theirs in zip(teacher.network.parameters(), target.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_first_steps_forget_the_start() -> None:
    start = student()
    teacher = MeanTeacher(start, decay=0.99)
    teacher.update(moved(start, 1.0), step=0)  # decay 0
    assert offset(teacher, start) == pytest.approx(1.0, abs=1e-6)
    teacher.update(moved(start, 3.0), step=1)  # decay 1/2
    assert offset(teacher, start) == pytest.approx(2.0, abs=1e-6)
    teacher.update(moved(start, 5.0), step=2)  # decay 2/3: the plain mean of 1, 3 and 5
    assert offset(teacher, start) == pytest.approx(3.0, abs=1e-5)


def test_a_short_run_limits_what_the_teacher_keeps() -> None:
    start = student()
    teacher = MeanTeacher(start, decay=0.9)
    teacher.update(moved(start, 1.0), step=1000, at_most=0.75)
    assert offset(teacher, start) == pytest.approx(0.25, abs=1e-6)
    teacher.update(start, step=1000, at_most=0.95)  # the configured decay of 0.9 is the smaller one
    assert offset(teacher, start) == pytest.approx(0.225, abs=1e-6)


def test_later_steps_keep_the_configured_share() -> None:
    start = student()
    teacher = MeanTeacher(start, decay=0.9)
    teacher.update(moved(start, 1.0), step=1000)
    assert offset(teacher, start) == pytest.approx(0.1, abs=1e-6)


def test_the_teacher_needs_no_gradient_and_does_not_follow_the_student_by_itself() -> None:
    start = student()
    teacher = MeanTeacher(start, decay=0.9)
    assert not any(weight.requires_grad for weight in teacher.network.parameters())
    with torch.no_grad():
        next(start.parameters()).add_(1.0)
    assert not torch.equal(next(start.parameters()), next(teacher.network.parameters()))


def test_averaged_buffers_trail_the_students_and_ignore_the_teachers_own_passes() -> None:
    start = student()
    teacher = MeanTeacher(start, decay=0.9, buffers="ema")
    assert not teacher.network.training
    start(torch.randn(2, 1, 16, 16, 16) + 5.0)
    teacher.update(start, step=1000)
    theirs, mine = start.encoder[0][0][1], teacher.network.encoder[0][0][1]
    assert torch.allclose(mine.running_mean, 0.1 * theirs.running_mean, atol=1e-6)
    assert torch.allclose(mine.running_var, 0.9 + 0.1 * theirs.running_var, atol=1e-6)
    assert mine.num_batches_tracked == theirs.num_batches_tracked == 1
    before = mine.running_mean.clone()
    teacher.network.encode(torch.randn(2, 1, 16, 16, 16))
    assert torch.equal(mine.running_mean, before)


def test_published_buffers_come_from_the_teachers_own_passes() -> None:
    start = student()
    teacher = MeanTeacher(start, decay=0.9, buffers="published")
    assert teacher.network.training
    start(torch.randn(2, 1, 16, 16, 16) + 5.0)
    teacher.update(start, step=1000)
    mine = teacher.network.encoder[0][0][1]
    assert (mine.running_mean == 0).all()
    teacher.network.encode(torch.randn(2, 1, 16, 16, 16) + 5.0)
    assert (mine.running_mean != 0).all()
