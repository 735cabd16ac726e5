"""Losses by hand-computed numbers."""

import math

import pytest
import torch

from ugmcl.config import LossConfig
from ugmcl.losses import (
    consistency_terms,
    cross_task_consistency,
    entropy_loss,
    intra_task_consistency,
    likeliest_class,
    mixed_loss,
    soft_dice_loss,
    supervised_loss,
    total_loss,
    weighted_mean,
)
from ugmcl.types import DualTaskOutput


def voxels(*channels: list[float]) -> torch.Tensor:
    """`(1, C, N, 1, 1)` from one list of N values per channel."""
    return torch.tensor(channels)[None, :, :, None, None]


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_likeliest_class_is_the_first_of_the_largest(classes: int) -> None:
    probs = torch.rand(2, classes, 3, 4, 5)
    assert torch.equal(likeliest_class(probs), probs.argmax(dim=1))
    assert likeliest_class(voxels([0.5, 0.2], [0.5, 0.8])).flatten().tolist() == [0, 1]


def test_soft_dice_of_two_voxels() -> None:
    probs = voxels([0.2, 0.9], [0.8, 0.1])
    target = voxels([0.0, 1.0], [1.0, 0.0])
    # overlap 2 * 0.8 + 1, sizes 0.9 + 1 + 1
    assert soft_dice_loss(probs, target).item() == pytest.approx(1 - 2.6 / 2.9)


def test_soft_dice_is_averaged_over_samples_and_classes_not_summed_over_the_batch() -> None:
    perfect = voxels([0.0, 1.0], [1.0, 0.0])
    wrong = voxels([1.0, 0.0], [0.0, 1.0])
    both = torch.cat([perfect, wrong])
    target = torch.cat([perfect, perfect])
    # the wrong sample: 1 - 1 / (1 + 1 + 1)
    assert soft_dice_loss(both, target).item() == pytest.approx((0 + 2 / 3) / 2)


def test_an_absent_class_predicted_absent_costs_nothing() -> None:
    empty = voxels([1.0, 1.0], [0.0, 0.0])
    assert soft_dice_loss(empty, empty).item() == 0.0


def test_voxels_of_no_weight_do_not_count_in_dice() -> None:
    probs = voxels([0.2, 0.9, 0.0], [0.8, 0.1, 1.0])
    target = voxels([0.0, 1.0, 1.0], [1.0, 0.0, 0.0])
    weights = voxels([1.0, 1.0, 0.0])
    assert soft_dice_loss(probs, target, weights).item() == pytest.approx(1 - 2.6 / 2.9)


def test_the_supervised_loss_is_cross_entropy_dice_and_squared_distance_error() -> None:
    logits = voxels([0.0, math.log(3.0)], [math.log(3.0), 0.0])
    label = torch.tensor([1, 0]).reshape(1, 2, 1, 1)
    sdm, target = voxels([-0.5, 0.5]), voxels([-1.0, 1.0])
    cross_entropy = -math.log(0.75)
    dice = 1 - (2 * 0.75 + 1) / (1.0 + 1.0 + 1.0)
    output = DualTaskOutput(logits, sdm)
    assert supervised_loss(output, label, target, LossConfig(sdm_weight=0.3)).item() == pytest.approx(
        cross_entropy + dice + 0.3 * 0.25
    )
    assert supervised_loss(output, label, None, LossConfig()).item() == pytest.approx(cross_entropy + dice)


def test_a_weighted_mean_averages_channels_then_weighs_voxels() -> None:
    values, weights = voxels([1.0, 2.0], [3.0, 6.0]), voxels([1.0, 3.0])
    assert weighted_mean(values, weights).item() == pytest.approx((2 * 1 + 4 * 3) / 4)
    assert weighted_mean(values, None).item() == pytest.approx(3.0)
    assert weighted_mean(values, torch.zeros_like(weights)).item() == 0.0


@pytest.mark.parametrize(("beta", "expected"), [(1.0, 0.04), (0.0, 0.25), (0.75, 0.75 * 0.04 + 0.25 * 0.25)])
def test_beta_shares_the_intra_task_term_between_the_tasks(beta: float, expected: float) -> None:
    student, teacher = voxels([0.4, 0.0], [0.6, 1.0]), voxels([0.6, 1.0], [0.4, 0.0])
    student_sdm, teacher_sdm = voxels([0.5, 1.0]), voxels([0.0, -1.0])
    weights = voxels([1.0, 0.0])  # only the first voxel may teach
    loss = intra_task_consistency(student, teacher, student_sdm, teacher_sdm, weights, beta)
    assert loss.item() == pytest.approx(expected)


def test_cross_task_consistency_is_the_mean_squared_difference_of_the_heads() -> None:
    assert cross_task_consistency(voxels([1.0, 0.5]), voxels([0.0, 0.0])).item() == pytest.approx(0.625)
    assert cross_task_consistency(voxels([1.0, 0.5]), voxels([0.0, 0.0]), voxels([0.0, 1.0])).item() == 0.25


def test_heads_that_disagree_in_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1, 2, 1, 1\)"):
        cross_task_consistency(voxels([1.0, 0.5]), voxels([0.0, 0.0], [0.0, 0.0]))


