"""types: the tuples that travel between the modules, and the glossary of their axes.

Axes: `B` batch, `C` classes including background (class 0), `F = C - 1` foreground classes, `H, W, D` the
three voxel axes of the working grid (closest to right, anterior, superior). A file's own grid is written `(X,
Y, Z)`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DualTaskOutput(NamedTuple):
    """What the dual-task network says of a patch.

    Attributes:
        logits: Segmentation scores before softmax, `(B, C, H, W, D)`.
        sdm: Signed distance maps after tanh, `(B, F, H, W, D)`, in [-1, 1], negative inside the structure.
    """

    logits: Tensor
    sdm: Tensor


class Batch(NamedTuple):
    """Patches of one training step, on the device of the network.

    Attributes:
        image: Normalized intensities, `(B, 1, H, W, D)` float32.
        label: Class indices, `(B, H, W, D)` int64, or `None` for unlabeled patches.
        sdm: Distance targets, `(B, F, H, W, D)` float32 in [-1, 1], or `None` for unlabeled patches.
    """

    image: Tensor
    label: Tensor | None
    sdm: Tensor | None

    def after(self, count: int) -> Batch:
        """The patches behind the first `count`."""
        label = None if self.label is None else self.label[count:]
        return Batch(self.image[count:], label, None if self.sdm is None else self.sdm[count:])


class LossTerms(NamedTuple):
    """The terms of one step's loss, all scalars; `total` carries the gradient."""

    total: Tensor
    supervised: Tensor
    intra_task: Tensor
    cross_task: Tensor
    certain_fraction: Tensor
    entropy: Tensor
