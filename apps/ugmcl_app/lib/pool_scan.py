"""pool_scan: one look at a project's folder: which scans and labels are usable, and which files are set
aside."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checks import TAGS
from .pool import Finding, PoolFindings, Signature, scan_files, split_name


@dataclass
class PoolScan:
    """What a look at the folder found.

    Attributes:
        images: Image id -> file name, of usable scans.
        hidden: Image id -> file name, of scans set aside.
        labels: (tag, image id) -> file name and finding, of usable labels.
        set_aside: File, relative to the folder -> reason.
        signatures: Label file, relative to the folder -> its signature when it was looked at.
    """

    images: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    labels: dict[tuple[str, str], tuple[str, Finding]] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    signatures: dict[str, Signature] = field(default_factory=dict)


def scan_pool(
    folder: Path,
    findings: PoolFindings,
    labels: Mapping[str, int],
    allow_empty: bool,
    recorded: Mapping[str, Mapping[str, Any]],
    voxels_s: float,
) -> PoolScan:
    """Look at every file; those that did not change since the last look are not read again.

    Args:
        folder: Scans, and labels in `labels/<tag>/`.
        findings: What was found before; kept up to date.
        labels: The project's classes, `{name: value}`.
        allow_empty: Whether final labels may be all zero.
        recorded: Tag -> image id -> the datastore's record of its label (`ext`, `info`).
        voxels_s: Seconds for reading scans to their last voxel.

    Raises:
        OSError: If a folder cannot be listed.
    """
    scan = PoolScan()
    images = scan_files(folder)
    present = set(images)
    deadline = time.monotonic() + voxels_s
    for name, signature in images.items():
        _look_at_image(scan, findings, folder / name, signature, voxels=time.monotonic() < deadline)
    for tag in TAGS:
        for name, signature in scan_files(folder / "labels" / tag).items():
            present.add(f"{tag}/{name}")
            scan.signatures[f"labels/{tag}/{name}"] = signature
            _look_at_label(scan, findings, folder, tag, name, signature, labels, allow_empty, recorded[tag])
    findings.forget_missing(present)
    return scan


def _look_at_image(
    scan: PoolScan, findings: PoolFindings, path: Path, signature: Signature, voxels: bool
) -> None:
    try:
        image_id, _ = split_name(path.name)
    except ValueError as error:
        scan.set_aside[path.name] = str(error)
        return
    finding = findings.image(path, signature, voxels)
    if finding.reason:
        scan.set_aside[path.name] = finding.reason
        scan.hidden.setdefault(image_id, path.name)
    elif image_id in scan.images:
        scan.set_aside[path.name] = f"{scan.images[image_id]} has the same id; rename one of them."
    else:
        scan.images[image_id] = path.name
        scan.hidden.pop(image_id, None)


def _look_at_label(
    scan: PoolScan,
    findings: PoolFindings,
    folder: Path,
    tag: str,
    name: str,
    signature: Signature,
    labels: Mapping[str, int],
    allow_empty: bool,
    recorded: Mapping[str, Any],
) -> None:
    key = f"{tag}/{name}"
    try:
        image_id, extension = split_name(name)
    except ValueError as error:
        scan.set_aside[f"labels/{key}"] = str(error)
        return
    if image_id not in scan.images:
        scan.set_aside[f"labels/{key}"] = "There is no usable image with this id."
        return
    record = recorded.get(image_id)
    other = scan.labels.get((tag, image_id))
    if other is not None and not (record and record.ext == extension):
        scan.set_aside[f"labels/{key}"] = f"{other[0]} is another label of the same image."
        return
    may_be_empty = allow_empty or tag != "final" or bool(record and record.info.get("no_finding"))
    image = folder / scan.images[image_id]
    finding = findings.label(key, folder / "labels" / key, signature, image, labels, may_be_empty)
    if finding.reason:
        scan.set_aside[f"labels/{key}"] = finding.reason
    else:
        if other is not None:
            scan.set_aside[f"labels/{tag}/{other[0]}"] = f"{name} is another label of the same image."
        scan.labels[(tag, image_id)] = (name, finding)
