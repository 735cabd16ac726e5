"""worker_score: how unsure the live model is of each unlabeled case, one JSON line a case."""

from __future__ import annotations

import heapq
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ugmcl.case_score import score_case
from ugmcl.checkpoint import load_checkpoint
from ugmcl.inference import Predictor
from ugmcl.volume import Volume

from .drafts import write_draft
from .volumes import read_volume, write_map

if TYPE_CHECKING:
    from .worker import EventStream

logger = logging.getLogger(__name__)

DRAFTED = 24
"""Cases of a job that get a draft, the least sure so far: a page of the review page's list. A draft takes the
dropout passes, three times the time of a score, and few people look farther down."""


def score_cases(job: dict[str, Any], emit: EventStream) -> None:
    """Score every case of the job; one that cannot be scored is reported as `skipped` and left out.

    Args:
        job: `model` (checkpoint file), `version` (of the model), `device`, `threads`, `mc_samples`, `seed`,
            `cases` [{`id`, `image`}], `features` (whether they are wanted), and, if drafts are wanted,
            `drafts`: the folder to leave them in.
        emit: Receives `begun` events with `id`, then `score` with `id`, `score` in [0, 1] and
            `features` (`CaseScore.features` as a list, or None) or `skipped`; after some scores `draft` with
            `id`, the files `draft` and `map`, and the map's `summary`; and a `result` at the end.
    """
    if job["threads"] > 0:
        torch.set_num_threads(job["threads"])
    predictor = Predictor(load_checkpoint(job["model"]), job["device"])
    scored, highest = 0, [0.0] * DRAFTED
    for number, case in enumerate(job["cases"]):
        emit("begun", id=case["id"])  # should it take this process down, the server knows which one it was
        try:
            volume = read_volume(Path(case["image"]))
            found = score_case(predictor, volume, mc_samples=job["mc_samples"], seed=job["seed"])
        except Exception as error:  # a scan too large for the memory, say, must not keep the others waiting
            emit("skipped", id=case["id"], reason=str(error) or type(error).__name__)
            continue
        features = found.features.tolist() if job.get("features") else None
        emit("score", id=case["id"], score=found.score, features=features)
        scored += 1
        if job.get("drafts") and heapq.heappushpop(highest, found.score) < found.score:
            _draft(job, number, volume, predictor, emit)
    emit("result", scored=scored)


def _draft(job: dict[str, Any], number: int, volume: Volume, predictor: Predictor, emit: EventStream) -> None:
    """Leave the draft and the map of a case for the server, which moves them to their places."""
    case, file = job["cases"][number], Path(job["drafts"]) / f"{os.getpid()}-{number}.zip"
    map_file = file.with_suffix(".nii.gz")
    try:
        prediction = predictor.predict(volume, mc_samples=job["mc_samples"], seed=job["seed"])
        assert prediction.uncertainty is not None
        assert prediction.summary is not None
        write_draft(file, Path(case["image"]), volume, prediction, job["version"])
        write_map(map_file, prediction.uncertainty, volume.affine)
    except Exception:  # e.g. a full disk; a draft is for looking at, the score is what is wanted
        logger.warning("The draft of a case could not be made.")
        return
    summary = prediction.summary.to_dict()
    emit("draft", id=case["id"], draft=str(file), map=str(map_file), summary=summary)
