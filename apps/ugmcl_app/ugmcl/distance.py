"""distance: signed distance maps of labels, and the way back from a map to a probability."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.transforms.utils import distance_transform_edt
from monai.utils import optional_import
from numpy.typing import NDArray
from torch import Tensor

HAS_SCIPY = bool(optional_import("scipy.ndimage")[1])
"""MONAI's transform needs SciPy, which it does not install: a bare machine may be without."""


def signed_distance_map(mask: NDArray[np.bool_], truncation: float) -> NDArray[np.float32]:
    """Signed distance to the surface of a mask in voxels, truncated and scaled to [-1, 1].

    The zero lies halfway between an inside voxel and its outside neighbor (each is 0.5 voxels away), both
    sides share one scale, and an empty mask is +1 everywhere, a full one -1: no value is undefined and
    `sdm < 0` gives the mask back exactly.

    Args:
        mask: `(H, W, D)`, true inside.
        truncation: Distance in voxels at which the map saturates, > 0.

    Returns:
        `(H, W, D)` float32 in [-1, 1], negative inside.

    Source: UG-MCL Eq. 1, which states no normalization; truncation after Park et al. 2019 (DeepSDF).
    """
    if not mask.any():
        return np.ones(mask.shape, np.float32)
    if mask.all():
        return -np.ones(mask.shape, np.float32)
    reach = int(np.ceil(truncation)) + 1
    outside, inside = _distance_to_outside(~mask, reach), _distance_to_outside(mask, reach)
    signed = np.where(mask, 0.5 - inside, outside - 0.5)
    scaled: NDArray[np.float32] = np.clip(signed / np.float32(truncation), -1.0, 1.0)
    return scaled


