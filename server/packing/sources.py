"""Data sets on disk in the layouts that the literature uses: which cases there are, and how each is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.packing.scan_files import as_label, read_h5, read_scan
from ugmcl.experiment import read_record
from ugmcl.pack import PackedCase
from ugmcl.volume import Volume

LEFT_ATRIUM_MM = 0.625
"""Voxel edges of the left-atrium scans, which their .h5 files do not say (Xiong et al. 2020)."""
H5_NAME = "mri_norm2.h5"
"""Name of each case's file in the left-atrium layout of UA-MT, DTC and UG-MCL."""


class Source(NamedTuple):
    """A data set on disk.

    Attributes:
        name: Of the data set.
        classes: Names of the foreground classes; empty where the files do not tell.
        pool: Ids to train on, in their order.
        test: Ids to report on; may be empty.
        files: Id to the files of the case.
        read: Reads a case; raises ValueError with a sentence when it cannot.
    """

    name: str
    classes: tuple[str, ...]
    pool: list[str]
    test: list[str]
    files: Callable[[str], list[Path]]
    read: Callable[[str], PackedCase]


def folder_source(folder: Path, channel: int | None = None) -> Source:
    """A folder with `images/`, `labels/` and `split.json`, whose `pool` (or `train`) and `test` list ids.

    Raises:
        ValueError: If split.json is not there or has no such list.
    """
    split = read_record(folder / "split.json")
    pool = None if split is None else split.get("pool", split.get("train"))
    if split is None or not _is_names(pool) or not _is_names(split.get("test", [])):
        raise ValueError(
            f"{folder} has no split.json with a list 'pool' (or 'train') and perhaps one 'test'."
        )

    def files(case: str) -> list[Path]:
        return [_scan_file(folder / "images", case), _scan_file(folder / "labels", case)]

    def read(case: str) -> PackedCase:
        image, label = files(case)
        return _read_pair(case, image, label, channel)

    return Source(folder.resolve().name, (), list(pool or []), list(split.get("test", [])), files, read)


def _is_names(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _scan_file(folder: Path, case: str) -> Path:
    for ending in (".nii.gz", ".nii"):
        if (folder / f"{case}{ending}").is_file():
            return folder / f"{case}{ending}"
    raise ValueError(f"{folder} has no {case}.nii.gz, which split.json names.")


def _read_pair(case: str, image: Path, label: Path, channel: int | None) -> PackedCase:
    scan = read_scan(image, channel)
    return PackedCase(case, scan, as_label(read_scan(label).array, label))


def h5_source(folder: Path, train_list: Path | None = None, test_list: Path | None = None) -> Source:
    """The left-atrium layout: `<case>/mri_norm2.h5` with `image` and `label`, and lists of cases.

    Args:
        folder: Holds the cases' folders.
        train_list: Text file with a case a line; `train.list` in or beside the folder if `None`.
        test_list: The same for the test cases; `test.list` if `None`, no test cases where it is not there.

    Raises:
        ValueError: If there is no list to train on.
    """
    pool = _listed(train_list or _beside(folder, "train.list"))
    tests = test_list or _beside(folder, "test.list")
    test = _listed(tests) if test_list is not None or tests.is_file() else []

    def files(case: str) -> list[Path]:
        return [folder / case / H5_NAME]

    def read(case: str) -> PackedCase:
        (path,) = files(case)
        image, label = read_h5(path)
        affine = np.diag([LEFT_ATRIUM_MM] * 3 + [1.0])
        return PackedCase(case, Volume(image, affine), as_label(label, path))

    return Source("left_atrium", ("left_atrium",), pool, test, files, read)


def _beside(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_file() else folder.parent / name


def _listed(path: Path) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"The list of cases {path} cannot be read ({type(error).__name__}); name it with --train-list "
            "or --test-list: a text file with the name of a case's folder a line."
        ) from error
    if not names:
        raise ValueError(f"The list of cases {path} is empty.")
    return names


def decathlon_source(folder: Path, channel: int | None = None) -> Source:
    """The Medical Segmentation Decathlon layout: `imagesTr/`, `labelsTr/` and `dataset.json`, all as pool.

    Raises:
        ValueError: If dataset.json is not there or does not name its training cases and labels.
    """
    about = read_record(folder / "dataset.json") or {}
    try:
        pairs = {
            re.sub(r"\.nii(\.gz)?$", "", Path(entry["label"]).name): (
                folder / entry["image"], folder / entry["label"],
            )
            for entry in about["training"]
        }  # fmt: skip
        named = dict(about["labels"])
        # {"1": "name"} in the original files, {"name": 1} in what nnU-Net made of them
        values = {int(key): str(name) for key, name in named.items()} if "0" in named else {
            int(value): str(name) for name, value in named.items()
        }  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} has no dataset.json with 'training' (image and label of each case) and 'labels'."
        ) from error
    classes = tuple(values[value] for value in sorted(values) if value > 0)
    if sorted(values) != list(range(len(values))) or not classes:
        raise ValueError(
            f"{folder / 'dataset.json'} names the label values {sorted(values)}, not 0, 1, 2 ..."
        )

    def read(case: str) -> PackedCase:
        return _read_pair(case, *pairs[case], channel)

    name = str(about.get("name") or folder.resolve().name).lower().replace(" ", "_")
    return Source(name, classes, list(pairs), [], lambda case: list(pairs[case]), read)


def find_source(
    folder: Path,
    layout: str = "auto",
    train_list: Path | None = None,
    test_list: Path | None = None,
    channel: int | None = None,
) -> Source:
    """The data set in `folder`, of the named layout or of the one that its files show.

    Raises:
        ValueError: If there is no folder, or none of the layouts in it.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    if layout == "auto":
        layout = _layout_of(folder)
    if layout == "h5":
        return h5_source(folder, train_list, test_list)
    return folder_source(folder, channel) if layout == "folder" else decathlon_source(folder, channel)


def _layout_of(folder: Path) -> str:
    if (folder / "split.json").is_file():
        return "folder"
    if (folder / "dataset.json").is_file():
        return "decathlon"
    if any(folder.glob(f"*/{H5_NAME}")):
        return "h5"
    raise ValueError(
        f"{folder} shows none of the layouts: split.json with images/ and labels/, dataset.json with "
        f"imagesTr/ and labelsTr/, or folders with {H5_NAME}."
    )


def labels_of(source: Source, cases: Sequence[str]) -> NDArray[np.uint8]:
    """All label values that occur, sorted."""
    found: set[int] = set()
    for case in cases:
        label = source.read(case).label
        found |= set() if label is None else set(np.unique(label).tolist())
    return np.array(sorted(found), dtype=np.uint8)
