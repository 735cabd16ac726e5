"""training_step: one step of UG-MCL.

Labeled patches give the supervised loss. The teacher sees the unlabeled patches, runs one encoder pass and T
dropout passes of the decoder on it; their mean is the target, its entropy decides which voxels teach. The
student sees the same patches perturbed and is pulled towards the target (intra-task) and towards agreement of
its own two heads (cross-task).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .augmentation import clamped_noise, strong_intensity
from .losses import consistency_terms, pseudo_label_loss, supervised_loss, total_loss
from .sampling import TwoStreamSampler
from .schedules import certainty_threshold, gaussian_rampup, one_cycle_factor, step_decay_factor
from .training_state import TrainingState
from .types import Batch, DualTaskOutput, LossTerms
from .uncertainty import certainty_weights, normalized_entropy, stochastic_passes

GRADIENT_CLIP = 12.0
"""Largest gradient norm of a step; guards the first steps of a warm start [M]. UG-MCL clips nothing."""


class Targets(NamedTuple):
    """What the teacher asks of the student on the consistency patches.

    Attributes:
        images: Patches the student sees, `(B, 1, H, W, D)`.
        probs: Teacher's mean class probabilities `(B, C, H, W, D)`.
        sdm: Teacher's mean signed distance maps `(B, F, H, W, D)`.
        weights: How much each voxel may teach, `(B, 1, H, W, D)` in [0, 1].
    """

    images: Tensor
    probs: Tensor
    sdm: Tensor
    weights: Tensor


def train_step(run: TrainingState, sampler: TwoStreamSampler) -> LossTerms:
    """One optimizer step and one teacher update; returns the loss terms, still on the device."""
    config = run.config
    labeled = sampler.labeled_batch()
    ramp = gaussian_rampup(run.step, config.loss.rampup_fraction * run.steps)
    unlabeled = _consistency_batch(run, sampler, labeled, ramp)
    targets = None if unlabeled is None else _targets(run, labeled, unlabeled)
    count = len(labeled.image)
    everything = targets is not None and config.train.mc_stream == "all" and config.train.copy_paste == "off"
    images = labeled.image if targets is None or everything else torch.cat([labeled.image, targets.images])
    if targets is not None and everything:
        images = targets.images
    if config.train.perturbation == "strong":
        images = strong_intensity(images, run.generator)
    with run.precision.autocast():
        output = run.student(run.precision.arrange(images), run.generator)
    device = output.logits.device
    assert labeled.label is not None
    sdm = None if labeled.sdm is None else labeled.sdm.to(device)
    first = DualTaskOutput(output.logits[:count], output.sdm[:count])
    supervised = supervised_loss(first, labeled.label.to(device), sdm, config.loss)
    intra = cross = weights = None
    if targets is not None:
        seen = slice(0 if everything else count, None)
        student = DualTaskOutput(output.logits[seen], output.sdm[seen])
        weights = targets.weights
        intra, cross = consistency_terms(student, targets.probs, targets.sdm, weights, config.loss)
        if config.train.copy_paste == "on" and config.loss.mix_weight > 0:
            mixed = pseudo_label_loss(student.logits.float(), targets.probs, weights)
            supervised = supervised + ramp * config.loss.mix_weight * mixed
    terms = total_loss(supervised, intra, cross, weights, ramp, config.loss)
    _descend(run, terms.total)
    return terms


def _consistency_batch(
    run: TrainingState, sampler: TwoStreamSampler, labeled: Batch, ramp: float
) -> Tensor | None:
    """Patches of the consistency terms: labeled ones without a pool, `None` while they hardly count."""
    train = run.config.train
    if train.method == "supervised" or 0.1 * ramp < train.skip_below:
        return None
    batch = sampler.unlabeled_batch()
    return labeled.image if batch is None else batch.image


def _targets(run: TrainingState, labeled: Batch, unlabeled: Tensor) -> Targets:
    """The teacher's view of the configured stream, with boxes exchanged where copy-paste is on."""
    train = run.config.train
    if train.copy_paste == "on":
        return _exchange_boxes(run, labeled, unlabeled, Targets(unlabeled, *teach(run, unlabeled)))
    images = torch.cat([labeled.image, unlabeled]) if train.mc_stream == "all" else unlabeled
    return Targets(images, *teach(run, images))


def _exchange_boxes(run: TrainingState, labeled: Batch, unlabeled: Tensor, taught: Targets) -> Targets:
    """Boxes of labeled patches in unlabeled ones and the reverse; labels stand in for the teacher there.

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
    sdm = taught.sdm if labeled.sdm is None else labeled.sdm.to(device)
    return Targets(
        mix(labeled.image, unlabeled),
        mix(one_hot, taught.probs),
        mix(sdm, taught.sdm),
        mix(torch.ones_like(taught.weights), taught.weights),
    )


@torch.no_grad()
def teach(run: TrainingState, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The teacher's mean probabilities and distance maps for patches, and how much each voxel may teach."""
    config = run.config
    if config.train.perturbation == "noise":
        images = clamped_noise(images, run.generator)
    with run.precision.autocast():
        features = run.teacher.network.encode(run.precision.arrange(images))
        passes = stochastic_passes(run.teacher.network, features, config.train.mc_samples, run.generator)
    threshold = certainty_threshold(
        run.step, config.loss.rampup_fraction * run.steps, config.loss.threshold_start
    )
    weights = certainty_weights(
        normalized_entropy(passes.probs), threshold, config.loss.uncertainty_weighting
    )
    return passes.probs, passes.sdm, weights


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
    torch.nn.utils.clip_grad_norm_(run.student.parameters(), GRADIENT_CLIP)
    run.optimizer.step()
    if train.method != "supervised":
        run.teacher.update(run.student, run.step)
