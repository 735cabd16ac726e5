"""Slices as PNG: gray scan, cased contours, heat of the uncertainty; square pixels and true aspect."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from server.slice_view import REFERENCE

COLOR_MAP = "viridis"
"""Even steps of uncertainty look even, in gray and to color-blind readers, too."""
MODEL = "#FFFFFF"
"""Its contour; white, because the orange of `slice_view.PREDICTION` drowns in the yellow of the heat."""
FAINT, VEIL = 0.04, 0.6
"""Below the first, nothing is drawn over the scan; above, the heat covers it up to the second, so that the
anatomy stays to be seen where a young model is unsure of everything."""
LONGEST, SMALLEST = 2048, 8
"""Sides of a picture in pixels; a very long scan is drawn smaller, a very thin one not thinner."""


def size_of(shape: tuple[int, int], pixel_mm: tuple[float, float], longest: int) -> tuple[int, int]:
    """Rows and columns of a picture whose longer side has `longest` pixels and whose pixels are square.

    Args:
        shape: Rows and columns of the slice.
        pixel_mm: Height and width of one of its pixels.
        longest: In pixels.
    """
    height, width = shape[0] * pixel_mm[0], shape[1] * pixel_mm[1]
    scale = min(longest, LONGEST) / max(height, width)
    return max(SMALLEST, round(height * scale)), max(SMALLEST, round(width * scale))


def gray(slice_: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Gray values of a slice at a picture's size, `(rows, columns)`."""
    picture = Image.fromarray(np.ascontiguousarray(slice_))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR), dtype=np.uint8)


def contour(labels: NDArray[np.uint8], size: tuple[int, int], color: str) -> NDArray[np.uint8]:
    """The outlines of all classes as a transparent picture `(rows, columns, 4)`, dark around the color."""
    line = np.zeros(size, bool)
    for value in np.unique(labels):
        if value:
            share = gray((labels == value).astype(np.uint8) * 255, size) >= 128
            line |= share & ~_shrunk(share)
    line = _grown(line)
    cased = _grown(_grown(line))
    drawn = np.zeros((*size, 4), np.uint8)
    drawn[cased] = (0, 0, 0, 220)
    drawn[line] = (*ImageColor.getrgb(color)[:3], 255)
    return drawn


def heat(uncertainty: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Uncertainty (255 for 1) as a transparent picture `(rows, columns, 4)`; clear where it is low."""
    values = gray(uncertainty, size)
    unsure = values.astype(np.float32) / 255.0
    alpha = np.where(unsure < FAINT, 0.0, VEIL * np.sqrt(unsure))
    return np.dstack([_colors()[values], np.rint(alpha * 255).astype(np.uint8)])


def over(scan: NDArray[np.uint8], layers: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """A gray picture with transparent ones over it, `(rows, columns, 3)`."""
    picture: NDArray[Any] = np.repeat(scan[:, :, None], 3, axis=2).astype(np.float32)
    for layer in layers:
        alpha = layer[:, :, 3:].astype(np.float32) / 255.0
        picture = picture * (1 - alpha) + layer[:, :, :3] * alpha
    return np.asarray(np.rint(picture), dtype=np.uint8)


def thumbnail(
    image: NDArray[np.uint8],
    label: NDArray[np.uint8] | None,
    segmentation: NDArray[np.uint8] | None,
    uncertainty: NDArray[np.uint8] | None,
    size: tuple[int, int],
) -> bytes:
    """One slice with all there is over it, as PNG; slices `(rows, columns)` as of `slice_view.cut`."""
    layers = [] if uncertainty is None else [heat(uncertainty, size)]
    layers += [] if label is None else [contour(label, size, REFERENCE)]
    layers += [] if segmentation is None else [contour(segmentation, size, MODEL)]
    return png(over(gray(image, size), layers))


def png(picture: NDArray[np.uint8]) -> bytes:
    """A gray `(rows, columns)`, RGB or RGBA picture as PNG."""
    stream = io.BytesIO()
    # Level 3: half the time of the default, and the pictures travel a short way.
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


@cache
def _colors() -> NDArray[np.uint8]:
    """The 256 steps of the color map, `(256, 3)`."""
    from matplotlib import colormaps

    steps: Any = colormaps[COLOR_MAP](np.arange(256), bytes=True)
    return np.asarray(steps[:, :3], dtype=np.uint8)


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and its neighbors across edges."""
    found = mask.copy()
    found[1:] |= mask[:-1]
    found[:-1] |= mask[1:]
    found[:, 1:] |= mask[:, :-1]
    found[:, :-1] |= mask[:, 1:]
    return found


def _shrunk(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of the mask, what has no neighbor outside it; the picture's border is no outside."""
    return ~_grown(~mask)
