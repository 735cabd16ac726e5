"""devices: where tensors live, and the few places where the host has to wait for a GPU.

A GPU works through a queue of its own while the host fills it. Every number read back, and every plain copy
to the device, empties that queue; so copies go through `send`, and waiting is spelled out as `wait_for`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def send(values: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the host on `device`, without making the host wait; itself if it is there already."""
    if values.device.type == "cpu" and torch.device(device).type == "cuda":
        values = values.pin_memory()  # only from there can a copy be left to itself
    return values.to(device, non_blocking=True)


def wait_for(device: torch.device | str) -> None:
    """Wait until a GPU has done what it was given; nothing to wait for on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def expect_fixed_shapes(device: torch.device | str) -> None:
    """Let cuDNN try its convolutions on the first patches and keep the fastest: every patch has one shape."""
    if torch.device(device).type == "cuda":
        torch.backends.cudnn.benchmark = True


def generator_on(device: torch.device | str, seed: int) -> torch.Generator:
    """A seeded source of random numbers that are drawn on `device`."""
    return torch.Generator(device).manual_seed(seed)
