"""Single files of a data set: NIfTI scans and labels, and the left-atrium .h5 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from ugmcl.volume import Volume


def read_scan(path: Path, channel: int | None = None) -> Volume:
    """A NIfTI file, `(X, Y, Z)`.

    Args:
        path: The file.
        channel: Which image of a file with several (4 axes), from 0.

    Raises:
        ValueError: If it cannot be read, or has several images and `channel` does not name one.
    """
    try:
        image: Any = nibabel.load(path)
        array, affine = np.asarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}).") from error
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim == 4 and channel is not None and channel < array.shape[3]:
        array = array[..., channel]
    if array.ndim != 3:
        several = f"{path} holds an array of shape {array.shape}; one scan has 3 axes."
        raise ValueError(f"{several} Name an image of the fourth axis with --channel, from 0.")
    return Volume(array, affine)


def as_label(array: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """Class values as uint8.

    Raises:
        ValueError: If they are not whole numbers from 0 to 255.
    """
    values = array.astype(np.float64)
    if not np.array_equal(values, np.round(values)) or values.min() < 0 or values.max() > 255:
        raise ValueError(f"{path}: a label has whole numbers from 0 to 255; this one has others.")
    return values.astype(np.uint8)


def read_h5(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """`image` and `label` of an HDF5 file, both `(X, Y, Z)`.

    Raises:
        ValueError: If it cannot be read or lacks one of them.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            image, label = (np.asarray(file[name]) for name in ("image", "label"))
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is not an HDF5 file with 'image' and 'label' ({error}).") from error
    if image.ndim != 3:
        raise ValueError(f"{path} holds an image of shape {image.shape}; one scan has 3 axes.")
    return image, label