def published_signed_distance_map(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The map as the dual-task consistency code computes it on each crop.

    Inside and outside are scaled by their own maximum, and inner boundary voxels are set to 0, so `sdm < 0`
    misses them. An empty or full crop, where the published code divides 0 by 0 or returns 0, is 0 everywhere.

    Args:
        mask: `(H, W, D)`, true inside.

    Returns:
        `(H, W, D)` float32 in [-1, 1], negative inside.
    """
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, np.float32)
    outside, inside = _distance_to_outside(~mask), _distance_to_outside(mask)
    sdm: NDArray[np.float32] = outside / outside.max() - inside / inside.max()
    sdm[inner_boundary(mask)] = 0.0
    return sdm


def _distance_to_outside(mask: NDArray[np.bool_], reach: int | None = None) -> NDArray[np.float32]:
    """Euclidean distance of every true voxel to the nearest false one, in voxels; 0 on false ones.

    Distances above `reach` voxels, if given, may come out as any number above it.
    """
    if reach is not None or not HAS_SCIPY:  # within a short reach it is also the faster one
        return separable_distance(mask, reach)
    # MONAI transforms channel by channel: without the leading axis it would measure within single slices.
    return np.asarray(distance_transform_edt(mask[None])[0], dtype=np.float32)


def separable_distance(mask: NDArray[np.bool_], reach: int | None = None) -> NDArray[np.float32]:
    """The same without SciPy, to the same bits: one axis after the other.

    Args:
        mask: `(H, W, D)`, somewhere false.
        reach: Voxels looked at in each direction; all if `None`, which takes seconds for a scan on a CPU and
            so happens on the GPU where there is one.

    Source: Felzenszwalb & Huttenlocher 2012, with every distance tried instead of their envelope.
    """
    device = "cuda" if reach is None and torch.cuda.is_available() else "cpu"
    squares = _squared_distance(torch.from_numpy(mask.copy(order="C")).to(device), reach)
    return squares.double().sqrt().float().cpu().numpy()


def _squared_distance(masks: Tensor, reach: int | None) -> Tensor:
    """Squared distances of `separable_distance` for masks `(..., H, W, D)`, int32, on their device."""
    shape = masks.shape[-3:]
    squares = masks.to(torch.int32) * (4 * sum(edge**2 for edge in shape))
    for axis, edge in zip((-3, -2, -1), shape, strict=True):
        nearest = squares.clone()
        for step in range(1, min(edge - 1, edge if reach is None else reach) + 1):
            for here, there in ((0, step), (step, 0)):
                target = nearest.narrow(axis, here, edge - step)
                torch.minimum(target, squares.narrow(axis, there, edge - step) + step**2, out=target)
        squares = nearest
    return squares


def published_distance_maps(label: Tensor, classes: int) -> Tensor:
    """The maps of `published_signed_distance_map` for a batch of crops, made where the labels are.

    Args:
        label: Class indices `(B, H, W, D)`.
        classes: Foreground classes F.

    Returns:
        `(B, F, H, W, D)` float32 in [-1, 1]; on a GPU the host is not made to wait.
    """
    if label.device.type == "cpu":
        maps = [class_distance_maps(one.numpy(), classes, "published") for one in label]
        return torch.from_numpy(np.stack(maps))
    masks = torch.stack([label == value for value in range(1, classes + 1)], dim=1)
    return published_maps_of_masks(masks)


def published_maps_of_masks(masks: Tensor) -> Tensor:
    """The same for masks `(B, F, H, W, D)`, all at once and on any device."""
    squares = _squared_distance(torch.stack([~masks, masks]), None)
    outside, inside = squares.double().sqrt().float()
    sdm = outside / _largest(outside) - inside / _largest(inside)
    mixed = masks.flatten(2).any(dim=2) & ~masks.flatten(2).all(dim=2)
    at_boundary = masks & ~_interior(masks)
    return torch.where(at_boundary | ~mixed[:, :, None, None, None], 0.0, sdm)


def _largest(values: Tensor) -> Tensor:
    return values.amax(dim=(2, 3, 4), keepdim=True)


def _interior(masks: Tensor) -> Tensor:
    """Voxels `(B, F, H, W, D)` whose neighbors across a face are all inside too, or beyond the crop."""
    interior = masks
    for axis in (2, 3, 4):
        count = masks.shape[axis] - 1
        first, last = masks.narrow(axis, 0, 1), masks.narrow(axis, count, 1)
        before = torch.cat([first, masks.narrow(axis, 0, count)], dim=axis)
        after = torch.cat([masks.narrow(axis, 1, count), last], dim=axis)
        interior = interior & before & after
    return interior


def inner_boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Inside voxels with an outside neighbor across a face; the border of the crop does not count."""
    padded = np.pad(mask, 1, mode="edge")
    interior = mask.copy()
    for axis in range(3):
        for shift in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(shift, shift + mask.shape[axis])
            interior &= padded[tuple(window)]
    return mask & ~interior


def class_distance_maps(
    label: NDArray[np.integer[Any]], classes: int, convention: str = "between_voxels", truncation: float = 8.0
) -> NDArray[np.float32]:
    """One signed distance map per foreground class.

    Args:
        label: `(H, W, D)`, values 0 to `classes`.
        classes: Foreground classes F.
        convention: "between_voxels" or "published", see `LossConfig.sdm_convention`.
        truncation: In voxels; unused when published.

    Returns:
        `(F, H, W, D)` float32 in [-1, 1].
    """
    if convention == "published":
        return np.stack([published_signed_distance_map(label == value) for value in range(1, classes + 1)])
    return np.stack([signed_distance_map(label == value, truncation) for value in range(1, classes + 1)])


def sdm_to_probability(sdm: Tensor, sharpness: float) -> Tensor:
    """sigmoid(-k sdm): near 1 inside, 1/2 on the surface, near 0 outside; any shape, same shape back.

    Source: UG-MCL Eq. 5; the paper's sign fits a map that is positive inside, ours is negative there.
    """
    return torch.sigmoid(-sharpness * sdm)
