"""worker_score: how unsure the live model is of each unlabeled case, one JSON line a case."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ugmcl.checkpoint import load_checkpoint
from ugmcl.inference import Prediction, Predictor
from ugmcl.volume import Volume

from .drafts import write_draft
from .volumes import read_volume

if TYPE_CHECKING:
    from .worker import EventStream

logger = logging.getLogger(__name__)


def score_cases(job: dict[str, Any], emit: EventStream) -> None:
    """Score every case of the job; one that cannot be scored is reported as `skipped` and left out.

    Args:
        job: `model` (checkpoint file), `version` (of the model), `device`, `threads`, `mc_samples`, `seed`,
            `cases` [{`id`, `image`}], and, if drafts are wanted, `drafts`: the folder to leave them in.
        emit: Receives `begun` events with `id`, then `score` with `id`, `score` in [0, 1] and `draft` (a
            file, or None where none was wanted or could be written), or `skipped`, and a `result` at the end.
    """
    if job["threads"] > 0:
        torch.set_num_threads(job["threads"])
    predictor = Predictor(load_checkpoint(job["model"]), job["device"])
    scored = 0
    for number, case in enumerate(job["cases"]):
        emit("begun", id=case["id"])  # should it take this process down, the server knows which one it was
        try:
            volume = read_volume(Path(case["image"]))
            prediction = predictor.predict(
                volume, uncertainty=True, mc_samples=job["mc_samples"], seed=job["seed"]
            )
        except Exception as error:  # a scan too large for the memory, say, must not keep the others waiting
            emit("skipped", id=case["id"], reason=str(error) or type(error).__name__)
            continue
        assert prediction.summary is not None
        draft = _draft(job, number, volume, prediction)
        emit("score", id=case["id"], score=float(prediction.summary.score), draft=draft)
        scored += 1
    emit("result", scored=scored)


def _draft(job: dict[str, Any], number: int, volume: Volume, prediction: Prediction) -> str | None:
    """Leave the draft of a case for the server, which moves it to its place; returns the file."""
    if not job.get("drafts"):
        return None
    file = Path(job["drafts"]) / f"{os.getpid()}-{number}.zip"
    try:
        write_draft(file, Path(job["cases"][number]["image"]), volume, prediction, job["version"])
    except OSError:  # e.g. a full disk; a draft is for looking at, the score is what is wanted
        logger.warning("The draft of a case could not be written.")
        return None
    return str(file)