def test_a_right_distance_map_agrees_with_a_right_segmentation() -> None:
    # The sign convention matters: negative inside must decode to foreground.
    output = DualTaskOutput(voxels([-9.0, 9.0], [9.0, -9.0]), voxels([-0.5, 0.5]))
    probs = output.logits.softmax(dim=1)
    intra, cross = consistency_terms(output, probs, output.sdm, voxels([1.0, 1.0]), LossConfig())
    assert intra.item() == pytest.approx(0.0, abs=1e-12)
    assert cross.item() == pytest.approx(0.0, abs=1e-6)
    upside_down = output._replace(sdm=-output.sdm)
    assert (
        consistency_terms(upside_down, probs, output.sdm, voxels([1.0, 1.0]), LossConfig())[1].item() > 0.99
    )


def test_the_uncertainty_guides_the_cross_task_term_only_where_asked() -> None:
    output = DualTaskOutput(voxels([-9.0, 9.0], [9.0, -9.0]), voxels([-0.5, -0.5]))
    probs, weights = output.logits.softmax(dim=1), voxels([1.0, 0.0])
    published = consistency_terms(output, probs, output.sdm, weights, LossConfig())[1]
    masked = consistency_terms(output, probs, output.sdm, weights, LossConfig(cross_task_guidance="mask"))[1]
    assert published.item() == pytest.approx(0.5, abs=1e-4)
    assert masked.item() == pytest.approx(0.0, abs=1e-4)


def test_mixed_patches_learn_the_likeliest_class_and_the_distance_where_voxels_count() -> None:
    logits = voxels([math.log(3.0), 5.0], [0.0, -5.0])
    target = voxels([0.1, 0.4], [0.9, 0.6])
    output = DualTaskOutput(logits, voxels([0.5, 0.9]))
    loss = mixed_loss(output, target, voxels([0.1, -1.0]), voxels([1.0, 0.0]), LossConfig(sdm_weight=2.0))
    segmentation = -math.log(0.25) + 1 - (2 * 0.25 + 1) / (0.25 + 1 + 1)
    assert loss.item() == pytest.approx(segmentation + 2.0 * 0.4**2)


def test_the_total_ramps_both_consistency_terms() -> None:
    one = torch.tensor(1.0)
    config = LossConfig(intra_task_weight=0.1, cross_task_weight=0.3)
    terms = total_loss(one, 2 * one, 3 * one, voxels([1.0, 0.0]), 0.5, config)
    assert terms.total.item() == pytest.approx(1 + 0.5 * (0.1 * 2 + 0.3 * 3))
    assert [t.item() for t in terms[1:]] == pytest.approx([1, 2, 3, 0.5, 0])
    assert total_loss(one, None, None, None, 1.0, config).total is one


def test_only_the_student_gets_a_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    sdm = torch.tanh(torch.randn(1, 2, 4, 4, 4))
    teacher = torch.randn(1, 3, 4, 4, 4).softmax(dim=1)
    weights = torch.ones(1, 1, 4, 4, 4)
    intra, cross = consistency_terms(DualTaskOutput(logits, sdm), teacher, sdm, weights, LossConfig())
    total_loss(logits.sum() * 0, intra, cross, weights, 1.0, LossConfig()).total.backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_entropy_of_sure_and_unsure_voxels_over_its_maximum() -> None:
    # one voxel at (1/2, 1/2): entropy ln 2; one at (3/4, 1/4): 0.5623; both over ln 2, then their mean
    logits = voxels([0.0, math.log(3.0)], [0.0, 0.0])
    quarter = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert entropy_loss(logits).item() == pytest.approx((1 + quarter / math.log(2)) / 2)
    assert entropy_loss(voxels([200.0], [0.0], [0.0])).item() == pytest.approx(0.0)


def test_terms_without_a_weight_or_a_teacher_are_zero() -> None:
    student = DualTaskOutput(voxels([0.0], [0.0]), voxels([0.0]))
    probs, sdm, ones = voxels([0.25], [0.75]), voxels([0.5]), torch.ones(1, 1, 1, 1, 1)
    intra, cross = consistency_terms(student, probs, sdm, ones, LossConfig(beta=0.75))
    assert intra.item() == pytest.approx(0.75 * 0.25**2 + 0.25 * 0.5**2)
    assert cross.item() == 0.0  # both heads say 1/2
    intra, _ = consistency_terms(student, probs, None, ones, LossConfig(beta=1.0))
    assert intra.item() == pytest.approx(0.25**2)
    off = LossConfig(intra_task_weight=0.0, cross_task_weight=0.0)
    assert [term.item() for term in consistency_terms(student, probs, sdm, ones, off)] == [0.0, 0.0]
    apart = DualTaskOutput(student.logits, voxels([-1.0]))  # the distance head says inside, about 1
    intra, cross = consistency_terms(apart, None, None, None, LossConfig())
    assert intra.item() == 0.0
    assert cross.item() == pytest.approx(0.25, rel=1e-4)


def test_the_entropy_joins_the_total_with_its_weight_and_the_ramp() -> None:
    zero, loss = torch.tensor(0.0), LossConfig(entropy_weight=0.2)
    terms = total_loss(torch.tensor(1.0), zero, zero, None, 0.5, loss, torch.tensor(0.8))
    assert terms.total.item() == pytest.approx(1.0 + 0.5 * 0.2 * 0.8)
    assert terms.entropy.item() == pytest.approx(0.8)
    assert terms.certain_fraction.item() == 0.0
