"""network: the dual-task V-Net, split at its first dropout so that Monte Carlo passes share the encoder.

Encoder and bottleneck are deterministic given the input; only the decoder, behind the first dropout, is drawn
anew for each Monte Carlo pass. `forward` equals `decode(encode(x))`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import NetworkConfig
from .types import DualTaskOutput


class Features(NamedTuple):
    """Encoder output: skip connections finest first, `(B, filters[i], H/2^i, ...)`, and the bottleneck."""

    skips: list[Tensor]
    bottleneck: Tensor


class DropoutMasks(NamedTuple):
    """Channel masks of one pass, already divided by the keep probability: `(B, C, 1, 1, 1)` each."""

    bottleneck: Tensor
    head: Tensor


class InstanceNorm(nn.InstanceNorm3d):
    """Instance normalization, `(B, C, H, W, D)` to the same, in the layout that comes in.

    Group normalization with one group a channel is the same function, and faster on a CPU: its forward pass
    keeps the channels-last layout, its backward pass is two to four times as fast in the default layout. Only
    its backward pass in the channels-last layout is slower [M]. On CUDA both leave that layout, so that every
    convolution would have to come back to it.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name torch gives it)
        """Normalize each channel of each sample."""
        if input.is_cuda:
            return normalize_keeping_layout(input, self.weight, self.bias, self.eps)
        if torch.is_grad_enabled() and not input.is_contiguous():
            return super().forward(input)
        return F.group_norm(input, self.num_features, self.weight, self.bias, self.eps)


