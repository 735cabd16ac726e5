"""losses: the supervised loss and the two consistency terms, as plain functions of tensors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import LossConfig
from .distance import sdm_to_probability
from .types import DualTaskOutput, LossTerms


def soft_dice_loss(
    probs: Tensor, target: Tensor, weights: Tensor | None = None, smooth: float = 1.0
) -> Tensor:
    """1 - soft Dice, averaged over samples and foreground classes.

    Args:
        probs: Class probabilities `(B, C, H, W, D)`.
        target: Class probabilities or one-hot labels `(B, C, H, W, D)`.
        weights: Voxel weights `(B, 1, H, W, D)`, or `None` for 1 everywhere.
        smooth: Voxels added above and below; keeps an empty class at 0 loss when predicted empty.

    Source: Milletari et al. 2016. UG-MCL's code sums over the whole batch and uses squared denominators.
    """
    p, y = probs[:, 1:], target[:, 1:]
    if weights is not None:
        p, y = p * weights, y * weights
    axes = (2, 3, 4)
    overlap = 2.0 * (p * target[:, 1:]).sum(axes) + smooth
    return (1.0 - overlap / (p.sum(axes) + y.sum(axes) + smooth)).mean()


def supervised_loss(output: DualTaskOutput, label: Tensor, sdm: Tensor | None, config: LossConfig) -> Tensor:
    """Cross-entropy + Dice of the segmentation head + squared error of the distance head.

    Args:
        output: Of the labeled patches.
        label: Class indices `(B, H, W, D)` int64.
        sdm: Distance targets `(B, F, H, W, D)`, or `None` to leave the distance head out.
        config: Supplies `sdm_weight`.

    Source: UG-MCL Eq. 2, all weights 1; the form of its distance term is not printed, squared error as in
    dual-task consistency (Luo et al. 2021).
    """
    logits = output.logits.float()
    probs = logits.softmax(dim=1)
    one_hot = F.one_hot(label, logits.shape[1]).movedim(-1, 1).to(probs.dtype)
    loss = F.cross_entropy(logits, label) + soft_dice_loss(probs, one_hot)
    if sdm is not None and config.sdm_weight > 0:
        loss = loss + config.sdm_weight * F.mse_loss(output.sdm.float(), sdm)
    return loss


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over channels, then over voxels weighted by `(B, 1, H, W, D)`; 0 when no voxel counts."""
    values = values.mean(dim=1, keepdim=True)
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)


def intra_task_consistency(
    probs: Tensor,
    teacher_probs: Tensor,
    sdm: Tensor,
    teacher_sdm: Tensor | None,
    weights: Tensor | None,
    beta: float,
) -> Tensor:
    """Squared disagreement of student and teacher in both tasks, over the voxels that may teach.

    Args:
        probs: Student class probabilities `(B, C, H, W, D)`.
        teacher_probs: The teacher's, same shape, no gradient.
        sdm: Student signed distance maps `(B, F, H, W, D)`.
        teacher_sdm: The teacher's, same shape, no gradient; `None` leaves the distance task out.
        weights: `(B, 1, H, W, D)` in [0, 1], or `None` for all voxels.
        beta: Share of the segmentation task, in [0, 1].

    Returns:
        A scalar >= 0.

    Source: UG-MCL Eq. 4.
    """
    segmentation = weighted_mean((probs - teacher_probs) ** 2, weights)
    if teacher_sdm is None:
        return beta * segmentation
    distance = weighted_mean((sdm - teacher_sdm) ** 2, weights)
    return beta * segmentation + (1.0 - beta) * distance


