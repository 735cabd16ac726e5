"""published_layout: training step and inference in the plain layout of the published code, to compare with.

Built from the description of that layout, not from its code: the student on 2 + 2 patches; a teacher pass
of its own for the target; T Monte Carlo passes as T/2 whole passes of the batch repeated twice, encoder
included; their scores stored in one buffer, then softmax, then the mean; signed distance maps by a Euclidean
distance transform of each labeled crop, on the CPU in the main thread at every step; float32 in the default
memory layout; torch's own normalization layers and a convolution for each head; the teacher's average as a
loop over parameters; three losses read back at every step. Reading volumes from disk and restarting the
loader at every epoch are left out, which favors this side.

The losses are those of `losses`, so that a faster layout can be shown to compute the same numbers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .config import Config
from .distance import published_signed_distance_map, sdm_to_probability
from .losses import consistency_terms, supervised_loss, total_loss
from .network import DropoutMasks, DualTaskVNet, InstanceNorm
from .schedules import certainty_threshold
from .types import DualTaskOutput
from .uncertainty import certainty_weights, normalized_entropy


@dataclass
class PublishedRun:
    """The state of a training loop in the published layout.

    Attributes:
        config: Network, losses, T and number of steps.
        student: In training mode.
        teacher: A copy of the student, in training mode, without gradients.
        optimizer: SGD, momentum 0.9, rate 0.01, weight decay 1e-4.
        generator: Source of the dropout masks.
        device: Where the networks are.
        step: Steps done; decides ramps and the teacher's decay.
    """

    config: Config
    student: DualTaskVNet
    teacher: DualTaskVNet
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    device: str
    step: int = 0


def start_published(config: Config, device: str = "cpu", seed: int = 0, plain: bool = True) -> PublishedRun:
    """A fresh loop; `seed` fixes weights and masks; not `plain`, it has our normalization layers."""
    torch.manual_seed(seed)
    network = DualTaskVNet(config.network)
    student = (with_torch_norms(network) if plain else network).to(device).train()
    teacher = copy.deepcopy(student)
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    return PublishedRun(config, student, teacher, optimizer, torch.Generator().manual_seed(seed), device)


def published_step(run: PublishedRun, image: Tensor, label: Tensor) -> float:
    """One step of the published layout: losses, gradient, optimizer, teacher.

    Args:
        run: Changed in place.
        image: Labeled patches first, then unlabeled ones, `(B, 1, H, W, D)` float32.
        label: Class indices of the labeled patches, `(L, H, W, D)` int64, L < B.

    Returns:
        The total loss.
    """
    config, count = run.config, len(label)
    image = image.to(run.device)
    sdm = distance_targets(label, config.network.classes).to(run.device)
    output = full_pass(run.student, image, _masks(run, run.student, len(image)))
    with torch.no_grad():
        target = full_pass(run.teacher, image, _masks(run, run.teacher, len(image)))
        uncertainty = normalized_entropy(monte_carlo_mean(run, image))
        ramp = config.loss.pool_ramp(run.step, config.train.steps)
        threshold = certainty_threshold(ramp, config.loss.threshold_start)
        weights = certainty_weights(uncertainty, threshold, config.loss.uncertainty_weighting)
        target_probs = target.logits.softmax(dim=1)
    labeled = DualTaskOutput(output.logits[:count], output.sdm[:count])
    supervised = supervised_loss(labeled, label.to(run.device), sdm, config.loss)
    intra, cross = consistency_terms(output, target_probs, target.sdm, weights, config.loss)
    terms = total_loss(supervised, intra, cross, weights, ramp, config.loss)
    run.optimizer.zero_grad()
    terms.total.backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()
    _average_weights(run)
    run.step += 1
    logged = [terms.total.item(), terms.supervised.item(), terms.intra_task.item()]
    return float(logged[0])


def distance_targets(label: Tensor, classes: int) -> Tensor:
    """Distance maps `(L, F, H, W, D)` of labeled crops `(L, H, W, D)`, one crop and class after the other."""
    maps = [
        np.stack([published_signed_distance_map(crop == value) for value in range(1, classes + 1)])
        for crop in label.numpy()
    ]
    return torch.from_numpy(np.stack(maps))


def full_pass(network: DualTaskVNet, image: Tensor, masks: DropoutMasks | None) -> DualTaskOutput:
    """Encoder, decoder and both heads on `(B, 1, H, W, D)`: nothing shared, each layer on the whole batch."""
    features = network.encode(image)
    h = features.bottleneck if masks is None else features.bottleneck * masks.bottleneck
    for level in range(len(network.up) - 1, -1, -1):
        h = network.decoder[level](network.up[level](h) + features.skips[level])
    h = h if masks is None else h * masks.head
    logits = network.segmentation_head(h)
    raw = network.sdm_head(h) if network.config.sdm_head == "separate" else logits[:, 1:]
    return DualTaskOutput(logits, torch.tanh(raw))


def with_torch_norms(network: DualTaskVNet) -> DualTaskVNet:
    """The network with torch's own instance normalization, of the same values, in place of our faster one."""
    for block in network.modules():
        if not isinstance(block, nn.Sequential):
            continue
        for index, layer in enumerate(block):
            if isinstance(layer, InstanceNorm):
                plain = nn.InstanceNorm3d(layer.num_features, layer.eps, affine=True)
                plain.weight, plain.bias = layer.weight, layer.bias
                block[index] = plain
    return network


