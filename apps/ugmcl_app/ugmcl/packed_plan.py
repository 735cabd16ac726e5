"""packed_plan: which runs an experiment on a pack has, with their cases and configurations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .config import Config, replace
from .experiment import Experiment
from .methods import known_methods, method_config
from .pack import Pack
from .sampling import TrainingCase

POOL_LIMIT_MIB = 8192
"""Most memory for a data set that is kept whole: the left atrium's 80 scans need 3 GiB."""


class Selection(NamedTuple):
    """What is run on a pack.

    Attributes:
        methods: Names from `methods.METHODS`.
        labels: Numbers of labeled cases; the first of the pool, as the papers do.
        seeds: Seeds of each method and number.
        labeled_ids: The labeled cases by name instead of `labels`; empty for the first of the pool.
        unlabeled: Unlabeled pool cases; `None` for all others.
        hold_out: Cases taken off the end of the pool and evaluated instead of the test cases, so that choices
            can be made without these; 0 for none.
        limit_test: Evaluated cases; `None` for all, 0 for a run that only trains.
        ranking: Cases at the end of the unlabeled pool, predicted too, for scores and calibration.
        suffix: Added to the methods' names, so that variants of one method stand side by side.
    """

    methods: Sequence[str]
    labels: Sequence[int]
    seeds: Sequence[int] = (0,)
    labeled_ids: Sequence[str] = ()
    unlabeled: int | None = None
    hold_out: int = 0
    limit_test: int | None = None
    ranking: int = 0
    suffix: str = ""


Vary = Callable[[str, Config], Config]
"""Last changes of a method's configuration, from the method's name and its configuration."""


def plan(pack: Pack, shared: Config, selection: Selection, vary: Vary, origin: str = "") -> list[Experiment]:
    """All runs, one seed of everything first.

    Args:
        pack: The data set.
        shared: The configuration that all methods share.
        selection: What is run.
        vary: Changes made after the method's own.
        origin: See `Experiment.origin`; the pack's digest is added.

    Raises:
        ValueError: For an unknown method, too many labels or no case to evaluate.
    """
    pool, evaluated = _sides(pack, selection)
    runs = []
    for seed in selection.seeds:
        for labeled, rest in _labeled_and_rest(pack, pool, selection):
            scored = rest[len(rest) - min(selection.ranking, len(rest)) :]
            unlabeled = rest if selection.unlabeled is None else rest[: selection.unlabeled]
            for method in known_methods(selection.methods):
                config = vary(method, method_config(method, shared))
                arm = f"{method}-{selection.suffix}" if selection.suffix else method
                run = Experiment(
                    f"{pack.data_set}_{len(labeled)}labels", arm, seed, config,
                    pack.cases(labeled), pack.unlabeled(unlabeled), pack.cases(evaluated),
                    _labeled_only(pack, scored), origin=f"{pack.digest} {origin}",
                )  # fmt: skip
                runs.append(run)
    return runs


def _sides(pack: Pack, selection: Selection) -> tuple[list[str], list[str]]:
    """Pool and evaluated cases."""
    held = selection.hold_out
    if not 0 <= held < len(pack.pool):
        raise ValueError(
            f"{held} cases cannot be held out of a pool of {len(pack.pool)}; give 0 to {len(pack.pool) - 1}."
        )
    pool, evaluated = pack.pool[: len(pack.pool) - held], pack.test
    if held:
        evaluated = pack.pool[len(pool) :]
    if not evaluated and selection.limit_test != 0:
        raise ValueError(
            f"{pack.path} has no test cases. Hold some of the pool out with --hold-out N, or only train with "
            "--limit-test 0."
        )
    return pool, evaluated[: selection.limit_test]


def _labeled_and_rest(
    pack: Pack, pool: Sequence[str], selection: Selection
) -> Iterator[tuple[list[str], list[str]]]:
    if selection.labeled_ids:
        foreign = [name for name in selection.labeled_ids if name not in pool]
        if foreign:
            raise ValueError(
                f"{', '.join(foreign[:5])} cannot be labeled: not among the {len(pool)} pool cases."
            )
        labeled = list(dict.fromkeys(selection.labeled_ids))
        yield labeled, [name for name in pool if name not in labeled]
        return
    for count in selection.labels:
        if not 1 <= count <= len(pool):
            held = f" ({selection.hold_out} more are held out)" if selection.hold_out else ""
            raise ValueError(
                f"{count} labels asked for; the pool has {len(pool)} cases{held}: give 1 to {len(pool)}."
            )
        yield list(pool[:count]), list(pool[count:])


def _labeled_only(pack: Pack, ids: Sequence[str]) -> list[TrainingCase]:
    """Those cases that have a label to compare with."""
    found = []
    for name in ids:
        with contextlib.suppress(ValueError):
            found += pack.cases([name])
    return found


def whole_set_in_memory(config: Config, pack: Pack) -> Config:
    """A copy whose pools hold all scans of the pack, as far as `POOL_LIMIT_MIB` allows."""
    spacing = math.prod(config.preprocess.spacing_mm)
    voxels = 0.0
    for case in pack.unlabeled(pack.pool):
        scan, _ = pack.load(case)
        voxels += scan.array.size * math.prod(scan.spacing_mm) / spacing
    # float32 image, uint8 label, float16 distance map of each class; half of the memory is for either stream.
    needed = 2.1 * voxels * (4 + 1 + 2 * config.network.classes) / 2**20
    return replace(config, train={"pool_mib": int(min(POOL_LIMIT_MIB, max(16, math.ceil(needed) + 1)))})
