"""training_step: one step of UG-MCL, or of a method that has only some of its terms.

Labeled patches give the supervised loss. The teacher sees the unlabeled patches, runs one encoder pass and T
dropout passes of the decoder on it; their mean is the target, its entropy decides which voxels teach. The
student sees the same patches perturbed and is pulled towards the target (intra-task) and towards agreement
of its own two heads (cross-task). What no term with a weight asks for, such as the teacher or its dropout
passes, is not computed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .augmentation import clamped_noise, strong_intensity
from .losses import consistency_terms, entropy_loss, mixed_loss, supervised_loss, total_loss
from .sampling import TwoStreamSampler
from .schedules import (
    certainty_threshold,
    one_cycle_factor,
    step_decay_factor,
    teacher_memory,
)
from .training_state import TrainingState
from .types import Batch, DualTaskOutput, LossTerms
from .uncertainty import StochasticPasses, certainty_weights, normalized_entropy, stochastic_passes


class Lesson(NamedTuple):
    """What the teacher says of patches.

    Attributes:
        probs: Class probabilities `(B, C, H, W, D)`: the mean of its passes.
        sdm: Signed distance maps `(B, F, H, W, D)`, or `None` where no term trains them.
        weights: How much each voxel may teach, `(B, 1, H, W, D)` in [0, 1].
    """

    probs: Tensor
    sdm: Tensor | None
    weights: Tensor


class Targets(NamedTuple):
    """The consistency patches and what is asked of the student on them.

    Attributes:
        images: Patches the student sees, `(B, 1, H, W, D)`.
        lesson: The teacher's, with the label one-hot and of weight 1 in exchanged boxes; `None` where no term
            needs a teacher.
        labeled: 1 where a label stands, `(B, 1, H, W, D)`; `None` without exchanged boxes.
        exchanged: How many of the labeled patches appear here instead of whole.
    """

    images: Tensor
    lesson: Lesson | None
    labeled: Tensor | None = None
    exchanged: int = 0


def train_step(run: TrainingState, sampler: TwoStreamSampler) -> LossTerms:
    """One optimizer step and one teacher update; returns the loss terms, still on the device."""
    config = run.config
    batch = sampler.labeled_batch()
    ramp = config.loss.pool_ramp(run.step, run.steps)
    unlabeled = _consistency_batch(run, sampler, batch, ramp)
    targets = None if unlabeled is None else _targets(run, batch, unlabeled)
    if targets is not None and targets.exchanged:
        batch = batch.after(targets.exchanged)
    # With the consistency terms on all patches, the labeled ones are already the first of the targets.
    shared = targets is not None and config.train.mc_stream == "all" and targets.labeled is None
    if targets is None:
        images = batch.image
    else:
        images = targets.images if shared else torch.cat([batch.image, targets.images])
    if config.train.perturbation == "strong":
        images = strong_intensity(images, run.generator)
    with run.precision.autocast():
        arranged = run.precision.arrange(images)
        output = run.student(arranged, run.generator, distances=config.learns_distances)
    terms = _loss(run, output, batch, targets, 0 if shared else len(batch.image), ramp)
    _descend(run, terms.total)
    return terms


def _loss(
    run: TrainingState, output: DualTaskOutput, batch: Batch, targets: Targets | None, first: int, ramp: float
) -> LossTerms:
    """All terms of a step: whole labeled patches come first in `output`, the targets' from `first` on."""
    config, device, whole = run.config.loss, output.logits.device, len(batch.image)
    supervised = torch.zeros((), device=device)
    if whole:
        assert batch.label is not None
        sdm = None if batch.sdm is None else batch.sdm.to(device)
        seen = DualTaskOutput(output.logits[:whole], output.sdm[:whole])
        supervised = supervised_loss(seen, batch.label.to(device), sdm, config)
    if targets is None:
        return total_loss(supervised, None, None, None, ramp, config)
    student = DualTaskOutput(output.logits[first:], output.sdm[first:])
    entropy = entropy_loss(student.logits) if config.entropy_weight > 0 else None
    if targets.lesson is None:
        intra, cross = consistency_terms(student, None, None, None, config)
        return total_loss(supervised, intra, cross, None, ramp, config, entropy)
    probs, sdm, weights = targets.lesson
    if targets.labeled is not None:
        certain = torch.where(targets.labeled > 0, 1.0, ramp * config.mix_weight * weights)
        mixed = mixed_loss(student, probs, sdm, certain, config)
        supervised = (whole * supervised + len(student.logits) * mixed) / (whole + len(student.logits))
    intra, cross = consistency_terms(student, probs, sdm, weights, config)
    return total_loss(supervised, intra, cross, weights, ramp, config, entropy)


def _consistency_batch(
    run: TrainingState, sampler: TwoStreamSampler, labeled: Batch, ramp: float
) -> Tensor | None:
    """Patches of the consistency terms: labeled ones without a pool, `None` while they hardly count."""
    if not run.config.asks_pool(ramp):
        return None
    batch = sampler.unlabeled_batch()
    return labeled.image if batch is None else batch.image