def monte_carlo_mean(run: PublishedRun, image: Tensor) -> Tensor:
    """Mean class probabilities `(B, C, H, W, D)` of T teacher passes; an odd T ends with a single batch."""
    batch, samples = len(image), run.config.train.mc_samples
    shape = (samples * batch, run.config.network.classes + 1, *image.shape[2:])
    scores = torch.zeros(shape, device=run.device)
    filled = 0
    while filled < len(scores):
        copies = min(2, samples - filled // batch)
        repeated = image.repeat(copies, 1, 1, 1, 1)
        masks = _masks(run, run.teacher, batch, copies)
        scores[filled : filled + len(repeated)] = full_pass(run.teacher, repeated, masks).logits
        filled += len(repeated)
    probs = scores.softmax(dim=1)
    return probs.reshape(samples, batch, *shape[1:]).mean(dim=0)


def naive_inference(
    network: DualTaskVNet, image: Tensor, config: Config, samples: int, generator: torch.Generator
) -> Tensor:
    """What `inference.window_channels` gives, by 1 + T whole passes, stored and then averaged.

    Args:
        network: In evaluation mode.
        image: Windows `(B, 1, h, w, d)`.
        config: Of the network.
        samples: T >= 1.
        generator: Source of the dropout masks; drawn in the same order as `window_channels` does.

    Returns:
        `(B, K, h, w, d)` float32 in [0, 1].
    """
    output = full_pass(network, image, None)
    probs = output.logits.softmax(dim=1)
    passes = []
    for _ in range(samples):
        masks = network.sample_masks(len(image), image, generator, config.mc_dropout)
        passes.append(full_pass(network, image, masks).logits)
    stored = torch.stack(passes).softmax(dim=2)
    channels = [probs, stored.mean(dim=0)]
    if config.infer.measure == "mutual_information":
        channels.append(torch.stack([normalized_entropy(one) for one in stored]).mean(dim=0))
    elif config.infer.measure == "head_disagreement":
        heads = (probs[:, 1:] - sdm_to_probability(output.sdm, config.loss.sharpness)).abs()
        channels.append(heads.amax(dim=1, keepdim=True))
    return torch.cat(channels, dim=1)


def _masks(run: PublishedRun, network: DualTaskVNet, batch: int, copies: int = 1) -> DropoutMasks:
    """Masks of `copies` passes side by side; drawn pass by pass, so that any layout meets the same ones."""
    like = next(network.parameters())
    drawn = [network.sample_masks(batch, like, run.generator) for _ in range(copies)]
    return DropoutMasks(
        torch.cat([masks.bottleneck for masks in drawn]), torch.cat([masks.head for masks in drawn])
    )


def _average_weights(run: PublishedRun) -> None:
    keep = min(1.0 - 1.0 / (run.step + 1), run.config.train.ema_decay)
    for ours, theirs in zip(run.teacher.parameters(), run.student.parameters(), strict=True):
        ours.data.mul_(keep).add_(theirs.data, alpha=1.0 - keep)
