"""sampling: the two streams of a step, labeled and unlabeled, from pools that never outgrow their memory."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .augmentation import Patch, PreparedVolume, cut_patch
from .config import Config
from .distance import class_distance_maps, published_distance_maps
from .preprocessing import preprocess_image, preprocess_label
from .types import Batch
from .volume import Volume

logger = logging.getLogger(__name__)

REFRESH = 0.1
"""Chance that a draw from a full pool brings in a case from outside it: each load then serves about 10
patches."""


@dataclass(frozen=True)
class TrainingCase:
    """One case by reference; `image` and `label` are opaque to the method (paths, usually).

    Attributes:
        id: Unique name of the case.
        image: What `LoadCase` needs to load the scan.
        label: The same for its label, or `None` for an unlabeled case.
        label_version: What changes when the label's content does, such as its hash; empty where `label` does.
    """

    id: str
    image: str
    label: str | None = None
    label_version: str = ""


LoadCase = Callable[[TrainingCase], tuple[Volume, NDArray[np.uint8] | None]]
"""Reads a case: the scan, and its label `(X, Y, Z)` on the same grid if it has one. Raises ValueError or
OSError with a sentence when it cannot."""


def prepare(case: TrainingCase, load: LoadCase, config: Config) -> PreparedVolume:
    """Load and preprocess one case, with its distance maps, computed once instead of at every step."""
    volume, label = load(case)
    if label is None and case.label is not None:
        raise ValueError(f"Case {case.id!r} has no label to learn from.")
    if label is not None:
        _check_label(label, volume, config)
    image, grid = preprocess_image(volume, config.preprocess)
    if label is None:
        return PreparedVolume(image)
    classes = preprocess_label(label, grid)
    sdm = None
    if config.learns_distances and config.loss.sdm_convention != "published":
        maps = class_distance_maps(
            classes.numpy(), config.network.classes, config.loss.sdm_convention, config.loss.sdm_truncation
        )
        sdm = torch.from_numpy(maps).half()
    foreground = classes.nonzero()
    stride = max(1, len(foreground) // 2000)
    return PreparedVolume(image, classes, sdm, foreground[::stride].to(torch.int16))


def _check_label(label: NDArray[np.uint8], volume: Volume, config: Config) -> None:
    if label.shape != volume.array.shape:
        raise ValueError(f"The label's shape is {label.shape}; its scan's is {volume.array.shape}.")
    if label.min() < 0 or label.max() > config.network.classes:
        raise ValueError(
            f"The label has values {label.min()} to {label.max()}; allowed: 0 to {config.network.classes}."
        )


class VolumePool:
    """Draws preprocessed cases at random, holding at most `capacity_mib` of them.

    A case that cannot be loaded is set aside with its reason in `set_aside` and never drawn again.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        load: LoadCase,
        config: Config,
        rng: np.random.Generator,
        capacity_mib: float,
        device: str = "cpu",
    ) -> None:
        """`device` is where the cases are held and patches of them cut."""
        self.cases = list(cases)
        self.set_aside: dict[str, str] = {}
        self._load, self._config, self._rng, self._device = load, config, rng, device
        self._capacity = capacity_mib * 2**20
        self._resident: OrderedDict[str, PreparedVolume] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def resident_bytes(self) -> int:
        """Memory held now, in bytes."""
        return self._bytes

    def state(self) -> dict[str, Any]:
        """Which cases are resident, oldest first, and which are set aside: what decides the next draws."""
        return {"resident": list(self._resident), "set_aside": dict(self.set_aside)}

    def restore(self, state: dict[str, Any]) -> None:
        """Bring back the cases of a `state`, so that an interrupted round draws on as if it had not been."""
        by_id = {case.id: case for case in self.cases}
        # A case set aside is tried once more: its file may have been mended meanwhile.
        for name in [*state["resident"], *state["set_aside"]]:
            if name in by_id and name not in self._resident:
                self._bring_in(by_id[name])

    def draw(self) -> PreparedVolume | None:
        """A random case, or `None` when no case is left."""
        while self.cases:
            full = self._full()
            if full and self._rng.random() >= REFRESH:
                keys = list(self._resident)
                return self._resident[keys[int(self._rng.integers(len(keys)))]]
            case = self.cases[int(self._rng.integers(len(self.cases)))]
            if case.id not in self._resident:
                self._bring_in(case)
            if case.id in self._resident:
                return self._resident[case.id]
        return None

    def _full(self) -> bool:
        """Whether one more case of the usual size would not fit."""
        count = len(self._resident)
        return count > 0 and self._bytes + self._bytes / count > self._capacity

    def _bring_in(self, case: TrainingCase) -> None:
        try:
            prepared = prepare(case, self._load, self._config).to(self._device)
        except (ValueError, OSError) as error:
            logger.warning("A case was set aside during training: %s", error)
            self.set_aside[case.id] = str(error)
            self.cases.remove(case)
            return
        while self._resident and self._bytes + prepared.nbytes > self._capacity:
            _, oldest = self._resident.popitem(last=False)
            self._bytes -= oldest.nbytes
        self._resident[case.id] = prepared
        self._bytes += prepared.nbytes


