"""simulation_command: the command line of `simulate run`, with nothing but the standard library."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .config import Config
from .experiment import read_record
from .methods import known_methods, method_config
from .pack import Pack
from .packed_plan import whole_set_in_memory
from .packed_runs import kept_precision, locked
from .presets import PRESETS, preset_for_scans, with_settings
from .run_options import add_run_options, asked_to_stop, exit_status, prepare_device, require_positive
from .simulation import Simulation
from .simulation_plan import ARMS, REFERENCE, Settings
from .terminal import progress_line

ABOUT = """\
Reveal the labels of a packed data set round by round, as an expert would give them, and measure after each
round. An arm is a way of choosing the next cases and of training on them; all arms of a seed begin with the
same labels, and every round starts from the model of the one before. Every round is done once: the same
command, after any kill, goes on where it was, and gives the same bits on the CPU of the same machine."""

LABELS = "3,5,8,12,16,20,30"
REFERENCE_STEPS = 4000
"""Of the round with all labels: at 4000 steps a supervised run on hippocampus gains nothing any more [M]."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    option = parser.add_argument
    option("--pack", type=Path, required=True, metavar="FILE", help="from `ugmcl-assist experiment pack`")
    option("--work", type=Path, required=True, metavar="DIR", help="folder for the rounds")
    option("--arms", metavar="A,B", default=",".join(ARMS), help=f"of: {', '.join(ARMS)} (default: all)")
    option("--labels", metavar="N,M", default=LABELS, help=f"labels after which to train (default: {LABELS})")
    option("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 of each arm (default: 3)")
    option("--first-seed", type=int, default=0, metavar="K", help="begin with seed K instead of 0")
    option("--reference-seeds", type=int, default=1, metavar="N", help=f"seeds of {REFERENCE} (default: 1)")
    option("--steps", type=int, metavar="N", help="training steps of a round (default: the preset's)")
    first = "of the round with the first labels, which starts from nothing (default: as --steps)"
    option("--first-steps", type=int, metavar="N", help=first)
    option("--reference-steps", type=int, default=REFERENCE_STEPS, metavar="N",
           help=f"of the round with all labels (default: {REFERENCE_STEPS})")  # fmt: skip
    run = "a finished supervised run of `experiment run` with all labels, instead of training one"
    option("--reference-run", type=Path, metavar="DIR", help=run)
    option("--method", default="ug_mcl_plus", help="of the semi-supervised arms (default: ug_mcl_plus)")
    option("--limit-test", type=int, metavar="N", help="evaluated cases (default: all test cases)")
    option("--preset", default="default", help=f"values that all arms share: {', '.join(PRESETS)}")
    add_run_options(parser)


def main(given: argparse.Namespace) -> int:
    """Run what is not finished; 0 when all is, 1 when stopped before, 2 when it cannot be done as asked."""
    return exit_status(_run, given)


def _run(given: argparse.Namespace) -> int:
    began = time.monotonic()
    arms, labels = asked_arms(given), asked_labels(given)
    device = prepare_device(given)
    pack = Pack(given.pack)
    check_counts(pack, labels)
    scans = (pack.load(case)[0] for case in pack.unlabeled(pack.pool))
    shared = whole_set_in_memory(preset_for_scans(given.preset, pack.classes, scans, device), pack)
    precision = kept_precision(given.work, shared, device, given.precision)
    with asked_to_stop(given, began) as stopped:
        simulation = Simulation(
            pack, given.work, settings(given, labels, shared), precision,
            commit=given.commit, should_stop=stopped, progress=progress_line,
        )  # fmt: skip
        seeds = range(given.first_seed, given.seeds)
        simulation.refuse_other_settings(arms, seeds)
        return run_seeds(simulation, arms, seeds, given.reference_seeds, stopped)


