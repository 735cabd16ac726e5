"""Build backend: setuptools, plus the `.pth` file that makes pydicom 3 usable by MONAI Label.

The start-up line and the module it imports have to sit in `site-packages`, because the stock `monailabel`
command imports `pydicom_seg` before it has seen our app. setuptools has no way to put a file there for
`pip install .` and `pip install -e .` alike, but the two hooks behind them (PEP 517, PEP 660) both hand
back a wheel: adding two files to it serves both.
"""

import base64
import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist as build_sdist,
    get_requires_for_build_editable as get_requires_for_build_editable,
    get_requires_for_build_sdist as get_requires_for_build_sdist,
    get_requires_for_build_wheel as get_requires_for_build_wheel,
    prepare_metadata_for_build_editable as prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel as prepare_metadata_for_build_wheel,
)

PTH_NAME = "ugmcl_assist_alias.pth"
PTH_LINE = "import pydicom_alias\n"
ALIAS_MODULE = Path("apps/ugmcl_app/pydicom_alias.py")
"""What the line imports, relative to the repository root, where front ends run the hooks."""


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """Build the wheel with the start-up line."""
    name = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    add_start_up_line(Path(wheel_directory, name))
    return name


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """Build the editable wheel with the start-up line; its module is a copy, which `make setup` refreshes."""
    name = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    add_start_up_line(Path(wheel_directory, name))
    return name


def add_start_up_line(wheel: Path) -> None:
    """Add the `.pth` file and its module to a wheel and to its RECORD, replacing the wheel atomically."""
    files = {PTH_NAME: PTH_LINE.encode(), ALIAS_MODULE.name: ALIAS_MODULE.read_bytes()}
    partial = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as new:
        (record,) = [name for name in old.namelist() if name.endswith(".dist-info/RECORD")]
        for item in old.infolist():
            if item.filename != record:
                new.writestr(item, old.read(item))
        for name, content in files.items():
            new.writestr(name, content)
        lines = [record_line(name, content) for name, content in files.items()]
        new.writestr(record, old.read(record) + "".join(lines).encode())
    os.replace(partial, wheel)


def record_line(name: str, content: bytes) -> str:
    """One line of a wheel's RECORD: name, unpadded URL-safe SHA-256, size in bytes."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"
