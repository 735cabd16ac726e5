"""presets: configurations for a project, from the shapes and spacings of its own scans."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from .config import Config, InferConfig, LossConfig, NetworkConfig, PreprocessConfig, TrainConfig
from .plain_values import require
from .preprocessing import orientation, oriented_spacing
from .volume import Volume

PRESETS = ("default", "left-atrium", "paper-la")

PAPER_PATCH = (112, 112, 80)
"""The paper's left-atrium patch [P]."""
PAPER_FILTERS = (16, 32, 64, 128, 256)
PAPER_CONVOLUTIONS = (1, 2, 3, 3, 3)
"""The paper's V-Net [P]."""

CPU_PATCH_VOXELS = 115_000
"""Patch size that keeps a training step under half a second on 2 CPU cores with bf16 [M]."""
CPU_LARGEST_SCAN_VOXELS = 1_000_000
"""Scans are never trained in more voxels than this on a CPU."""
LARGEST_GROWTH = 2.5
"""Towards `CPU_SCAN_VOXELS` an axis grows at most to this many times the finest voxel, so that small
structures in large scans keep their shape; the left atrium needs 2.4."""
FEWEST_SLICES = 16
"""No axis is coarsened to fewer voxels than the smallest patch has."""
CPU_SCAN_VOXELS = 200_000
"""Scans larger than this are trained at a coarser spacing on a CPU, so that a patch shows most of one: on the
left atrium 0.88 instead of 0.80 Dice after fewer and cheaper steps [M]."""
GPU_PATCH_VOXELS = 1_003_520
"""112 x 112 x 80, the paper's patch."""
GPU_SCAN_VOXELS = 8 * GPU_PATCH_VOXELS
"""Larger scans are coarsened on a GPU; not measured."""


def preset(
    name: str,
    labels: Sequence[str],
    shapes: Sequence[tuple[int, int, int]],
    spacings: Sequence[tuple[float, float, float]],
    device: str = "cpu",
) -> Config:
    """The configuration a project starts with.

    Args:
        name: One of `PRESETS`: "default", measured to learn fast; "left-atrium", the paper's sizes with the
            default's conventions, for a GPU; "paper-la", the paper's values.
        labels: Names of the foreground classes.
        shapes: Voxels of the project's scans along working axes R, A, S.
        spacings: Voxel sizes of the same scans in mm, same order.
        device: "cpu" or "cuda..."; decides how large a patch may be.

    Raises:
        ValueError: For an unknown preset, or without any scan.
    """
    require(name in PRESETS, f"There is no preset {name!r}; choose one of: {', '.join(PRESETS)}.")
    require(
        len(shapes) > 0 and len(shapes) == len(spacings),
        "A preset needs the shape and spacing of at least 1 scan.",
    )
    if name == "paper-la":
        return _paper_left_atrium(tuple(labels), spacings)
    if name == "left-atrium":
        return _left_atrium(tuple(labels), spacings)
    network = NetworkConfig(classes=len(labels))
    limits = (
        (CPU_PATCH_VOXELS, CPU_SCAN_VOXELS, CPU_LARGEST_SCAN_VOXELS)
        if device == "cpu"
        else (GPU_PATCH_VOXELS, GPU_SCAN_VOXELS, GPU_SCAN_VOXELS)
    )
    spacing, patch = _working_geometry(
        np.array(shapes, float), np.array(spacings, float), network.stride, *limits
    )
    return Config(tuple(labels), name, PreprocessConfig(spacing_mm=spacing, patch=patch), network)


def preset_for_scans(
    name: str, labels: Sequence[str], scans: Iterable[Volume], device: str = "cpu"
) -> Config:
    """`preset` for scans in memory or read one after the other.

    Raises:
        ValueError: For an unknown preset, or without any scan.
    """
    shapes: list[tuple[int, int, int]] = []
    spacings: list[tuple[float, float, float]] = []
    for scan in scans:
        x, y, z = orientation(scan.affine)[0]
        shape = scan.array.shape
        shapes.append((shape[x], shape[y], shape[z]))
        spacings.append(oriented_spacing(scan))
    return preset(name, labels, shapes, spacings, device)


def with_settings(config: Config, settings: Sequence[str]) -> Config:
    """A copy changed by texts such as "train.min_steps=10"; values are JSON, or words without quotes.

    Raises:
        ValueError: For a value that there is not, or that is not acceptable.
    """
    values = config.to_dict()
    for setting in settings:
        name, _, text = setting.partition("=")
        section, _, field = name.partition(".")
        if not isinstance(values.get(section), dict) or field not in values[section]:
            sentence = f"--set {setting}: no such value; give section.name=value, as train.min_steps=10."
            raise ValueError(sentence)
        try:
            values[section][field] = json.loads(text)
        except json.JSONDecodeError:
            values[section][field] = text
    return Config.from_dict(values)