def asked_arms(given: argparse.Namespace) -> list[str]:
    """The arms by name, after a look at the numbers of the command line.

    Raises:
        ValueError: For an arm or a method there is not, or a number out of range.
    """
    arms = list(dict.fromkeys(word.strip() for word in given.arms.split(",") if word.strip()))
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown or not arms:
        asked = ", ".join(unknown) or repr(given.arms)
        raise ValueError(f"There is no arm {asked}; choose from: {', '.join(ARMS)}.")
    known_methods([given.method])
    if given.method == "supervised":
        raise ValueError("--method names the method of the semi-supervised arms; supervised is not one.")
    require_positive(
        given,
        ("seeds", "reference_seeds", "steps", "first_steps", "reference_steps", "limit_test", "threads",
         "stop_after"),
    )  # fmt: skip
    if not 0 <= given.first_seed < given.seeds:
        raise ValueError(f"--first-seed is {given.first_seed}; give 0 to {given.seeds - 1} (--seeds less 1).")
    return arms


def asked_labels(given: argparse.Namespace) -> tuple[int, ...]:
    """The numbers of labels.

    Raises:
        ValueError: If they are not rising whole numbers from 1.
    """
    try:
        labels = tuple(int(word) for word in given.labels.split(","))
    except ValueError:
        labels = ()
    if not labels or labels[0] < 1 or list(labels) != sorted(set(labels)):
        raise ValueError(
            f"--labels {given.labels} are not rising whole numbers from 1; give them as {LABELS}."
        )
    return labels


def check_counts(pack: Pack, labels: Sequence[int]) -> None:
    """Whether a pack allows the simulation.

    Raises:
        ValueError: If its pool is too small, or there is no test case.
    """
    if labels[-1] > len(pack.pool):
        raise ValueError(
            f"{labels[-1]} labels asked for, but the pool has {len(pack.pool)} cases; give fewer."
        )
    if not pack.test:
        raise ValueError(
            f"{pack.path} has no test cases to measure on; pack the set again with --test-last N."
        )


def settings(given: argparse.Namespace, labels: tuple[int, ...], shared: Config) -> Settings:
    """The command line as settings; the values of --set come last.

    Raises:
        ValueError: For a value that there is not, or that is not acceptable.
    """
    semi, supervised = (
        with_settings(method_config(name, shared), given.set) for name in (given.method, "supervised")
    )
    steps = given.steps or semi.train.steps
    return Settings(
        semi, supervised, given.method, labels, given.first_steps or steps, steps, given.reference_steps,
        given.limit_test, torch.get_num_threads(), given.reference_run,
    )  # fmt: skip


def run_seeds(
    simulation: Simulation,
    arms: Sequence[str],
    seeds: Sequence[int],
    reference_seeds: int,
    stopped: Callable[[], bool],
) -> int:
    """One seed of everything after the other; a seed that another process works on is left to it."""
    left: list[int] = []
    for seed in seeds:
        with locked(simulation.work / f".seed{seed}.lock") as ours:
            if not ours:
                left.append(seed)
                print(f"seed {seed}: another process works on it", flush=True)
                continue
            mine = [arm for arm in arms if arm != REFERENCE or seed < reference_seeds]
            if not run_seed(simulation, mine, seed, stopped):
                print("Stopped; the same command goes on from here.", flush=True)
                return 1
    return 1 if left else 0


def run_seed(simulation: Simulation, arms: Sequence[str], seed: int, stopped: Callable[[], bool]) -> bool:
    """A round of every arm, then the next of every arm, so that what is there can be compared at any time."""
    rounds: dict[str, list[dict[str, object]]] = {arm: [] for arm in arms}
    for number in range(len(simulation.settings.labels)):
        for arm in arms:
            if ARMS[arm].strategy == "all" and number > 0:
                continue
            recorded = len((read_record(simulation.arm_file(arm, seed)) or {"rounds": []})["rounds"])
            record = simulation.next_round(arm, seed, rounds[arm])
            if record is None:
                return False
            rounds[arm].append(record)
            if recorded <= number:
                mean = sum(record["test"].values()) / len(record["test"])
                cost = f"{record['steps']} steps, {record['cpu_seconds']:.0f} CPU s of training"
                print(f"{arm}, seed {seed}, {record['labels']} labels: Dice {mean:.4f}, {cost}", flush=True)
            if stopped():
                return False
    return True