def _targets(run: TrainingState, labeled: Batch, unlabeled: Tensor) -> Targets:
    """The teacher's view of the configured stream, with boxes exchanged where copy-paste is on."""
    train = run.config.train
    if train.copy_paste == "on":
        return _exchange_boxes(run, labeled, unlabeled, teach(run, unlabeled))
    images = torch.cat([labeled.image, unlabeled]) if train.mc_stream == "all" else unlabeled
    return Targets(images, teach(run, images) if run.config.has_teacher else None)


def _exchange_boxes(run: TrainingState, labeled: Batch, unlabeled: Tensor, taught: Lesson) -> Targets:
    """Boxes of labeled patches in unlabeled ones and the reverse; the labels stand in for the teacher.

    As many labeled patches as there are unlabeled ones are exchanged; the rest stay whole.

    Source: bidirectional copy-paste (Bai et al. 2023), box edges 2/3 of the patch.
    """
    assert labeled.label is not None
    count = min(len(labeled.image), len(unlabeled))
    size = unlabeled.shape[2:]
    box = torch.zeros((1, 1, *size), device=taught.probs.device)
    window = []
    for edge in size:
        length = max(1, 2 * edge // 3)
        start = int(run.rng.integers(0, edge - length + 1))
        window.append(slice(start, start + length))
    box[(slice(None), slice(None), *window)] = 1.0

    def mix(ours: Tensor, theirs: Tensor) -> Tensor:
        ours, theirs = ours[:count], theirs[:count]
        inside = box.to(ours.device)
        return torch.cat([ours * inside + theirs * (1 - inside), theirs * inside + ours * (1 - inside)])

    device = taught.probs.device
    one_hot = F.one_hot(labeled.label, taught.probs.shape[1]).movedim(-1, 1).float().to(device)
    sdm = None
    if labeled.sdm is not None and taught.sdm is not None:
        sdm = mix(labeled.sdm.to(device), taught.sdm)
    ones = torch.ones_like(taught.weights)
    lesson = Lesson(mix(one_hot, taught.probs), sdm, mix(ones, taught.weights))
    return Targets(mix(labeled.image, unlabeled), lesson, mix(ones, torch.zeros_like(ones)), count)


@torch.no_grad()
def teach(run: TrainingState, images: Tensor) -> Lesson:
    """The teacher's mean probabilities and distance maps for patches, and how much each voxel may teach.

    Where the uncertainty has no say (`uncertainty_weighting` "none"), one pass without dropout does.
    """
    config, network, distances = run.config, run.teacher.network, run.config.learns_distances
    if config.train.perturbation == "noise":
        images = clamped_noise(images, run.generator)
    if config.loss.uncertainty_weighting == "none":
        with run.precision.autocast():
            output = network.decode(network.encode(run.precision.arrange(images)))
        probs = output.logits.float().softmax(dim=1)
        return Lesson(probs, output.sdm.float() if distances else None, torch.ones_like(probs[:, :1]))
    probs, sdm = _teacher_passes(run, images, distances)
    ramp = config.loss.pool_ramp(run.step, run.steps)
    threshold = certainty_threshold(ramp, config.loss.threshold_start)
    weights = certainty_weights(normalized_entropy(probs), threshold, config.loss.uncertainty_weighting)
    return Lesson(probs, sdm, weights)


def _teacher_passes(run: TrainingState, images: Tensor, distances: bool) -> tuple[Tensor, Tensor | None]:
    """Mean probabilities and distance maps of the T dropout passes, half of them mirrored where asked for."""
    train, network = run.config.train, run.teacher.network
    rate = min(train.mc_dropout, run.config.network.dropout)
    mirrored = train.mc_samples // 2 if train.mirror_teacher == "on" else 0

    def passes(side: Tensor, samples: int) -> StochasticPasses:
        features = network.encode(run.precision.arrange(side))
        return stochastic_passes(network, features, samples, run.generator, distances=distances, rate=rate)

    with run.precision.autocast():
        seen = passes(images, train.mc_samples - mirrored)
        if not mirrored:
            return seen.probs, seen.sdm
        turned = passes(images.flip(2), mirrored)
    share = mirrored / train.mc_samples
    probs = torch.lerp(seen.probs, turned.probs.flip(2), share)
    if seen.sdm is None or turned.sdm is None:
        return probs, None
    return probs, torch.lerp(seen.sdm, turned.sdm.flip(2), share)


def _descend(run: TrainingState, loss: Tensor) -> None:
    train = run.config.train
    factor = (
        one_cycle_factor(run.step, run.steps)
        if train.optimizer == "adamw"
        else step_decay_factor(run.step, run.steps)
    )
    for group in run.optimizer.param_groups:
        group["lr"] = run.peak_rate * factor
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if train.gradient_clip > 0:
        torch.nn.utils.clip_grad_norm_(run.student.parameters(), train.gradient_clip)
    run.optimizer.step()
    if run.config.has_teacher:
        run.teacher.update(run.student, run.step, teacher_memory(run.steps, train.ema_share))
