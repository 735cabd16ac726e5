"""augmentation: patches cut from preprocessed volumes, with the spatial and intensity changes of training.

Where a patch lies is drawn on the host from a numpy generator; voxels are read, turned, warped and given
noise on the device on which the volume lives, and nothing is read back from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .config import TrainConfig
from .devices import send

ROTATION_DEGREES = 15.0
"""Largest rotation about each axis in "full" [M]."""
ZOOM = 0.15
"""Zooms lie in [1 - ZOOM, 1 + ZOOM] in "full" [M]."""


@dataclass(frozen=True)
class PreparedVolume:
    """A preprocessed case in memory, of the host or of a GPU.

    Attributes:
        image: `(1, H, W, D)` float32.
        label: `(H, W, D)` uint8, or `None`.
        sdm: `(F, H, W, D)` float16 distance targets of the whole volume, or `None`.
        foreground: Indices of up to 2000 foreground voxels, `(N, 3)` int16, for foreground crops; always in
            the host's memory.
    """

    image: Tensor
    label: Tensor | None = None
    sdm: Tensor | None = None
    foreground: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held by the tensors."""
        tensors = (self.image, self.label, self.sdm, self.foreground)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    @cached_property
    def lowest(self) -> float:
        """The smallest intensity; looked for once, because a GPU has to be waited for."""
        return float(self.image.min())

    def to(self, device: torch.device | str) -> PreparedVolume:
        """The same volume on a device."""
        label = None if self.label is None else send(self.label, device)
        sdm = None if self.sdm is None else send(self.sdm, device)
        moved = PreparedVolume(send(self.image, device), label, sdm, self.foreground)
        moved.__dict__["lowest"] = self.lowest
        return moved


@dataclass(frozen=True)
class Patch:
    """A training patch: `image (1, h, w, d)` float32, `label (h, w, d)` int64, `sdm (F, h, w, d)`."""

    image: Tensor
    label: Tensor | None
    sdm: Tensor | None


def cut_patch(
    volume: PreparedVolume,
    size: tuple[int, int, int],
    config: TrainConfig,
    padding: str,
    rng: np.random.Generator,
) -> Patch:
    """A random patch with the configured spatial augmentation; smaller volumes are padded evenly."""
    if config.augmentation == "full":
        return _warped_patch(volume, size, config, padding, rng)
    return _turned(_cropped(volume, size, config, padding, rng), config, rng)


def _fill(volume: PreparedVolume, padding: str) -> float:
    return volume.lowest if padding == "minimum" else 0.0


def _centers_on_foreground(volume: PreparedVolume, config: TrainConfig, rng: np.random.Generator) -> bool:
    return (
        volume.foreground is not None
        and len(volume.foreground) > 0
        and rng.random() < config.foreground_crops
    )


