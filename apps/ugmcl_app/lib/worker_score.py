"""worker_score: how unsure the live model is of each unlabeled case, one JSON line a case."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ugmcl.case_score import score_case
from ugmcl.checkpoint import load_checkpoint
from ugmcl.inference import Predictor

from .volumes import read_volume

if TYPE_CHECKING:
    from .worker import EventStream


def score_cases(job: dict[str, Any], emit: EventStream) -> None:
    """Score every case of the job; one that cannot be scored is reported as `skipped` and left out.

    Args:
        job: `model` (checkpoint file), `device`, `threads`, `mc_samples`, `seed`, `cases` [{`id`, `image`}].
        emit: Receives `begun` events with `id`, then `score` with `id` and `score` in [0, 1] or `skipped`,
            and a `result` at the end.
    """
    if job["threads"] > 0:
        torch.set_num_threads(job["threads"])
    predictor = Predictor(load_checkpoint(job["model"]), job["device"])
    scored = 0
    for case in job["cases"]:
        emit("begun", id=case["id"])  # should it take this process down, the server knows which one it was
        try:
            volume = read_volume(Path(case["image"]))
            found = score_case(predictor, volume, mc_samples=job["mc_samples"], seed=job["seed"])
        except Exception as error:  # a scan too large for the memory, say, must not keep the others waiting
            emit("skipped", id=case["id"], reason=str(error) or type(error).__name__)
            continue
        emit("score", id=case["id"], score=found.score)
        scored += 1
    emit("result", scored=scored)
