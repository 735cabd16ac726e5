"""provenance: what a measured figure depends on besides the code: versions, threads, device, commit, date."""

from __future__ import annotations

import datetime
import platform
import subprocess
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Plain values for the JSON files of measurements.

    Args:
        device: "cpu" or "cuda...", the one measured on.

    Returns:
        `versions` (name to version), `threads` of torch, `device` in words, `commit` (ending in "-dirty" with
        uncommitted changes; `None` outside a git checkout) and `date` (UTC, ISO 8601).
    """
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "monai": monai.__version__,
            "numpy": np.__version__,
        },
        "threads": torch.get_num_threads(),
        "device": device_in_words(device),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def device_in_words(device: str) -> str:
    """The model name of a processor or GPU, or `device` itself where the system does not tell."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or device
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else device


def commit() -> str | None:
    """The commit of the checkout this file lies in, or `None` when git or a commit is missing."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
