"""Scans, labels and a tiny model as real files, for the tests of what the app reads and writes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from lib.registry import ModelRegistry
from ugmcl.checkpoint import Checkpoint
from ugmcl.config import Config, InferConfig, NetworkConfig, PreprocessConfig
from ugmcl.network import DualTaskVNet

SHAPE = (12, 10, 8)


def oblique_affine() -> NDArray[np.float64]:
    """Voxel to RAS mm of a scan tilted about two axes, 1.1 x 0.9 x 2.3 mm."""
    (c, s), (d, t) = (np.cos(0.3), np.sin(0.3)), (np.cos(-0.2), np.sin(-0.2))
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    about_z = np.array([[d, -t, 0], [t, d, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([1.1, 0.9, 2.3])
    affine[:3, 3] = (-40.0, 25.5, 7.25)
    return affine


OBLIQUE = oblique_affine()


def write_nifti(path: Path, array: NDArray[Any], affine: NDArray[np.float64] = OBLIQUE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine, dtype=array.dtype), path)
    return path


def scan(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(0, 500, shape).astype(np.int16)


def block(shape: tuple[int, ...] = SHAPE, value: int = 1) -> NDArray[np.uint8]:
    """A label without any symmetry, so that no flip or permutation of it looks the same."""
    label = np.zeros(shape, np.uint8)
    label[2:6, 3:5, 1:4] = value
    label[2, 3, 6] = value
    return label


def cut(path: Path, keep: float = 0.6) -> Path:
    """Truncate a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def put_bad_files(folder: Path) -> dict[str, str]:
    """One file of every unusable kind; name -> a word of the reason expected."""
    with_nan = scan().astype(np.float32)
    with_nan[3, 3, 3] = np.nan
    write_nifti(folder / "nan.nii.gz", with_nan)
    write_nifti(folder / "inf.nii", np.where(np.isnan(with_nan), np.inf, with_nan).astype(np.float32))
    write_nifti(folder / "flat.nii.gz", np.full(SHAPE, 7, np.int16))
    write_nifti(folder / "slice.nii.gz", scan((12, 10, 1)))
    write_nifti(folder / "twod.nii.gz", scan((12, 10)))
    write_nifti(folder / "series.nii.gz", scan((12, 10, 8, 3)))
    cut(write_nifti(folder / "cut_gz.nii.gz", scan()))
    cut(write_nifti(folder / "cut.nii", scan()))
    (folder / "junk.nii.gz").write_bytes(b"this is no image" * 40)
    (folder / "junk_gz.nii.gz").write_bytes(gzip.compress(b"neither is this" * 100))
    (folder / "empty.nrrd").write_bytes(b"")
    (folder / "._a.nii.gz").write_bytes(b"\0\5\x16\7")
    return {
        "nan.nii.gz": "NaN",
        "inf.nii": "infinite",
        "flat.nii.gz": "constant",
        "slice.nii.gz": "single slice",
        "twod.nii.gz": "2 axes",
        "series.nii.gz": "4 axes",
        "cut_gz.nii.gz": "truncated",
        "cut.nii": "truncated",
        "junk.nii.gz": "not a NIfTI",
        "junk_gz.nii.gz": "not a NIfTI",
        "empty.nrrd": "not a NIfTI",
        "._a.nii.gz": "macOS",
    }


def publish_tiny_model(
    registry: ModelRegistry, labels: tuple[str, ...] = ("foreground",), seed: int = 0
) -> str:
    """Add an untrained tiny model to a project and publish it; returns its version."""
    torch.manual_seed(seed)
    config = Config(
        labels,
        preprocess=PreprocessConfig((1.5, 1.5, 2.0), (16, 16, 16)),
        network=NetworkConfig(len(labels), (4, 8), (1, 1)),
        infer=InferConfig(overlap=0.25),
    )
    version = registry.add(Checkpoint.of(DualTaskVNet(config.network), config), "r0001", None, {})
    registry.publish(version)
    return version


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, to show that nothing changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("catalogue.db")
    }
