"""worker_config: the configuration of a round, kept from round to round so that training can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ugmcl.checkpoint import Checkpoint, load_checkpoint
from ugmcl.config import Config, replace
from ugmcl.preprocessing import orientation
from ugmcl.presets import preset
from ugmcl.sampling import TrainingCase

from .volumes import read_header
from .workspace import write_json_atomic

GEOMETRY_SAMPLE = 32  # scans whose shape and spacing decide the preset; a median needs no more


def published_model(job: dict[str, Any]) -> Checkpoint | None:
    """The live model, if it speaks of the same classes."""
    if job["published"] is None:
        return None
    checkpoint = load_checkpoint(job["published"])
    return checkpoint if list(checkpoint.config.labels) == list(job["labels"]) else None


def round_config(
    job: dict[str, Any], published: Checkpoint | None, cases: list[TrainingCase], device: str
) -> Config:
    """The configuration of the live model, else of an earlier round, else of the preset for these scans.

    Keeping it is what lets a round start from the live model and an interrupted round resume.
    """
    file = Path(job["workdir"]) / "config.json"
    config = published.config if published is not None and published.config.preset == job["preset"] else None
    config = config or _stored_config(file, job)
    if config is None:
        shapes, spacings = _geometry(cases)
        config = preset(job["preset"], job["labels"], shapes, spacings, device)
    budget = float(job["round_seconds"]) if device == "cpu" else 0.0
    config = replace(config, train={"budget_s": budget})
    write_json_atomic(file, config.to_dict())
    return config


def _stored_config(file: Path, job: dict[str, Any]) -> Config | None:
    try:
        config = Config.from_dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None  # the first round, or a file of another version of this program
    same = list(config.labels) == list(job["labels"]) and config.preset == job["preset"]
    return config if same else None


def _geometry(
    cases: list[TrainingCase],
) -> tuple[list[tuple[int, int, int]], list[tuple[float, float, float]]]:
    """Shapes in voxels and spacings in mm along the working axes, of a sample spread over the cases."""
    shapes: list[tuple[int, int, int]] = []
    spacings: list[tuple[float, float, float]] = []
    for case in cases[:: max(1, len(cases) // GEOMETRY_SAMPLE)]:
        try:
            header = read_header(Path(case.image))
        except (ValueError, OSError):
            continue
        x, y, z = orientation(header.affine)[0]
        shape, spacing = header.shape, np.linalg.norm(header.affine[:3, :3], axis=0)
        shapes.append((shape[x], shape[y], shape[z]))
        spacings.append((float(spacing[x]), float(spacing[y]), float(spacing[z])))
    return shapes, spacings