def cross_task_consistency(probs: Tensor, sdm_probs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared disagreement of the segmentation and the distance head.

    Args:
        probs: Foreground class probabilities `(B, F, H, W, D)` of the segmentation head.
        sdm_probs: The same classes from the distance head, see `distance.sdm_to_probability`.
        weights: Voxel weights `(B, 1, H, W, D)`, or `None` for all.

    Returns:
        A scalar; 0 when the heads agree. Gradients reach both heads.

    Raises:
        ValueError: If the shapes differ.

    Source: UG-MCL Eq. 6, which counts all voxels (`weights=None`).
    """
    if probs.shape != sdm_probs.shape:
        raise ValueError(
            f"Both heads must cover the same classes: {tuple(probs.shape)} and {tuple(sdm_probs.shape)}."
        )
    return weighted_mean((probs - sdm_probs) ** 2, weights)


def consistency_terms(
    student: DualTaskOutput,
    teacher_probs: Tensor | None,
    teacher_sdm: Tensor | None,
    weights: Tensor | None,
    config: LossConfig,
) -> tuple[Tensor, Tensor]:
    """Both consistency terms of one set of patches: intra-task (Eq. 4) and cross-task (Eq. 6).

    A term that the configuration does not weigh, or that lacks the teacher's `(B, C, H, W, D)` probabilities,
    is 0; without `(B, 1, H, W, D)` weights all voxels count.
    """
    probs = student.logits.float().softmax(dim=1)
    sdm = student.sdm.float()
    intra = cross = torch.zeros((), device=probs.device)
    if teacher_probs is not None and config.intra_task_weight > 0:
        intra = intra_task_consistency(probs, teacher_probs, sdm, teacher_sdm, weights, config.beta)
    if config.cross_task_weight > 0:
        guidance = weights if config.cross_task_guidance == "mask" else None
        cross = cross_task_consistency(probs[:, 1:], sdm_to_probability(sdm, config.sharpness), guidance)
    return intra, cross


def likeliest_class(probs: Tensor) -> Tensor:
    """Index of the largest of class probabilities `(B, C, H, W, D)`, as `(B, H, W, D)` int64.

    `argmax` over a dimension that is not the last takes 20 times as long on a CPU [M].
    """
    index = torch.zeros_like(probs[:, 0], dtype=torch.long)
    largest = probs[:, 0]
    for value in range(1, probs.shape[1]):
        index = torch.where(probs[:, value] > largest, value, index)
        largest = torch.maximum(largest, probs[:, value])
    return index


def entropy_loss(logits: Tensor) -> Tensor:
    """Mean entropy of class scores `(B, C, H, W, D)` over its maximum ln C, in [0, 1].

    Source: Grandvalet & Bengio 2005, Vu et al. 2019; normalized by ln C as in SSL4MIS.
    """
    logarithms = logits.float().log_softmax(dim=1)
    return -(logarithms.exp() * logarithms).sum(dim=1).mean() / math.log(logits.shape[1])


def mixed_loss(
    output: DualTaskOutput,
    target_probs: Tensor,
    target_sdm: Tensor | None,
    weights: Tensor,
    config: LossConfig,
) -> Tensor:
    """The supervised loss of patches whose target is part label, part teacher, voxels weighted.

    Args:
        output: The student's, of the mixed patches.
        target_probs: Labels one-hot or teacher probabilities `(B, C, H, W, D)`; the likeliest class counts.
        target_sdm: Distance maps `(B, F, H, W, D)`; `None` leaves the distance head out.
        weights: `(B, 1, H, W, D)` in [0, 1]: 1 where a label stands, less where the teacher does.
        config: Supplies `sdm_weight`.

    Source: bidirectional copy-paste (Bai et al. 2023), with certainty weights for its largest component.
    """
    logits = output.logits.float()
    hard = likeliest_class(target_probs)
    entropy = weighted_mean(F.cross_entropy(logits, hard, reduction="none")[:, None], weights)
    one_hot = F.one_hot(hard, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    loss = entropy + soft_dice_loss(logits.softmax(dim=1), one_hot, weights)
    if target_sdm is None:
        return loss
    return loss + config.sdm_weight * weighted_mean((output.sdm.float() - target_sdm) ** 2, weights)


def total_loss(
    supervised: Tensor,
    intra: Tensor | None,
    cross: Tensor | None,
    weights: Tensor | None,
    ramp: float,
    config: LossConfig,
    entropy: Tensor | None = None,
) -> LossTerms:
    """L = L_sup + ramp (lambda_i L_itc + lambda_c L_ctc + lambda_e H), and its terms for logging.

    Source: UG-MCL Eq. 7; its lambda_e is 0. Without `intra` and `cross` only the supervised loss counts.
    """
    zero = torch.zeros((), device=supervised.device)
    if intra is None or cross is None:
        return LossTerms(supervised, supervised.detach(), zero, zero, zero, zero)
    total = supervised + ramp * (config.intra_task_weight * intra + config.cross_task_weight * cross)
    if entropy is not None:
        total = total + ramp * config.entropy_weight * entropy
    certain = zero if weights is None else weights.mean()
    entropy = zero if entropy is None else entropy.detach()
    return LossTerms(total, supervised.detach(), intra.detach(), cross.detach(), certain, entropy)