def _working_geometry(
    shapes: NDArray[np.float64],
    spacings: NDArray[np.float64],
    stride: int,
    patch_voxels: int,
    scan_voxels: int,
    most_voxels: int,
) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    """Spacing: the median, coarser for large scans. Patch: the median scan, shrunk evenly to its limit.

    Edges are rounded down, so that small scans are seen in parts and never padded: on hippocampus with 10
    labels that gave 0.005 Dice more in fewer CPU seconds, supervised and semi-supervised alike [M].
    """
    spacing, extent = np.median(spacings, axis=0), np.median(shapes * spacings, axis=0)
    thinnest = np.maximum(spacing, extent / FEWEST_SLICES)
    limit = np.minimum(thinnest, np.maximum(spacing, LARGEST_GROWTH * spacing.min()))
    preferred = np.minimum(_coarsened(spacing, extent, scan_voxels), limit)
    spacing = np.minimum(_coarsened(preferred, extent, most_voxels), thinnest)
    edges = np.maximum(np.floor(extent / spacing / stride) * stride, max(2 * stride, FEWEST_SLICES))
    while np.prod(edges) > patch_voxels and edges.max() > 2 * stride:
        edges[int(np.argmax(edges))] -= stride
    chosen = [round(float(value), 4) for value in spacing]
    patch = [int(value) for value in edges]
    return (chosen[0], chosen[1], chosen[2]), (patch[0], patch[1], patch[2])


def _coarsened(
    spacing: NDArray[np.float64], extent_mm: NDArray[np.float64], voxels: int
) -> NDArray[np.float64]:
    """Voxel sizes in mm that divide a scan of `extent_mm` into at most `voxels`, the finest axes grown first.

    They grow together, so thick slices stay as they are until the others have caught up.
    """
    order = np.argsort(spacing)
    next_spacing = [*spacing[order[1:]], np.inf]
    if np.prod(extent_mm / spacing) <= voxels:
        return spacing
    for count in (1, 2, 3):
        finest = order[:count]
        others = np.delete(extent_mm / spacing, finest)
        common = float(np.prod(extent_mm[finest]) * np.prod(others) / voxels) ** (1 / count)
        if common <= next_spacing[count - 1]:
            break
    grown = spacing.copy()
    grown[finest] = common
    return grown


def _median(spacings: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    median = np.median(np.array(spacings), axis=0)
    return (float(median[0]), float(median[1]), float(median[2]))


def _left_atrium(labels: tuple[str, ...], spacings: Sequence[tuple[float, float, float]]) -> Config:
    """The paper's network, patch, batch, T and steps; all else as in the default preset.

    The peak rate is the default's, halved: a weight of the paper's bottleneck (256 channels) starts 0.6 times
    as large as one of the default's (96). Windows overlap by 3/4; the papers' stride of 18 x 18 x 4 voxels
    needs two to three times as many. Neither is measured on a GPU yet.
    """
    return Config(
        labels,
        "left-atrium",
        PreprocessConfig(_median(spacings), PAPER_PATCH),
        NetworkConfig(len(labels), PAPER_FILTERS, PAPER_CONVOLUTIONS),
        LossConfig(),
        TrainConfig(steps=6000, unlabeled_batch=2, mc_samples=8, learning_rate=2e-3, save_every_s=60.0),
        InferConfig(overlap=0.75),
    )


def _paper_left_atrium(labels: tuple[str, ...], spacings: Sequence[tuple[float, float, float]]) -> Config:
    """The values of the paper's left-atrium experiment; what it leaves open follows [D] and [C]."""
    return Config(
        labels,
        "paper-la",
        PreprocessConfig(_median(spacings), PAPER_PATCH, (0.0, 100.0), "zero"),
        NetworkConfig(len(labels), PAPER_FILTERS, PAPER_CONVOLUTIONS, "batch", 0.5, "default"),
        LossConfig(
            sdm_weight=1.0,
            supervised_fraction=0.0,
            rampup_fraction=1.0,
            uncertainty_weighting="mask",
            sdm_convention="published",
            dice="published",
            sharpness=1500.0,
        ),
        TrainConfig(
            steps=6000,
            optimizer="sgd",
            learning_rate=0.01,
            gradient_clip=0.0,
            warm_start_rate=1.0,
            unlabeled_batch=2,
            ema_share=1.0,
            teacher_buffers="published",
            mc_samples=8,
            mc_stream="all",
            skip_below=0.0,
            perturbation="none",
            copy_paste="off",
            augmentation="published",
            crop_offset="published",
            foreground_crops=0.0,
        ),
        InferConfig(mc_dropout=0.5, mirror="off", overlap=0.75),
    )
