"""simulation_measures: what is measured after a simulated round, and with what it is compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import Checkpoint, load_checkpoint
from .config import Config
from .experiment import read_record
from .inference import Predictor
from .metrics import dice
from .pack import Pack
from .precision import Precision
from .sampling import TrainingCase


def dice_of_cases(
    checkpoint: Checkpoint,
    cases: Sequence[TrainingCase],
    pack: Pack,
    precision: Precision,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Dice of each labeled case, the mean over classes, in [0, 1]; `None` when `should_stop` ended it."""
    predictor = Predictor(checkpoint, precision=precision)
    found = {}
    for case in cases:
        scan, label = pack.load(case)
        assert label is not None  # `Pack.cases` refers to labeled cases only
        labels = predictor.predict(scan, uncertainty=False).labels
        values = range(1, checkpoint.config.network.classes + 1)
        found[case.id] = float(np.mean([dice(labels == value, label == value) for value in values]))
        if should_stop():
            return None
    return found


def run_with_all_labels(folder: Path, pack: Pack, config: Config) -> tuple[dict[str, Any], Checkpoint]:
    """A finished supervised run of `experiment run` with every label of a pool.

    Args:
        folder: The run's.
        pack: The data set.
        config: Of supervised training; its network and preprocessing must be the run's.

    Returns:
        The run's record, and its network, to be evaluated as `config` says.

    Raises:
        ValueError: If the run is not finished, or of another pack, method, network or set of labels.
    """
    run = read_record(folder / "run.json")
    if run is None:
        raise ValueError(f"{folder} holds no finished run (run.json); give another --reference-run.")
    theirs = Config.from_dict(run["config"])
    fits = (
        run["pack"] == pack.digest
        and run["method"] == "supervised"
        and set(run["labeled_ids"]) == set(pack.pool)
        and (theirs.network, theirs.preprocess) == (config.network, config.preprocess)
    )
    if not fits:
        raise ValueError(
            f"{folder} is not a supervised run with all {len(pack.pool)} labels of {pack.path} "
            "and the same network; give another --reference-run, or none to train one."
        )
    return run, dataclasses.replace(load_checkpoint(folder / "student.pt"), config=config)