def _cropped(
    volume: PreparedVolume,
    size: tuple[int, int, int],
    config: TrainConfig,
    padding: str,
    rng: np.random.Generator,
) -> Patch:
    shape = volume.image.shape[1:]
    before = [max(0, (want - have) // 2) for want, have in zip(size, shape, strict=True)]
    after = [max(0, want - have - b) for want, have, b in zip(size, shape, before, strict=True)]
    pads = [n for b, a in zip(reversed(before), reversed(after), strict=True) for n in (b, a)]
    room = [have + b + a - want for have, want, b, a in zip(shape, size, before, after, strict=True)]
    last = 0 if config.crop_offset == "published" else 1
    start = [int(rng.integers(0, max(1, r + last))) for r in room]
    if _centers_on_foreground(volume, config, rng) and volume.foreground is not None:
        voxel = volume.foreground[int(rng.integers(len(volume.foreground)))].tolist()
        start = [
            int(np.clip(v + b - want // 2, 0, r))
            for v, b, want, r in zip(voxel, before, size, room, strict=True)
        ]
    window = tuple(slice(s, s + want) for s, want in zip(start, size, strict=True))
    image = F.pad(volume.image, pads, value=_fill(volume, padding))[(slice(None), *window)]
    label = None if volume.label is None else F.pad(volume.label, pads)[window].long()
    sdm = None
    if volume.sdm is not None:
        sdm = F.pad(volume.sdm[None].float(), pads, mode="replicate")[0]
        beyond = F.pad(torch.zeros_like(volume.sdm[0], dtype=torch.float32), pads, value=1.0) > 0
        sdm = torch.where(beyond, sdm.clamp_min(0.0), sdm)[(slice(None), *window)]
    return Patch(image, label, sdm)


def _turned(patch: Patch, config: TrainConfig, rng: np.random.Generator) -> Patch:
    """Quarter turns in the axial plane and mirrors; never an interpolation."""
    if config.augmentation == "none":
        return patch
    square = patch.image.shape[1] == patch.image.shape[2]
    quarter = int(rng.integers(4)) if square else 2 * int(rng.integers(2))
    if config.augmentation == "published":
        mirrored = [int(rng.integers(2))]
    else:
        mirrored = [axis for axis in (0, 1) if rng.random() < 0.5]

    def turn(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        first = values.ndim - 3
        turned = torch.rot90(values, quarter, (first, first + 1))
        return turned.flip([first + axis for axis in mirrored]) if mirrored else turned

    image = turn(patch.image)
    assert image is not None
    return Patch(image, turn(patch.label), turn(patch.sdm))


def _warped_patch(
    volume: PreparedVolume,
    size: tuple[int, int, int],
    config: TrainConfig,
    padding: str,
    rng: np.random.Generator,
) -> Patch:
    """Crop, mirror, rotate and zoom in one interpolation, reading from the whole volume."""
    shape = np.array(volume.image.shape[1:], dtype=np.float64)
    zoom = float(rng.uniform(1 - ZOOM, 1 + ZOOM))
    mirror = np.array([-1.0 if axis in config.flip_axes and rng.random() < 0.5 else 1.0 for axis in range(3)])
    matrix = (
        _rotation(np.deg2rad(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, 3))) @ np.diag(mirror) / zoom
    )
    slack = np.maximum(0.0, (shape - np.array(size)) / 2)
    center = (shape - 1) / 2 + rng.uniform(-1, 1, 3) * slack
    if _centers_on_foreground(volume, config, rng) and volume.foreground is not None:
        voxel = volume.foreground[int(rng.integers(len(volume.foreground)))].numpy().astype(np.float64)
        middle = (shape - 1) / 2
        center = np.clip(voxel, middle - slack, middle + slack)
    grid = _sampling_grid(matrix, center, size, shape, volume.image.device)
    fill = _fill(volume, padding)
    image = F.grid_sample(volume.image[None] - fill, grid, mode="bilinear", align_corners=True)[0] + fill
    label = sdm = None
    if volume.label is not None:
        label = F.grid_sample(volume.label[None, None].float(), grid, mode="nearest", align_corners=True)[
            0, 0
        ].long()
    if volume.sdm is not None:
        sdm = _warped_sdm(volume.sdm, grid, zoom)
    return Patch(image, label, sdm)


def _warped_sdm(sdm: Tensor, grid: Tensor, zoom: float) -> Tensor:
    """Distances grow with the zoom, but a saturated value says "at least this far" and stays saturated.

    Beyond the edge of the scan the nearest value continues, never below 0: the label is background there.
    """
    warped = F.grid_sample(sdm[None].float(), grid, padding_mode="border", align_corners=True)[0]
    warped = torch.where(warped.abs() >= 0.999, warped, warped * zoom).clamp(-1.0, 1.0)
    beyond = (grid[0].abs() > 1.0).any(dim=-1)
    return torch.where(beyond, warped.clamp_min(0.0), warped)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _sampling_grid(
    matrix: NDArray[np.float64],
    center: NDArray[np.float64],
    size: tuple[int, int, int],
    shape: NDArray[np.float64],
    device: torch.device,
) -> Tensor:
    """Where patch voxels lie in the volume, `(1, h, w, d, 3)` in grid_sample's order and [-1, 1] units."""
    scale = 2.0 / np.maximum(shape - 1, 1)
    offset = matrix @ (-(np.array(size) - 1) / 2.0) + center
    placement = np.hstack([matrix * scale[:, None], (offset * scale - 1.0)[:, None]])
    theta = send(torch.from_numpy(placement).float(), device)
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in size]
    position = (
        axes[0][:, None, None, None] * theta[:, 0]
        + axes[1][None, :, None, None] * theta[:, 1]
        + axes[2][None, None, :, None] * theta[:, 2]
        + theta[:, 3]
    )
    return position.flip(-1)[None]


def strong_intensity(image: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast +-20 %, brightness +-0.2, noise of 0.15 deviations, per patch `(B, 1, H, W, D)` [M].

    Random numbers are drawn on the generator's device.
    """
    batch = image.shape[0]

    def uniform() -> Tensor:
        drawn = torch.rand((batch, 1, 1, 1, 1), generator=generator, device=generator.device)
        return drawn.to(image.device)

    noise = _noise(image, generator)
    return image * (0.8 + 0.4 * uniform()) + 0.4 * (uniform() - 0.5) + 0.15 * noise


def clamped_noise(image: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of 0.1, clamped at 0.2, as the published code adds to the teacher's input."""
    return image + (0.1 * _noise(image, generator)).clamp(-0.2, 0.2)


def _noise(image: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the image's shape and device, drawn on the generator's."""
    return torch.randn(image.shape, generator=generator, device=generator.device).to(image.device)
