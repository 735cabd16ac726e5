"""bench_sides: the training steps that `bench` compares, and the synthetic scans they train on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import training_state, training_step
from .config import Config, replace
from .losses import consistency_terms, supervised_loss, total_loss
from .precision import Precision
from .presets import preset
from .published_layout import PublishedRun, distance_targets, published_step, start_published
from .sampling import TrainingCase, TwoStreamSampler
from .schedules import certainty_threshold
from .teacher import MeanTeacher
from .types import DualTaskOutput
from .uncertainty import certainty_weights, normalized_entropy, stochastic_passes
from .volume import Volume

Step = Callable[[], float]
"""One training step; returns its total loss."""


class BenchSize(NamedTuple):
    """How large a measurement is.

    Attributes:
        shape: Voxels of a scan, from which the preset derives the patch.
        small_shape: The same for the measurement of small scans, `None` for none.
        filters: Channels per level, or `None` for the preset's.
        paper_patch: Window of the paper's V-Net, multiples of 16.
        paper_filters: Channels per level of the paper's V-Net.
        windows: Windows in one inference call.
        warm_up: Untimed pairs before the timed ones.
        pairs: Timed pairs of training steps.
        inference_pairs: Timed pairs of inference calls.
    """

    shape: tuple[int, int, int] = (96, 96, 64)
    small_shape: tuple[int, int, int] | None = (36, 50, 35)
    filters: tuple[int, ...] | None = None
    paper_patch: tuple[int, int, int] = (48, 64, 48)
    paper_filters: tuple[int, ...] = (16, 32, 64, 128, 256)
    windows: int = 2
    warm_up: int = 1
    pairs: int = 5
    inference_pairs: int = 7


FULL = BenchSize()
"""Scans like a left atrium at the spacing a CPU trains at; hippocampus crops as the small ones."""
QUICK = BenchSize((16, 16, 16), None, (4, 8), (16, 16, 16), (4, 4, 8, 8, 8), 1, 1, 2, 2)
"""Seconds only: shows that everything runs; its ratios mean nothing."""


def bench_config(size: BenchSize, device: str) -> Config:
    """The preset "default" for scans of this shape, at 1 mm, with the published batch on both sides.

    The default step is smaller (1 unlabeled patch, T = 2, copy-paste); comparing that with 2 + 2 patches
    and T = 8 would count a change of the method as a gain of speed.
    """
    config = preset("default", ("foreground",), [size.shape], [(1.0, 1.0, 1.0)], device)
    config = replace(
        config, train={"labeled_batch": 2, "unlabeled_batch": 2, "mc_samples": 8, "copy_paste": "off"}
    )
    if size.filters is None:
        return config
    return replace(config, network={"filters": size.filters, "convolutions": (1,) * len(size.filters)})


def paper_config(size: BenchSize) -> Config:
    """The preset "paper-la": the V-Net of the paper."""
    config = preset("paper-la", ("foreground",), [size.paper_patch], [(1.0, 1.0, 1.0)])
    return replace(config, preprocess={"patch": size.paper_patch}, network={"filters": size.paper_filters})


def bench_cases(shape: tuple[int, int, int], labeled: int, unlabeled: int) -> list[TrainingCase]:
    """References to synthetic scans that `load_ellipsoid` makes: the shape and a seed each."""
    edges = "x".join(str(edge) for edge in shape)
    return [
        TrainingCase(f"case{seed}", f"{edges}:{seed}", "ellipsoid" if seed < labeled else None)
        for seed in range(labeled + unlabeled)
    ]


def load_ellipsoid(case: TrainingCase) -> tuple[Volume, NDArray[np.uint8] | None]:
    """A noisy ellipsoid on 1 mm voxels, with its label for a labeled case."""
    edges, _, seed = case.image.partition(":")
    shape = np.array([int(edge) for edge in edges.split("x")])
    rng = np.random.default_rng(int(seed))
    center = shape / 2 + rng.uniform(-0.08, 0.08, 3) * shape
    radii = shape * rng.uniform(0.18, 0.3, 3)
    grid = np.indices(tuple(shape)) - center[:, None, None, None]
    label = ((grid / radii[:, None, None, None]) ** 2).sum(axis=0) <= 1
    image = (label + rng.normal(0, 0.4, label.shape)).astype(np.float32)
    return Volume(image, np.eye(4)), None if case.label is None else label.astype(np.uint8)


def shipped_step(config: Config, precision: Precision) -> Step:
    """Our training step exactly as a round runs it, at its last step, where all terms are active."""
    train = config.train
    cases = bench_cases(config.preprocess.patch, train.labeled_batch, train.unlabeled_batch)
    run = training_state.start(config, None, precision, 0)
    run.step = run.steps - 1
    labeled, unlabeled = cases[: train.labeled_batch], cases[train.labeled_batch :]
    where = training_state.data_device(config, precision.device)
    sampler = TwoStreamSampler(labeled, unlabeled, load_ellipsoid, config, run.rng, where)
    return lambda: float(training_step.train_step(run, sampler).total.detach())


def published_layout_step(config: Config, device: str) -> Step:
    """The published layout's step on patches of the same scans, turned and mirrored as published."""
    train = config.train
    plain = replace(config, train={"method": "supervised", "augmentation": "published"})
    cases = bench_cases(config.preprocess.patch, train.labeled_batch, train.unlabeled_batch)
    labeled, unlabeled = cases[: train.labeled_batch], cases[train.labeled_batch :]
    sampler = TwoStreamSampler(labeled, unlabeled, load_ellipsoid, plain, np.random.default_rng(0))
    run = start_published(config, device)

    def step() -> float:
        batch, more = sampler.labeled_batch(), sampler.unlabeled_batch()
        assert batch.label is not None
        assert more is not None
        run.step = train.steps - 1
        return published_step(run, torch.cat([batch.image, more.image]), batch.label)

    return step


