"""checks: what a name and a label must be before anything of them reaches the disk."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ugmcl.volume import Volume

from .errors import Refusal, UnusableImage
from .label_names import map_values
from .volumes import read_header, read_label

TAGS = ("original", "final")
"""`original`: the model's proposal; `final`: the expert's label."""
GRID_TOLERANCE_MM = 1e-3
"""Two grids are the same when no corner of the volume lies further apart than this."""
MAX_NESTING = 16
"""Levels of lists and objects in a client's params: more than any viewer sends, few enough for encoders."""
MAX_ID_BYTES = 180
"""An id becomes a file name with an extension; file systems end at 255 bytes."""


def safe_id(image_id: Any) -> str:
    """The id itself if it can be a file name in one folder.

    Raises:
        Refusal: 400 for an empty or overlong id, one with a path separator or a control character, and one
            that starts with a dot.
    """
    text = image_id if isinstance(image_id, str) else ""
    length = len(text.encode(errors="replace"))
    bad = not 0 < length <= MAX_ID_BYTES or text.startswith(".") or text != text.strip()
    # A surrogate stands for a byte of a file name that is no UTF-8, and cannot be sent back in an answer.
    if bad or any(char in "/\\" or unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise Refusal(
            400,
            f"The id {_shown(image_id)} is not allowed: an id is a file name without extension, of 1 to "
            f"{MAX_ID_BYTES} bytes, with no '/', '\\' or control character and no dot or space at its start.",
        )
    return text


def safe_tag(tag: Any) -> str:
    """The label tag itself if it is one of `TAGS`; refuses with 400 otherwise."""
    text = getattr(tag, "value", tag)
    if text not in TAGS:
        raise Refusal(400, f"The label tag {_shown(text)} is not allowed; allowed: {', '.join(TAGS)}.")
    return str(text)


def plain_params(params: Any) -> dict[str, Any]:
    """A client's params as plain JSON that can be kept, and told again in every later answer.

    Raises:
        Refusal: 422 for anything but an object, and for one with NaN or infinite numbers, characters that
            are no text (NUL, half of a surrogate pair), or more than `MAX_NESTING` levels.
    """
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise Refusal(422, f"params is a {type(params).__name__}; a JSON object is needed, such as {{}}.")
    reason = f"more than {MAX_NESTING} levels of lists and objects" if _is_deep(params, MAX_NESTING) else ""
    text = ""
    if not reason:
        try:
            text = json.dumps(params, default=str, allow_nan=False, ensure_ascii=False)
            text.encode()
        except UnicodeEncodeError:
            reason = "half of a surrogate pair, which is no character"
        except ValueError:
            reason = "NaN or an infinite number"
    if "\\u0000" in text.replace("\\\\", ""):
        reason = "the character NUL"
    if reason:
        raise Refusal(422, f"params holds {reason}, which cannot be kept; send plain JSON values.")
    plain: dict[str, Any] = json.loads(text)
    return plain


def _is_deep(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deep(item, levels - 1) for item in inner if isinstance(item, dict | list))


def check_label(
    path: Path | str,
    image: Volume | Path | str,
    labels: Mapping[str, int],
    label_info: Any = None,
    no_finding: bool = False,
    allow_empty: bool = False,
) -> NDArray[Any]:
    """Read a label file and bring it to the project's values on its image's grid.

    Args:
        path: The submitted file.
        image: The scan it belongs to, or that scan's file.
        labels: The project's classes, `{name: value}`.
        label_info: The meaning of each submitted value by name, `[{"name", "idx"}]`; None: the project's
            values.
        no_finding: Whether the expert says that nothing is there to segment.
        allow_empty: Whether an all-zero label needs no such word.

    Returns:
        `(X, Y, Z)` in the image file's voxel order, the smallest unsigned type that holds every project
        value.

    Raises:
        Refusal: 422, for each reason with its own sentence; for another grid also `expected_shape` and
            `expected_affine`.
    """
    grid = _grid(image)
    try:
        header = read_header(path)
        # Before the voxels: a small compressed file may hold gigabytes of them.
        way = _way_to(header.shape, header.affine, *grid)
        array, _ = read_label(path)
    except UnusableImage as error:
        raise Refusal(422, f"The label cannot be used. {error}") from error
    array = _turned(array, *way)
    values = _whole_values(array)
    mapping = map_values([value for value in values if value != 0], labels, label_info)
    if not mapping and not (no_finding is True or allow_empty):
        raise Refusal(
            422,
            "The label is empty: every voxel is 0. If the scan really shows nothing to segment, send "
            'params {"no_finding": true}, or start the app with --conf allow_empty_labels true.',
        )
    return _remap(array, mapping, np.min_scalar_type(max(labels.values())))


def check_finding(says_no_finding: bool, array: NDArray[Any]) -> None:
    """A submission that says there is nothing to segment must not segment anything.

    Args:
        says_no_finding: `params.no_finding` of the submission.
        array: Its label, `(X, Y, Z)`.

    Raises:
        Refusal: 422, for either the word or the voxels are a mistake, and only the reader knows which.
    """
    if says_no_finding and (voxels := int(np.count_nonzero(array))):
        raise Refusal(
            422,
            f"params says no_finding, but {voxels} voxels of the label are not 0. Leave no_finding out, or "
            "send a label in which every voxel is 0.",
        )


def reorder(
    array: NDArray[Any],
    affine: NDArray[np.float64],
    shape: tuple[int, ...],
    image_affine: NDArray[np.float64],
) -> NDArray[Any]:
    """The voxels of a volume in the axis order and directions of an image.

    Args:
        array: `(X, Y, Z)` with `affine`, voxel index to RAS mm.
        affine: See `array`.
        shape: The image's shape.
        image_affine: The image's affine.

    Raises:
        Refusal: 422 if no permutation and flip of the axes puts every corner within `GRID_TOLERANCE_MM`.
    """
    return _turned(array, *_way_to(array.shape, affine, shape, image_affine))


def _turned(array: NDArray[Any], order: tuple[int, ...], flips: tuple[bool, ...]) -> NDArray[Any]:
    return np.transpose(array, order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def _way_to(
    given_shape: tuple[int, ...],
    affine: NDArray[np.float64],
    shape: tuple[int, ...],
    image_affine: NDArray[np.float64],
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """How a label's axes become its image's: their order, and which of them are then turned around.

    Args:
        given_shape: The label's shape.
        affine: The label's affine, voxel index to RAS mm.
        shape: The image's shape.
        image_affine: The image's affine.

    Raises:
        Refusal: 422 if no permutation and flip of the axes puts every corner within `GRID_TOLERANCE_MM`.
    """
    nearest: tuple[float, tuple[int, ...], tuple[bool, ...]] | None = None
    for order, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        if tuple(given_shape[axis] for axis in order) == shape:
            turned = affine @ _index_transform(given_shape, order, flips)
            distance = corner_distance_mm(turned, image_affine, shape)
            if nearest is None or distance < nearest[0]:
                nearest = (distance, order, flips)
    if nearest is None or nearest[0] > GRID_TOLERANCE_MM:
        given = f"shape {'x'.join(map(str, given_shape))} and affine {_shown_affine(affine)}"
        gap = "" if nearest is None else f" Its corners lie up to {nearest[0]:.3g} mm from the image's."
        raise Refusal(
            422,
            f"The label's grid is not its image's.{gap} Given: {given}; expected: shape "
            f"{'x'.join(map(str, shape))} and affine {_shown_affine(image_affine)} "
            f"(voxel to RAS mm, corners within {GRID_TOLERANCE_MM:g} mm; axes may be flipped or permuted).",
            expected_shape=list(shape),
            expected_affine=image_affine.tolist(),
        )
    return nearest[1], nearest[2]


def corner_distance_mm(a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Largest distance in mm between where two affines put the eight corner voxels of a grid."""
    corners = np.array(list(product(*((0, length - 1) for length in shape))), dtype=np.float64)
    gaps = corners @ (a[:3, :3] - b[:3, :3]).T + (a[:3, 3] - b[:3, 3])
    return float(np.linalg.norm(gaps, axis=1).max())


def _index_transform(
    shape: tuple[int, ...], order: tuple[int, ...], flips: tuple[bool, ...]
) -> NDArray[np.float64]:
    """`(4, 4)`: index in the reordered array -> index in the original one."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1.0
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        matrix[old, new] = -1.0 if flip else 1.0
        matrix[old, 3] = shape[old] - 1 if flip else 0.0
    return matrix


def _grid(image: Volume | Path | str) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    if isinstance(image, Volume):
        return image.array.shape, image.affine
    header = read_header(image)
    return header.shape, header.affine


def _whole_values(array: NDArray[Any]) -> list[int]:
    """The distinct values of a label; refuses NaN, infinite, negative, fractional and enormous ones."""
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise Refusal(422, "The label holds NaN or infinite values; allowed are whole numbers from 0.")
        fractional = array != np.round(array)
        if fractional.any():
            value = float(array[fractional].flat[0])
            raise Refusal(422, f"The label holds the fraction {value:g}; allowed are whole numbers from 0.")
    if array.min() < 0:
        value = float(array.min())
        raise Refusal(422, f"The label holds the negative value {value:g}; allowed are whole numbers from 0.")
    if array.max() > 65535:
        raise Refusal(
            422, f"The label holds the value {float(array.max()):g}; allowed are values up to 65535."
        )
    present = np.zeros(65536, dtype=bool)
    for (
        plane
    ) in array:  # numpy turns an index array into 8 bytes a voxel: one plane at a time keeps that small
        present[plane.astype(np.uint16)] = True
    return [int(value) for value in np.flatnonzero(present)]


def _remap(array: NDArray[Any], mapping: Mapping[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    table = np.zeros(max(mapping, default=0) + 1, dtype=dtype)
    for value, target in mapping.items():
        table[value] = target
    remapped = np.empty(array.shape, dtype=dtype)
    for target_plane, plane in zip(remapped, array, strict=True):
        target_plane[...] = table[plane.astype(np.uint16)]
    return remapped


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _shown_affine(affine: NDArray[np.float64]) -> str:
    return str([[round(float(value), 4) for value in row] for row in affine[:3]])
