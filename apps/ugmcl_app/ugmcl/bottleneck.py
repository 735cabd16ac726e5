"""bottleneck: what the network sees in a scan, as one vector a scan."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

LEAST_FOREGROUND = 1e-3
"""Bottleneck voxels' worth of predicted foreground below which a scan is described by all of it: the mean
over next to nothing is noise."""


class FeaturePool:
    """Mean of the bottleneck over the windows of one scan, weighted by the predicted foreground.

    The plain mean would say little: normalization gives each channel nearly the same mean in every window.
    Voxels that lie in several windows count in each.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all windows."""
        self._weighted: Tensor | None = None
        self._plain: Tensor | None = None
        self._weight = 0.0
        self._voxels = 0

    def add(self, bottleneck: Tensor, foreground: Tensor) -> None:
        """Take in a batch of windows.

        Args:
            bottleneck: `(B, C, h, w, d)`.
            foreground: Probability of any foreground class, `(B, 1, H, W, D)` in [0, 1].
        """
        values = bottleneck.float()
        height, width, depth = values.shape[2:]
        weights = F.adaptive_avg_pool3d(foreground.float(), (height, width, depth))
        weighted, plain = (part.sum(dim=(0, 2, 3, 4)) for part in (values * weights, values))
        self._weighted = weighted if self._weighted is None else self._weighted + weighted
        self._plain = plain if self._plain is None else self._plain + plain
        self._weight += float(weights.sum())
        self._voxels += values[:, 0].numel()

    def vector(self) -> NDArray[np.float32]:
        """The mean, `(C,)` float32; over all voxels alike where next to no foreground was found.

        Raises:
            ValueError: If no window was taken in.
        """
        if self._weighted is None or self._plain is None:
            raise ValueError("No window was pooled; add at least one.")
        if self._weight < LEAST_FOREGROUND:
            mean = self._plain / self._voxels
        else:
            mean = self._weighted / self._weight
        return np.asarray(mean.cpu().numpy(), dtype=np.float32)