def exact_pair(config: Config, device: str) -> tuple[Step, Step]:
    """Two float32 loops over one fixed batch with the same start, masks and loss: shared encoder, published.

    The batch is of whole scans, where the distance map kept with a scan is that of its crop, bit for bit.
    """
    train = config.train
    cases = bench_cases(config.preprocess.patch, train.labeled_batch, train.unlabeled_batch)
    loaded = [load_ellipsoid(case) for case in cases]
    images = torch.stack([torch.from_numpy(volume.array.astype(np.float32))[None] for volume, _ in loaded])
    labels = torch.stack([torch.from_numpy(label).long() for _, label in loaded if label is not None])
    ours, theirs = start_published(config, device, plain=False), start_published(config, device)
    ours.step = theirs.step = train.steps - 1  # every term at its full weight
    sdm = distance_targets(labels, config.network.classes).to(device)
    teacher = MeanTeacher(ours.student, train.ema_decay, buffers="published")
    return (
        lambda: shared_encoder_step(ours, teacher, images, labels, sdm),
        lambda: published_step(theirs, images, labels),
    )


def shared_encoder_step(
    run: PublishedRun, teacher: MeanTeacher, image: Tensor, label: Tensor, sdm: Tensor
) -> float:
    """The step of `published_step` with the savings that change no number but in its last digits.

    One teacher encoder pass serves target and Monte Carlo passes; their mean is summed as it goes; the
    distance targets were made when the scan was read; the teacher's average is one fused operation.

    Args:
        run: Student, optimizer and masks; its teacher is not used.
        teacher: Trails the student.
        image: Labeled patches first, `(B, 1, H, W, D)` float32.
        label: `(L, H, W, D)` int64.
        sdm: Distance targets `(L, F, H, W, D)`.

    Returns:
        The total loss.
    """
    config, count, network = run.config, len(label), teacher.network
    image = image.to(run.device)
    output = run.student(image, run.generator)
    with torch.no_grad():
        features = network.encode(image)
        masks = network.sample_masks(len(image), features.bottleneck, run.generator)
        target = network.decode(features, masks)
        passes = stochastic_passes(network, features, config.train.mc_samples, run.generator, distances=False)
        ramp = config.loss.pool_ramp(run.step, config.train.steps)
        threshold = certainty_threshold(ramp, config.loss.threshold_start)
        uncertainty = normalized_entropy(passes.probs)
        weights = certainty_weights(uncertainty, threshold, config.loss.uncertainty_weighting)
        target_probs = target.logits.softmax(dim=1)
    labeled = DualTaskOutput(output.logits[:count], output.sdm[:count])
    supervised = supervised_loss(labeled, label.to(run.device), sdm, config.loss)
    intra, cross = consistency_terms(output, target_probs, target.sdm, weights, config.loss)
    terms = total_loss(supervised, intra, cross, weights, ramp, config.loss)
    run.optimizer.zero_grad(set_to_none=True)
    terms.total.backward()  # type: ignore[no-untyped-call]
    run.optimizer.step()
    teacher.update(run.student, run.step)
    run.step += 1
    return float(terms.total.detach())
