"""Toy scans and tiny networks: everything here runs in a moment on one CPU thread."""

import numpy as np
from numpy.typing import NDArray

from ugmcl.config import (
    Config,
    InferConfig,
    LossConfig,
    NetworkConfig,
    PreprocessConfig,
    TrainConfig,
    replace,
)
from ugmcl.precision import Precision
from ugmcl.sampling import TrainingCase
from ugmcl.volume import Volume

FP32 = Precision("fp32", "cpu")
"""Given to `fit` and `Predictor`, so that tests neither measure nor depend on the machine's fastest format.
"""


def tiny_config(classes: int = 1, **sections: dict[str, object]) -> Config:
    """Two levels of 4 and 8 channels on 16-voxel patches; `sections` as in `config.replace`."""
    config = Config(
        tuple(f"organ{value}" for value in range(1, classes + 1)),
        "default",
        PreprocessConfig(patch=(16, 16, 16)),
        NetworkConfig(classes, (4, 8), (1, 1)),
        LossConfig(supervised_fraction=0.0),
        TrainConfig(steps=6, mc_samples=2, pool_mib=16, copy_paste="off"),
        InferConfig(mc_samples=3),
    )
    return replace(config, **sections)


def ball_case(
    name: str, classes: int = 1, edge: int = 24, affine: NDArray[np.float64] | None = None
) -> tuple[Volume, NDArray[np.uint8]]:
    """A noisy bright ball (class 1), its upper half brighter still (class 2, if asked for), seeded by its
    name."""
    rng = np.random.default_rng([ord(letter) for letter in name])
    center = edge / 2 + rng.uniform(-2, 2, 3)
    x, y, z = np.indices((edge, edge, edge))
    ball = (x - center[0]) ** 2 + (y - center[1]) ** 2 + (z - center[2]) ** 2 < (edge / 4) ** 2
    label = ball.astype(np.uint8)
    if classes == 2:
        label[ball & (z > center[2])] = 2
    image = 2.0 * label + rng.normal(0, 0.3, label.shape)
    return Volume(image.astype(np.float32), np.eye(4) if affine is None else affine), label


class BallStudy:
    """Cases by name, loaded from nothing; `broken` ones raise, `loads` counts how often each was read."""

    def __init__(self, classes: int = 1, broken: tuple[str, ...] = (), edge: int = 24) -> None:
        self.classes, self.broken, self.edge = classes, broken, edge
        self.loads: dict[str, int] = {}

    def __call__(self, case: TrainingCase) -> tuple[Volume, NDArray[np.uint8] | None]:
        self.loads[case.id] = self.loads.get(case.id, 0) + 1
        if case.id in self.broken:
            raise ValueError(f"{case.image} is truncated.")
        volume, label = ball_case(case.id, self.classes, self.edge)
        return volume, label if case.label is not None else None


def labeled(*names: str) -> list[TrainingCase]:
    return [TrainingCase(name, f"{name}.nii.gz", f"{name}_label.nii.gz") for name in names]


def unlabeled(*names: str) -> list[TrainingCase]:
    return [TrainingCase(name, f"{name}.nii.gz") for name in names]
