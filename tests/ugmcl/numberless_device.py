"""A device of shapes without numbers: shows, without a GPU, what one would refuse or make the host wait for.

It is torch's "meta" device. Mixing its tensors with those of the host raises, as it does on a GPU; reading a
number of theirs raises, where a GPU would have to be waited for; plain copies to it are counted.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = "meta"


class NumberlessGenerator(torch.Generator):
    """Says that it draws on the device."""

    @property
    def device(self) -> torch.device:
        return torch.device(DEVICE)


class WaitingCopies(TorchDispatchMode):
    """Keeps the shapes of what is copied from the host in a way that makes it wait."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") is not None:
            crosses = args[0].device.type != torch.device(kwargs["device"]).type
            if crosses and not kwargs.get("non_blocking"):
                self.shapes.append(tuple(args[0].shape))
        return func(*args, **kwargs)


@contextlib.contextmanager
def waiting_copies() -> Iterator[list[tuple[int, ...]]]:
    """The shapes of the copies, made inside, that would have made the host wait."""
    with WaitingCopies() as copies:
        yield copies.shapes
