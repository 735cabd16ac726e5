"""teacher: the mean teacher, an exponential moving average of the student."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from .network import DualTaskVNet


class MeanTeacher:
    """A copy of the student whose weights trail it.

    Attributes:
        network: The teacher network; never needs gradients.

    Source: Tarvainen & Valpola 2017. The published code averages parameters only and lets the teacher's
    normalization buffers be overwritten by its own noisy passes; `buffers="ema"` averages them too.
    """

    def __init__(self, student: DualTaskVNet, decay: float, buffers: str = "ema") -> None:
        self.decay = decay
        self.buffers = buffers
        self.network = copy.deepcopy(student)
        self.network.requires_grad_(False)
        self.network.train(buffers == "published")

    @torch.no_grad()
    def update(self, student: DualTaskVNet, step: int, at_most: float = 1.0) -> None:
        """Move towards the student.

        The decay is at most 1 - 1/(step + 1), so that early steps forget the start, and at most `at_most`
        (`schedules.teacher_memory`).
        """
        keep = min(1.0 - 1.0 / (step + 1), self.decay, at_most)
        ours: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = [weight.detach() for weight in student.parameters()]
        torch._foreach_mul_(ours, keep)
        torch._foreach_add_(ours, theirs, alpha=1.0 - keep)
        if self.buffers != "ema":
            return
        pairs = list(zip(self.network.buffers(), student.buffers(), strict=True))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        if averaged:
            torch._foreach_lerp_([mine for mine, _ in averaged], [other for _, other in averaged], 1.0 - keep)
        for mine, other in pairs:
            if not mine.is_floating_point():
                mine.copy_(other)
