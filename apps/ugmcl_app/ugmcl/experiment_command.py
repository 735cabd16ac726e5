"""experiment_command: the command line of `experiment run`, with nothing but the standard library."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .config import Config, replace
from .experiment import Experiment
from .methods import METHODS, known_methods, list_methods
from .pack import Pack
from .packed_plan import Selection, plan, whole_set_in_memory
from .packed_runs import kept_precision, locked, refuse_other_runs, run_packed
from .precision import Precision
from .presets import PRESETS, preset_for_scans, with_settings
from .run_options import add_run_options, asked_to_stop, exit_status, prepare_device, require_positive
from .terminal import progress_line

ABOUT = """\
Train methods on a packed data set and keep what they predict. Every run has a folder in --work and is done
once: the same command, after any kill, goes on where it was. With --steps, the same command on the same
machine gives the same bits on the CPU. Test cases are predicted at the end, with the last checkpoint; nothing
is chosen on them."""

UNLIMITED_STEPS = 10**6
"""Steps that no budget of seconds allows; the budget then decides."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    option = parser.add_argument
    option("--list-methods", action="store_true", help="say what the methods are, and end")
    option("--pack", type=Path, metavar="FILE", help="the data set, from `ugmcl-assist experiment pack`")
    option("--work", type=Path, metavar="DIR", help="folder for the runs")
    option("--methods", metavar="A,B", help=f"of: {', '.join(METHODS)}")
    option("--labels", metavar="N,M", help="numbers of labeled cases, the first of the pool")
    option("--labeled-ids", metavar="A,B", default="", help="the labeled cases by name, instead of --labels")
    option("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N - 1 of each (default: 1)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, metavar="N", help="training steps (default: the preset's)")
    budget.add_argument("--cpu-seconds", type=float, metavar="S", help="CPU seconds of training instead")
    budget.add_argument("--seconds", type=float, metavar="S", help="seconds of training instead")
    option("--preset", default="default", help=f"values that all methods share: {', '.join(PRESETS)}")
    option("--beta", type=float, metavar="B", help="segmentation's share of the intra-task consistency")
    option(
        "--threshold-start", type=float, metavar="T", help="threshold of certainty at the start, in [0, 1]"
    )
    option("--suffix", default="", metavar="TEXT", help="added to the methods' names: a variant")
    option("--unlabeled", type=int, metavar="N", help="unlabeled pool cases (default: all others)")
    held = "evaluate on the last N of the pool instead of the test cases, and leave them out of training"
    option("--hold-out", type=int, default=0, metavar="N", help=held)
    option("--limit-test", type=int, metavar="N", help="evaluated cases (default: all; 0 only trains)")
    ranking = "unlabeled pool cases that are predicted too, for scores and calibration (default: 20)"
    option("--ranking", type=int, default=20, metavar="N", help=ranking)
    add_run_options(parser)
    option("--replace", action="store_true", help="delete runs of the same name with other settings")


def main(given: argparse.Namespace) -> int:
    """Run what is not finished; 0 when all is, 1 when stopped before, 2 when it cannot be done as asked."""
    if given.list_methods:
        print(list_methods())
        return 0
    return exit_status(_run, given)


def _run(given: argparse.Namespace) -> int:
    began = time.monotonic()
    absent = [name for name in ("pack", "work", "methods") if getattr(given, name) is None]
    absent += [] if given.labels or given.labeled_ids else ["labels"]
    if absent:
        raise ValueError(f"Give {', '.join(f'--{name}' for name in absent)}; --help explains them.")
    device = prepare_device(given)
    selection = selected(given)
    pack = Pack(given.pack)
    shared = shared_config(given, pack, device)
    precision = kept_precision(given.work, shared, device, given.precision)
    kind = f"{precision.name} {device.partition(':')[0]}"
    runs = plan(pack, shared, selection, lambda method, config: varied(given, method, config), kind)
    if given.replace:
        _forget_others(runs, given.work)
    refuse_other_runs(runs, given.work)
    with asked_to_stop(given, began) as stopped:
        return run_all(runs, pack, given, precision, stopped)


def selected(given: argparse.Namespace) -> Selection:
    """The command line as a selection.

    Raises:
        ValueError: For a value that cannot be read, or one out of range.
    """
    methods, ids = _words(given.methods), _words(given.labeled_ids)
    labels = _numbers(given.labels or "")
    if ids and labels and labels != [len(set(ids))]:
        raise ValueError(
            f"--labels {given.labels} does not fit the {len(set(ids))} --labeled-ids; leave it out."
        )
    require_positive(given, ("seeds", "steps", "cpu_seconds", "seconds", "threads", "stop_after"))
    for name in ("unlabeled", "hold_out", "limit_test", "ranking"):
        value = getattr(given, name)
        if value is not None and value < 0:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must not be negative.")
    if not all(letter.isalnum() or letter in ".-" for letter in given.suffix):
        raise ValueError(f"--suffix {given.suffix!r}: letters, digits, points and hyphens only.")
    return Selection(
        known_methods(methods), labels, range(given.seeds), ids, given.unlabeled, given.hold_out,
        given.limit_test, given.ranking, given.suffix,
    )  # fmt: skip


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(word) for word in _words(text)))
    except ValueError:
        raise ValueError(f"--labels {text} is not a list of whole numbers; give them as 5,10.") from None