class TwoStreamSampler:
    """Batches of labeled and unlabeled patches, in the order the seed gives.

    Source: the two-stream batch sampler of Tarvainen & Valpola 2017 (2 + 2 patches in UG-MCL), here without
    epochs.
    """

    def __init__(
        self,
        labeled: Sequence[TrainingCase],
        unlabeled: Sequence[TrainingCase],
        load: LoadCase,
        config: Config,
        rng: np.random.Generator,
        device: str = "cpu",
    ) -> None:
        """`device` is where the pools' volumes live and the batches come out."""
        half = config.train.pool_mib / 2
        self.labeled = VolumePool(labeled, load, config, rng, half, device)
        self.unlabeled = VolumePool(unlabeled, load, config, rng, half, device)
        self._config, self._rng = config, rng

    @property
    def set_aside(self) -> dict[str, str]:
        """Cases that could not be loaded, id to reason."""
        return {**self.labeled.set_aside, **self.unlabeled.set_aside}

    def state(self) -> dict[str, Any]:
        """Plain values of both pools, see `VolumePool.state`."""
        return {"labeled": self.labeled.state(), "unlabeled": self.unlabeled.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`; cases that are gone are passed over."""
        self.labeled.restore(state["labeled"])
        self.unlabeled.restore(state["unlabeled"])

    def labeled_batch(self) -> Batch:
        """`labeled_batch` patches with labels and distance targets.

        Raises:
            ValueError: If no labeled case can be loaded.
        """
        return _stack(
            [self._patch(self.labeled) for _ in range(self._config.train.labeled_batch)], self._config
        )

    def unlabeled_batch(self) -> Batch | None:
        """`unlabeled_batch` patches without labels, or `None` when the pool is empty."""
        patches: list[Patch] = []
        for _ in range(self._config.train.unlabeled_batch):
            volume = self.unlabeled.draw()
            if volume is None:
                return None
            patches.append(self._cut(volume))
        return _stack(patches, self._config)

    def _patch(self, pool: VolumePool) -> Patch:
        volume = pool.draw()
        if volume is None:
            reasons = "; ".join(pool.set_aside.values()) or "there is none"
            raise ValueError(f"No labeled case can be loaded for training: {reasons}.")
        return self._cut(volume)

    def _cut(self, volume: PreparedVolume) -> Patch:
        preprocess = self._config.preprocess
        return cut_patch(volume, preprocess.patch, self._config.train, preprocess.padding, self._rng)


def _stack(patches: list[Patch], config: Config) -> Batch:
    image = torch.stack([patch.image for patch in patches])
    labels = [patch.label for patch in patches if patch.label is not None]
    if len(labels) < len(patches):
        return Batch(image, None, None)
    label = torch.stack(labels)
    if not config.learns_distances:
        return Batch(image, label, None)
    if config.loss.sdm_convention == "published":
        return Batch(image, label, published_distance_maps(label, config.network.classes))
    return Batch(image, label, torch.stack([patch.sdm for patch in patches if patch.sdm is not None]))
