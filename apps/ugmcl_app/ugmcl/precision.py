"""precision: which number format is fastest on this machine, found by a short measurement at start."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from .config import Config
from .network import DualTaskVNet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The number format of a run.

    Attributes:
        name: "fp32", "bf16" or "fp16"; weights and losses stay float32.
        device: "cpu", "cuda" or "cuda:N".
        channels_last: Memory layout of activations.
        measured_ms: Milliseconds of the probe's step in each format tried.
    """

    name: str = "fp32"
    device: str = "cpu"
    channels_last: bool = False
    measured_ms: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints."""
        return asdict(self)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which forward passes run."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, DTYPES[self.name])

    def for_inference(self) -> Precision:
        """The same format in the memory layout that is fastest without gradients [M].

        In half formats that is channels-last, whatever training chose: on a CPU the backward pass of the
        normalization is what makes it slow.
        """
        return self if self.name == "fp32" else dataclasses.replace(self, channels_last=True)

    def arrange(self, values: Tensor) -> Tensor:
        """Patches `(B, 1, H, W, D)` on the device in the layout of this precision."""
        layout = torch.channels_last_3d if self.channels_last else torch.contiguous_format
        return values.to(self.device, memory_format=layout)

    def place(self, network: DualTaskVNet) -> DualTaskVNet:
        """The network on the device in the layout of this precision."""
        network = network.to(self.device)
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return network


def resolve_device(device: str = "auto") -> str:
    """The device meant: "auto" is CUDA where it is present, else the CPU.

    Raises:
        ValueError: For a device this machine does not have, naming those it has.
    """
    if device in ("auto", ""):
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.split(":")[0]
    if kind == "cpu" or (kind == "cuda" and torch.cuda.is_available()):
        return device
    available = "cpu, cuda" if torch.cuda.is_available() else "cpu"
    raise ValueError(f"Device {device!r} is not available here; choose auto or one of: {available}.")


def choose_precision(config: Config, device: str = "auto", repeats: int = 2) -> Precision:
    """Measure a training step in fp32 and in the half format of the device, and take the faster.

    Args:
        config: Its network and a patch of at most 32 voxels an edge are measured.
        device: "auto", "cpu", "cuda" or "cuda:N".
        repeats: Timed steps per format after one warm-up; the fastest counts.
    """
    device = resolve_device(device)
    half = "bf16" if device == "cpu" or torch.cuda.is_bf16_supported() else "fp16"
    candidates = {"fp32": Precision("fp32", device, False), half: Precision(half, device, False)}
    candidates[f"{half}_channels_last"] = Precision(half, device, True)
    measured = {name: round(_step_ms(config, one, repeats), 2) for name, one in candidates.items()}
    best = candidates[min(measured, key=lambda name: measured[name])]
    return dataclasses.replace(best, measured_ms=measured)


def _step_ms(config: Config, precision: Precision, repeats: int) -> float:
    stride = config.network.stride
    limit = max(32, 2 * stride)  # instance normalization needs more than one voxel at the bottleneck
    edges = [min(edge, limit) // stride * stride for edge in config.preprocess.patch]
    state = torch.random.get_rng_state()
    try:
        network = precision.place(DualTaskVNet(config.network)).train()
        image = precision.arrange(torch.randn(2, 1, *edges))
    finally:
        torch.random.set_rng_state(state)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with precision.autocast():
            output = network(image, torch.Generator().manual_seed(0))
        (output.logits.float().square().mean() + output.sdm.float().mean()).backward()
        if precision.device != "cpu":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1000.0)
    return min(times[1:])
