"""uncertainty: Monte Carlo passes, measures in [0, 1], the voxels that may teach, the score of a scan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .network import DropoutMasks, DualTaskVNet, Features

BAND_NAMES = ("low", "medium", "high")
"""Names of the label values 1, 2, 3 of the banded map."""
BAND_EDGES = (0.1, 0.4, 0.7)
"""Lower edges of the bands; below the first a voxel is background. 0.4 is a binary mean of about 0.08/0.92.
"""
COARSE_BATCH = 4
"""Samples, of several dropout passes, in one batch at the coarse levels on a CPU [M]: enough for fast
convolutions of small maps; four of them at half the resolution are as large as one full map."""
COARSE_PASSES_CUDA = 8
"""Dropout passes in one batch there on CUDA: the paper's T; a patch of 112 x 112 x 80 has 8 MB there a pass
and map in bf16, a quarter of one map of the finest level."""


class StochasticPasses(NamedTuple):
    """Running sums over T dropout passes, divided by T.

    Attributes:
        probs: Mean class probabilities, `(B, C, H, W, D)`.
        sdm: Mean signed distance maps, `(B, F, H, W, D)`; `None` if left out.
        expected_entropy: Mean of the passes' entropies over ln C, `(B, 1, H, W, D)`; `None` unless asked for.
    """

    probs: Tensor
    sdm: Tensor | None
    expected_entropy: Tensor | None


def normalized_entropy(probs: Tensor) -> Tensor:
    """Entropy of class probabilities over its maximum ln C.

    Args:
        probs: `(B, C, H, W, D)`, summing to 1 over C.

    Returns:
        `(B, 1, H, W, D)` in [0, 1].

    Source: UG-MCL Eq. 3; divided by ln C so that thresholds mean the same for any number of classes.
    """
    entropy = -torch.special.xlogy(probs, probs).sum(dim=1, keepdim=True)
    normalized: Tensor = (entropy / math.log(probs.shape[1])).clamp(0.0, 1.0)
    return normalized


@torch.no_grad()
def stochastic_passes(
    network: DualTaskVNet,
    features: Features,
    samples: int,
    generator: torch.Generator | None = None,
    *,
    distances: bool = True,
    entropies: bool = False,
    rate: float | None = None,
) -> StochasticPasses:
    """T decoder passes over one encoder pass, averaged as they come instead of stored.

    Args:
        network: The network that made `features`.
        features: Of a batch of B patches.
        samples: T >= 1.
        generator: Source of the dropout masks, for a reproducible result.
        distances: Whether the distance head runs too (only training needs it).
        entropies: Whether each pass's entropy is averaged too (only mutual information needs it).
        rate: Probability of dropping a channel; that of training when `None`.
    """
    totals: list[Tensor] = []
    for logits, *sdm in _passes(network, features, samples, generator, distances, rate):
        terms = [logits.float().softmax(dim=1)]
        terms += [normalized_entropy(terms[0])] if entropies else []
        terms += [maps.float() for maps in sdm]
        totals = [total.add_(term) for total, term in zip(totals, terms, strict=True)] if totals else terms
    means = [total.div_(samples) for total in totals]
    return StochasticPasses(means[0], means[-1] if distances else None, means[1] if entropies else None)


def _passes(
    network: DualTaskVNet,
    features: Features,
    samples: int,
    generator: torch.Generator | None,
    distances: bool,
    rate: float | None,
) -> Iterator[tuple[Tensor, ...]]:
    """The heads' outputs of one dropout pass after the other.

    The small, coarse maps of several passes go through the decoder as one batch; the finest level, as large
    as the image, runs pass by pass. Passes of a network whose statistics mix the samples of a batch stay
    apart.
    """
    batch = len(features.bottleneck)
    together = COARSE_PASSES_CUDA if features.bottleneck.is_cuda else max(1, COARSE_BATCH // batch)
    if network.config.norm == "batch" and network.training:
        together = 1
    for first in range(0, samples, together):
        count = min(together, samples - first)
        masks = [network.sample_masks(batch, features.bottleneck, generator, rate) for _ in range(count)]
        repeated = [torch.cat([skip] * count) for skip in features.skips[1:]]  # keeps the memory layout
        wide = Features([features.skips[0], *repeated], torch.cat([features.bottleneck] * count))
        coarse = network.decode_coarse(
            wide, DropoutMasks(*(torch.cat(mask) for mask in zip(*masks, strict=True)))
        )
        for piece, drawn in zip(coarse.chunk(count), masks, strict=True):
            yield network.decode_finest(piece, features.skips[0], drawn, distances)


def certainty_weights(uncertainty: Tensor, threshold: float, weighting: str) -> Tensor:
    """How much each voxel may teach, `(B, 1, H, W, D)` in [0, 1].

    Args:
        uncertainty: `(B, 1, H, W, D)` in [0, 1].
        threshold: In [0, 1]; only "mask" uses it.
        weighting: "mask": 1 below the threshold, else 0 (UG-MCL Eq. 4); "soft": 1 - uncertainty.
    """
    if weighting == "soft":
        return 1.0 - uncertainty
    return (uncertainty < threshold).to(uncertainty.dtype)


class UncertaintySummary(NamedTuple):
    """What a reply says of a scan's uncertainty; see `summarize`."""

    score: float
    mean_foreground: float
    measure: str
    mc_samples: int
    top_slices: list[dict[str, float | int]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(self._asdict())


def expected_dice_loss(foreground: NDArray[np.floating[Any]], segmentation: NDArray[np.bool_]) -> float:
    """1 - the Dice that the mean probabilities expect of the segmentation, in [0, 1]; 0 when both are empty.

    Args:
        foreground: Mean probability that a voxel is foreground, any shape.
        segmentation: The predicted foreground, same shape.
    """
    total = float(foreground.sum()) + float(segmentation.sum())
    if total <= 0:
        return 0.0
    return float(np.clip(1.0 - 2.0 * float(foreground[segmentation].sum()) / total, 0.0, 1.0))


def region_scores(
    uncertainty: NDArray[np.float32],
    foreground: NDArray[np.float32],
    segmentation: NDArray[np.bool_],
    plain_foreground: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Candidate scores of a scan, each in [0, 1], higher = less sure; docs/results.md compares them.

    Args:
        uncertainty: Map `(X, Y, Z)` in [0, 1].
        foreground: Mean foreground probability of the passes `(X, Y, Z)`.
        segmentation: Predicted foreground `(X, Y, Z)`.
        plain_foreground: Foreground probability of the pass without dropout `(X, Y, Z)`; `None` leaves its
            score out.
    """
    mass, size = float(uncertainty.sum()), float(segmentation.sum())
    scores = {
        "volume_mean": float(uncertainty.mean()),
        "foreground_mean": float(uncertainty[segmentation].mean()) if size else 1.0,
        "mass_over_foreground": mass / (mass + size) if mass + size > 0 else 0.0,
        "expected_dice_loss": expected_dice_loss(foreground, segmentation),
    }
    if plain_foreground is not None:
        scores["plain_dice_loss"] = expected_dice_loss(plain_foreground, segmentation)
    return scores


SCORE = "plain_dice_loss"
"""Which of `region_scores` is the score of a scan: the one that ranks true errors best, see docs/results.md.
"""


def summarize(
    uncertainty: NDArray[np.float32],
    foreground: NDArray[np.float32],
    segmentation: NDArray[np.bool_],
    plain_foreground: NDArray[np.float32],
    measure: str,
    mc_samples: int,
    top: int = 5,
) -> UncertaintySummary:
    """Score, foreground mean and the least sure slices of a scan, all on the file's grid `(X, Y, Z)`.

    A slice's score is its mean uncertainty over that of the least sure slice along any axis, so slices of
    different axes compare by how much of what a reader sees is in doubt. At most `top` slices, best first, no
    two of the same axis closer than 3 voxels.
    """
    scores = region_scores(uncertainty, foreground, segmentation, plain_foreground)
    mean_foreground = float(uncertainty[segmentation].mean()) if segmentation.any() else 0.0
    return UncertaintySummary(
        scores[SCORE], mean_foreground, measure, mc_samples, top_slices(uncertainty, top)
    )


def top_slices(uncertainty: NDArray[np.float32], top: int = 5) -> list[dict[str, float | int]]:
    """The least sure slices of a map `(X, Y, Z)`: `{"axis", "index", "score"}`, best first."""
    sums = [uncertainty.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    means = [total / (uncertainty.size / len(total)) for total in sums]
    peak = max(float(values.max()) for values in means)
    order = sorted(
        (
            (float(value), axis, index)
            for axis, values in enumerate(means)
            for index, value in enumerate(values)
        ),
        key=lambda item: (-item[0], item[1], item[2]),
    )
    chosen: list[dict[str, float | int]] = []
    for value, axis, index in order:
        if len(chosen) == top or value <= 0:
            break
        if all(slice_["axis"] != axis or abs(slice_["index"] - index) >= 3 for slice_ in chosen):
            chosen.append({"axis": axis, "index": index, "score": round(value / peak, 6)})
    return chosen


def bands(uncertainty: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A map `(X, Y, Z)` in [0, 1] as label values: 0 sure, 1 low, 2 medium, 3 high (`BAND_EDGES`)."""
    return np.digitize(uncertainty, BAND_EDGES).astype(np.uint8)
