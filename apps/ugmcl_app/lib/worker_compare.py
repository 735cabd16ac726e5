"""worker_compare: how good the live model is on a round's validation cases: what its candidate must reach."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ugmcl.checkpoint import Checkpoint
from ugmcl.metrics import average
from ugmcl.sampling import LoadCase, TrainingCase
from ugmcl.trainer import evaluate

from .pool import scan_version
from .round_record import VALIDATE
from .worker_config import published_model
from .worker_labels import TakenLabels, label_loader
from .workspace import write_json_atomic

if TYPE_CHECKING:
    from .worker import EventStream


def means_of(values: dict[str, float] | None) -> dict[str, float] | None:
    """What a round shows of a model's means: `dice` in [0, 1] and `hd95_mm`; None stays None."""
    return None if values is None else {name: values[name] for name in ("dice", "hd95_mm")}


def published_before(
    job: dict[str, Any], published: Checkpoint | None, taken: TakenLabels, load: LoadCase, device: str
) -> dict[str, float] | None:
    """The live model's means on today's validation cases, measured before training so that a stop costs
    nothing.

    Kept in the work folder: a round that is stopped and resumed with every label must not measure it every
    time.
    """
    cases = taken.cases(VALIDATE)
    if published is None or not cases:
        return None
    key = {
        "model": job["published_version"],
        "cases": {case.id: [taken.read[case.id], scan_version(case.image)] for case in cases},
    }
    file = Path(job["workdir"]) / "published_before.json"
    try:
        stored = json.loads(file.read_text())
        if stored["key"] == key:
            known: dict[str, float] | None = stored["means"]
            return known
    except (OSError, ValueError, KeyError):
        pass  # not measured yet
    means = _measure(published, cases, load, device, taken.set_aside)
    write_json_atomic(file, {"key": key, "means": means})
    return means


def compare(job: dict[str, Any], emit: EventStream) -> None:
    """Measure another model that went live while a round ran, on the same copies of the labels.

    Args:
        job: `published` (checkpoint file), `labels` (class names), `device`, `threads`, `cases` [{`id`,
            `image`, `label`}].
        emit: Receives one `result` event with `published_before`: `dice` and `hd95_mm`, or None if the model
            has other classes or no case is readable.
    """
    if job["threads"] > 0:
        torch.set_num_threads(job["threads"])
    published = published_model(job)
    cases = [TrainingCase(case["id"], case["image"], case["label"]) for case in job["cases"]]
    means = None
    if published is not None:
        means = _measure(published, cases, label_loader(job["labels"]), job["device"], {})
    emit("result", published_before=means)


def _measure(
    model: Checkpoint, cases: Sequence[TrainingCase], load: LoadCase, device: str, set_aside: dict[str, str]
) -> dict[str, float] | None:
    scores = evaluate(model, cases, load, device=device, set_aside=set_aside)
    return means_of(average(scores)) if scores else None