def shared_config(given: argparse.Namespace, pack: Pack, device: str) -> Config:
    """What all methods share: the preset for the pool's scans, with the budget."""
    scans = (pack.load(case)[0] for case in pack.unlabeled(pack.pool))
    config = preset_for_scans(given.preset, pack.classes, scans, device)
    train: dict[str, float] = {"budget_s": given.seconds or 0.0, "cpu_budget_s": given.cpu_seconds or 0.0}
    if given.steps:
        train["steps"] = given.steps
    elif given.seconds:
        train["steps"] = UNLIMITED_STEPS
    return whole_set_in_memory(replace(config, train=train), pack)


def varied(given: argparse.Namespace, method: str, config: Config) -> Config:
    """A method's configuration with the values of the command line, which come last.

    Raises:
        ValueError: For a value that has no part in the method, or that is not acceptable.
    """
    loss = config.loss
    if given.beta is not None:
        _belongs("--beta", method, config.has_teacher and config.learns_distances)
        config = replace(config, loss={"beta": given.beta})
    if given.threshold_start is not None:
        _belongs("--threshold-start", method, config.has_teacher and loss.uncertainty_weighting == "mask")
        config = replace(config, loss={"threshold_start": given.threshold_start})
    return with_settings(config, given.set)


def _belongs(option: str, method: str, has_part: bool) -> None:
    if not has_part:
        raise ValueError(f"{option} has no part in {method}; run that method without it.")


def _forget_others(runs: Sequence[Experiment], work: Path) -> None:
    for run in runs:
        try:
            refuse_other_runs([run], work)
        except ValueError:
            with locked(work / run.name / ".lock") as ours:
                if not ours:
                    raise ValueError(f"{run.name} cannot be replaced: another process works on it.") from None
                shutil.rmtree(work / run.name)


def run_all(
    runs: Sequence[Experiment],
    pack: Pack,
    given: argparse.Namespace,
    precision: Precision,
    stopped: Callable[[], bool],
) -> int:
    """Run after run; one that another process works on is left to it."""
    left: list[str] = []
    for number, run in enumerate(runs, start=1):
        head = f"[{number}/{len(runs)}] {run.name}"
        with locked(given.work / run.name / ".lock") as ours:
            if not ours:
                left.append(run.name)
                print(f"{head}: another process works on it", flush=True)
                continue
            record = run_packed(run, pack, given.work, precision, commit=given.commit,
                                progress=progress_line(head), should_stop=stopped)  # fmt: skip
        if record is None:
            print("\nStopped; the same command goes on from here.")
            return 1
        cost = f"{record['steps']} steps, {record['seconds']:.0f} s, {record['cpu_seconds']:.0f} CPU s"
        print(f"{head}: {cost}", flush=True)
        if stopped():
            return 1
    return 1 if left else 0
