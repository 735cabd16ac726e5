"""intensities: voxels kept in 8 or 16 bits with a scale and an offset for each scan.

Nothing is lost where a scan has no more levels than that, evenly spaced, as what a scanner wrote and what was
normalized from it have.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CLIPPED_PERCENT = 0.1
"""At each end of the intensities, what 8 bits cut off from a scan with more levels: a few extreme voxels
would otherwise take most of the 256. Preprocessing clips at 1 % by default."""
LEVELS = {8: 2**8, 16: 2**16}
DISPLAY_PERCENTS = (1.0, 99.5)
"""Between them the gray values of a picture run from black to white: below as preprocessing clips by default,
above a little wider, where bright vessels and fluid lie."""
SAMPLED_VOXELS = 500_000
"""As many voxels give the percentiles of a large scan to within what an eye can see."""


class StoredIntensities(NamedTuple):
    """Voxels as integers: the intensity is `voxels * scale + offset`.

    Attributes:
        voxels: `(X, Y, Z)` uint8 or int16.
        scale: Intensity of one level, > 0.
        offset: Intensity of the level 0.
        exact: Whether nothing was lost but the last digits of a float32.
    """

    voxels: NDArray[Any]
    scale: float
    offset: float
    exact: bool


def store_intensities(array: NDArray[np.generic], bits: int = 16) -> StoredIntensities:
    """Intensities `(X, Y, Z)` in 8 or 16 bits, exactly where their levels are evenly spaced and few enough.

    Raises:
        ValueError: If a voxel is not a finite number.
    """
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some of its voxels are not finite numbers")
    levels = np.unique(values)
    if len(levels) <= LEVELS[bits]:
        step = _even_step(levels)
        count = round((levels[-1] - levels[0]) / step)
        if count < LEVELS[bits] and np.abs(_off_grid(levels, step)).max() < 0.01:
            return _integers(values, step, float(levels[0]), count < LEVELS[8], exact=True)
    low, high = float(levels[0]), float(levels[-1])
    if bits == 8:
        low, high = (float(v) for v in np.percentile(values, [CLIPPED_PERCENT, 100 - CLIPPED_PERCENT]))
        low, high = (low, high) if low < high else (float(levels[0]), float(levels[-1]))
    step = (high - low) / (LEVELS[bits] - 1)
    return _integers(np.clip(values, low, high), step, low, bits == 8, exact=False)


def display_window(array: NDArray[Any]) -> tuple[float, float]:
    """The intensities `(low, high)` of a scan `(X, Y, Z)` that are shown as black and white, low < high."""
    flat = array.reshape(-1)
    # An odd stride: an even one could meet the same columns of every row.
    sample = flat[:: 2 * (flat.size // (2 * SAMPLED_VOXELS)) + 1]
    low, high = (float(value) for value in np.percentile(sample, DISPLAY_PERCENTS))
    if low < high:
        return low, high
    low, high = float(array.min()), float(array.max())
    return (low, high) if low < high else (low, low + 1.0)


def windowed(array: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Intensities, of two axes or more, as gray values: 0 at and below the window, 255 at and above it."""
    low, high = window
    shown = np.empty(array.shape, np.uint8)
    for part, out in zip(
        array, shown, strict=True
    ):  # slice by slice: a whole scan in float32 is four times it
        scaled = (part.astype(np.float32) - low) * np.float32(255.0 / (high - low))
        out[...] = np.rint(np.clip(scaled, 0.0, 255.0))
    return shown


def _even_step(levels: NDArray[np.float64]) -> float:
    """The spacing of levels if they lie on a regular grid."""
    if len(levels) < 2:
        return 1.0
    if np.array_equal(levels, np.round(levels)) and np.abs(levels).max() < 2**53:
        return float(np.gcd.reduce(np.diff(levels).astype(np.int64)))
    width = float(levels[-1] - levels[0])
    return width / max(1, round(width / float(np.diff(levels).min())))


def _off_grid(levels: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    places = (levels - levels[0]) / step
    return np.asarray(places - np.round(places))


def _integers(
    values: NDArray[np.float64], step: float, low: float, small: bool, *, exact: bool
) -> StoredIntensities:
    places = np.round((values - low) / step)
    if small:
        return StoredIntensities(places.astype(np.uint8), step, low, exact)
    middle = 2**15
    return StoredIntensities((places - middle).astype(np.int16), step, low + middle * step, exact)