def normalize_keeping_layout(values: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Instance normalization of `(B, C, H, W, D)` in float32 inside, the layout and number format kept.

    Args:
        values: What is normalized over H, W and D.
        weight: Scale of each channel, `(C,)`.
        bias: Shift of each channel, `(C,)`.
        eps: Added to the variance, > 0.
    """
    wide = values.float()
    variance, mean = torch.var_mean(wide, dim=(2, 3, 4), correction=0, keepdim=True)
    scale = weight[:, None, None, None] * torch.rsqrt(variance + eps)
    return torch.addcmul(bias[:, None, None, None] - mean * scale, wide, scale).to(values.dtype)


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    return InstanceNorm(channels, affine=True)


def _block(conv: nn.Module, norm: str, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, _norm(norm, channels), nn.ReLU(inplace=True))


def _convolutions(count: int, inputs: int, outputs: int, norm: str) -> nn.Sequential:
    widths = [inputs] + [outputs] * count
    return nn.Sequential(
        *(_block(nn.Conv3d(widths[i], outputs, 3, padding=1), norm, outputs) for i in range(count))
    )


class DualTaskVNet(nn.Module):
    """V-Net with additive skips, a segmentation head and a signed distance head.

    Input `(B, 1, H, W, D)` float, each edge a multiple of `config.stride`; output `DualTaskOutput`.
    With the paper's filters (16, 32, 64, 128, 256) and (1, 2, 3, 3, 3) convolutions it has 9,448,883
    parameters for one class.

    Source: Milletari et al. 2016 in the form of Yu et al. 2019 and Luo et al. 2021, as UG-MCL uses it.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        filters, counts, norm = config.filters, config.convolutions, config.norm
        levels = len(filters)
        self.encoder = nn.ModuleList(
            _convolutions(counts[i], 1 if i == 0 else filters[i], filters[i], norm) for i in range(levels)
        )
        self.down = nn.ModuleList(
            _block(nn.Conv3d(filters[i], filters[i + 1], 2, stride=2), norm, filters[i + 1])
            for i in range(levels - 1)
        )
        self.up = nn.ModuleList(
            _block(nn.ConvTranspose3d(filters[i + 1], filters[i], 2, stride=2), norm, filters[i])
            for i in range(levels - 1)
        )
        self.decoder = nn.ModuleList(
            _convolutions(counts[i], filters[i], filters[i], norm) for i in range(levels - 1)
        )
        self.segmentation_head = nn.Conv3d(filters[0], config.classes + 1, 1)
        if config.sdm_head == "separate":
            self.sdm_head = nn.Conv3d(filters[0], config.classes, 1)
        if config.initialization == "kaiming":
            self.apply(_kaiming)

    def encode(self, image: Tensor) -> Features:
        """The deterministic half, `(B, 1, H, W, D)` to features."""
        skips: list[Tensor] = []
        h = image
        for level, block in enumerate(self.encoder):
            h = block(h)
            if level < len(self.down):
                skips.append(h)
                h = self.down[level](h)
        return Features(skips, h)

    def decode(self, features: Features, masks: DropoutMasks | None = None) -> DualTaskOutput:
        """The half behind the first dropout; `masks=None` is the deterministic pass."""
        logits, sdm = self.decode_finest(self.decode_coarse(features, masks), features.skips[0], masks)
        return DualTaskOutput(logits, sdm)

    def segment(self, features: Features, masks: DropoutMasks | None = None) -> Tensor:
        """The logits of `decode` alone, for those who do not look at the distance head."""
        coarse = self.decode_coarse(features, masks)
        return self.decode_finest(coarse, features.skips[0], masks, distances=False)[0]

    def decode_coarse(self, features: Features, masks: DropoutMasks | None = None) -> Tensor:
        """All decoder levels but the finest, `(B, filters[1], H/2, W/2, D/2)`."""
        h = features.bottleneck if masks is None else features.bottleneck * masks.bottleneck
        for level in range(len(self.up) - 1, 0, -1):
            h = self.decoder[level](self.up[level](h) + features.skips[level])
        return h

    def decode_finest(
        self, coarse: Tensor, skip: Tensor, masks: DropoutMasks | None = None, distances: bool = True
    ) -> tuple[Tensor, ...]:
        """The finest decoder level and the heads: logits and, if asked for, signed distance maps.

        Where no gradient is needed on a CPU, one sample after the other: the feature maps of several full
        windows leave its caches, and memory that large goes back to the system after every layer [M].
        """
        if len(coarse) == 1 or coarse.device.type != "cpu" or not self._is_stateless():
            return self._finest(coarse, skip, masks, distances)
        pieces = []
        for i in range(len(coarse)):
            one = None if masks is None else DropoutMasks(*(mask[i : i + 1] for mask in masks))
            pieces.append(self._finest(coarse[i : i + 1], skip[i : i + 1], one, distances))
        return tuple(torch.cat(piece) for piece in zip(*pieces, strict=True))

    def _finest(
        self, coarse: Tensor, skip: Tensor, masks: DropoutMasks | None = None, distances: bool = True
    ) -> tuple[Tensor, ...]:
        """`decode_finest` with the whole batch in each layer."""
        h = self.decoder[0](self.up[0](coarse) + skip)
        h = h if masks is None else h * masks.head
        if not distances:
            return (self.segmentation_head(h),)
        if self.config.sdm_head == "published":
            logits = self.segmentation_head(h)
            return logits, torch.tanh(logits[:, 1:])
        heads = (self.segmentation_head, self.sdm_head)  # as one convolution: a third of the time of two [M]
        weight, bias = (torch.cat([getattr(head, name) for head in heads]) for name in ("weight", "bias"))
        both = F.conv3d(h, weight, bias)
        classes = self.config.classes + 1
        return both[:, :classes], torch.tanh(both[:, classes:])

    def _is_stateless(self) -> bool:
        """Whether a pass keeps no gradient and treats each sample alone."""
        return not torch.is_grad_enabled() and (self.config.norm != "batch" or not self.training)

    def sample_masks(
        self, batch: int, like: Tensor, generator: torch.Generator | None = None, rate: float | None = None
    ) -> DropoutMasks:
        """Draw the channel masks of one pass on the device and in the precision of `like`.

        `rate` is the probability of dropping a channel; that of training when `None`. The draw happens on the
        generator's device (the CPU for a reproducible run), then moves.
        """
        keep = 1.0 - (self.config.dropout if rate is None else rate)
        device = generator.device if generator is not None else like.device

        def draw(channels: int) -> Tensor:
            kept = torch.rand((batch, channels, 1, 1, 1), generator=generator, device=device) < keep
            return (kept / keep).to(device=like.device, dtype=like.dtype)

        return DropoutMasks(draw(self.config.filters[-1]), draw(self.config.filters[0]))

    def forward(
        self, image: Tensor, generator: torch.Generator | None = None, distances: bool = True
    ) -> DualTaskOutput:
        """One pass; with dropout in training mode, without in evaluation mode.

        Without `distances` the distance head is left out, and `sdm` is `(B, 0, H, W, D)`.
        """
        features = self.encode(image)
        masks = None
        if self.training and self.config.dropout > 0:
            masks = self.sample_masks(image.shape[0], features.bottleneck, generator)
        if distances:
            return self.decode(features, masks)
        logits = self.segment(features, masks)
        return DualTaskOutput(logits, logits[:, :0])


def _kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
