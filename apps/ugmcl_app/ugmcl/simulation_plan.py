"""simulation_plan: what a simulation compares, what its arms share, and which cases an arm takes next."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .config import Config
from .diversity import most_uncertain, most_uncertain_diverse
from .pack import Pack
from .precision import Precision


class Arm(NamedTuple):
    """What is compared.

    Attributes:
        strategy: How the next cases are chosen: "random", "most_uncertain", "most_uncertain_diverse"; or
            "all": one round with every label of the pool.
        supervised: Whether the rounds learn from the labeled cases only.
    """

    strategy: str
    supervised: bool


REFERENCE = "all_labels_supervised"
ARMS: dict[str, Arm] = {
    "random": Arm("random", False),
    "random_supervised": Arm("random", True),
    "most_uncertain": Arm("most_uncertain", False),
    "most_uncertain_diverse": Arm("most_uncertain_diverse", False),
    "most_uncertain_supervised": Arm("most_uncertain", True),
    "most_uncertain_diverse_supervised": Arm("most_uncertain_diverse", True),
    REFERENCE: Arm("all", True),
}
"""By name, the most wanted first. `random_supervised` is stock practice."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all arms of a simulation share.

    Attributes:
        semi_supervised: Configuration of the arms that learn from the unlabeled pool, too.
        supervised: Configuration of the others.
        method: Name of the first.
        labels: Numbers of labels after which a model is trained, rising.
        first_steps: Training steps of the round with the first labels, which starts from nothing.
        steps: Of every later round.
        reference_steps: Of the round with all labels.
        test: Evaluated cases; `None` for all test cases.
        threads: CPU threads.
        reference_run: Folder of a finished supervised run of `experiment run` with all labels of the pool,
            which then stands for that round.
    """

    semi_supervised: Config
    supervised: Config
    method: str
    labels: tuple[int, ...]
    first_steps: int
    steps: int
    reference_steps: int
    test: int | None = None
    threads: int = 1
    reference_run: Path | None = None

    def config(self, arm: Arm) -> Config:
        """The configuration of an arm's rounds, but for their steps."""
        return self.supervised if arm.supervised else self.semi_supervised

    def identity(self, arm: Arm, pack: Pack, precision: Precision) -> str:
        """Changes with anything that changes a figure of an arm."""
        plan: list[Any] = [list(self.labels), self.first_steps, self.steps]
        if arm.strategy == "all":
            plan = [self.reference_steps if self.reference_run is None else self.reference_run.name]
        known = [
            *arm, self.config(arm).to_dict(), plan, self.test, self.threads, pack.digest,
            precision.name, precision.device,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]


def label_order(pool: Sequence[str], seed: int) -> list[str]:
    """The pool in random order: its beginning is where all arms of a seed start, and how `random` goes on."""
    return [pool[index] for index in np.random.default_rng(seed).permutation(len(pool))]


def choose(
    strategy: str, scores: dict[str, Any], candidates: Sequence[str], size: int, order: Sequence[str]
) -> list[str]:
    """The cases that are labeled next.

    Args:
        strategy: As in `Arm`, but "all".
        scores: Case to `score` and `features`; unused by "random".
        candidates: Unlabeled cases, in the order of the pool.
        size: How many.
        order: `label_order`.
    """
    if strategy == "random":
        left = set(candidates)
        return [case for case in order if case in left][:size]
    values = [float(scores[case]["score"]) for case in candidates]
    if strategy == "most_uncertain":
        return [candidates[index] for index in most_uncertain(values, size)]
    features = np.array([scores[case]["features"] for case in candidates], dtype=np.float32)
    return [candidates[index] for index in most_uncertain_diverse(values, features, size)]
