"""Measurements on real scans: `python -m server.experiments hippocampus`, then `... score-ranking`.

`hippocampus` trains UG-MCL beside supervised-only on the same CPU seconds and threads and reports Dice on the
test cases; every finished run is kept, so the command may be stopped and started again. `score-ranking`
compares the candidate scores of a scan on the runs that `hippocampus` left. Both write JSON under build/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from server.parallel_runs import run_side_by_side
from server.scan_set import Dataset, Loader, base_config, read_dataset
from ugmcl.config import replace
from ugmcl.experiment import Experiment, gap_closed, read_record, run_experiment, tabulate, write_record
from ugmcl.packed_runs import kept_precision
from ugmcl.precision import Precision
from ugmcl.provenance import provenance
from ugmcl.score_ranking import rank_scores
from ugmcl.terminal import progress_line, stop_on_signal

GROUPS = {"binary": ("hippocampus",), "two_class": ("anterior", "posterior")}
"""Tasks, with the names of their classes; "binary" merges the labels to one foreground."""
SEEDS = {"binary": 3, "two_class": 1}
"""Seeds of the arms `ug_mcl` and `supervised`; the other arms have one."""
ARMS = {
    "ug_mcl": (1.0, 1),
    "supervised": (1.0, 1),
    "supervised_plateau": (1.6, 2),
    "supervised_150": (1.6, 2),
}
"""What is compared, with its multiple of the CPU seconds and its threads. The plateau shows that more time
does not help the supervised network; all 150 labels need more time to be learned. Two threads keep both
within ten minutes.
"""
RANKING = slice(10, 60)
"""Pool cases on which the score of a scan may be chosen: unlabeled in training, not in the test set."""


def plan(given: argparse.Namespace, dataset: Dataset, loaders: dict[str, Loader]) -> list[Experiment]:
    """All runs, in the order in which they run: one seed of everything first, further seeds last."""
    few, rest = dataset.pool[: given.labeled], dataset.pool[given.labeled :]
    unlabeled = dataset.unlabeled(rest if given.unlabeled is None else rest[: given.unlabeled])
    test = dataset.cases(dataset.test if given.test is None else dataset.test[: given.test])
    ranking = dataset.cases([i for i in dataset.pool[RANKING] if i not in few][: given.test])
    runs: list[Experiment] = []
    for group, labels in GROUPS.items():
        config = base_config(labels, dataset.unlabeled(dataset.pool), loaders[group], given.set)
        for arm, (factor, threads) in ARMS.items():
            seeds = (given.seeds or SEEDS[group]) if arm in ("ug_mcl", "supervised") else 1
            method = "ug_mcl" if arm == "ug_mcl" else "supervised"
            train = {"method": method, "cpu_budget_s": given.cpu_seconds * factor}
            labeled = dataset.cases(dataset.pool if arm == "supervised_150" else few)
            pool, scored = (unlabeled, ranking) if arm == "ug_mcl" else ([], [])
            runs += [
                Experiment(
                    group, arm, seed, replace(config, train=train), labeled, pool, test, scored, threads
                )
                for seed in range(seeds)
            ]
    return sorted(runs, key=lambda run: run.seed)


def hippocampus(given: argparse.Namespace) -> int:
    """Run what is not finished, write the figures, print the table; 1 when stopped before the end."""
    dataset = read_dataset(given.data)
    loaders = {group: Loader(merge=group == "binary") for group in GROUPS}
    everything = plan(given, dataset, loaders)
    runs = [run for run in everything if not given.only or is_named(run, given.only)]
    if not runs:
        raise ValueError(f"--only {' '.join(given.only)} matches no run; name a group, group/arm or a run.")
    given.work.mkdir(parents=True, exist_ok=True)
    precision = kept_precision(given.work, runs[0].config, "cpu")
    with stop_on_signal() as stopped:
        if given.threads > 1 and len(runs) > 1:
            ended = run_side_by_side(
                {run.name: run.threads for run in runs},
                given.arguments,
                given.work / "logs",
                given.threads,
                lambda name: show(name, everything, given, precision),
                stopped,
            )
        else:
            ended = run_all(everything, runs, loaders, precision, given, stopped)
    if not ended:
        print("\nStopped; the same command goes on from here.")
        return 1
    print(table(summary(everything, given, precision)))
    return 0


def run_all(
    everything: list[Experiment],
    runs: list[Experiment],
    loaders: dict[str, Loader],
    precision: Precision,
    given: argparse.Namespace,
    stopped: Callable[[], bool],
) -> bool:
    """Run `runs` one after the other; False when stopped before the end."""
    for number, run in enumerate(runs, start=1):
        report = progress_line(f"[{number}/{len(runs)}] {run.name}")
        load = loaders[run.group]
        torch.set_num_threads(run.threads)
        record = run_experiment(run, load, given.work, precision, progress=report, should_stop=stopped)
        if record is None:
            return False
        show(run.name, everything, given, precision)
        if stopped():
            return False
    return True


def show(name: str, everything: list[Experiment], given: argparse.Namespace, precision: Precision) -> None:
    """After a run: write the figures of all that is finished, print its line."""
    write_record(given.out, summary(everything, given, precision))
    record = read_record(given.work / f"{name}.json")
    assert record is not None
    dice = record["test"][record["model"]]["dice"]
    cost = f"{record['steps']} steps, {record['cpu_seconds']:.0f} CPU s, {record['seconds']:.0f} s"
    print(f"\r{name}: Dice {dice:.4f}, {cost}", flush=True)


def is_named(run: Experiment, names: list[str]) -> bool:
    """Whether one of the names is the run's, its group's or its arm's (`group/arm`)."""
    return bool({run.name, run.group, f"{run.group}/{run.arm}"} & set(names))


def summary(runs: list[Experiment], given: argparse.Namespace, precision: Precision) -> dict[str, Any]:
    """The content of hippocampus.json, from the runs that are finished."""
    read = [(run, read_record(given.work / f"{run.name}.json")) for run in runs]
    records = [record for run, record in read if record and run.has_result(record)]
    groups = tabulate(records)
    return {
        **groups,
        "gap_closed": {group: gap_closed(arms) for group, arms in groups.items()},
        "cpu_seconds_budget": given.cpu_seconds,
        "test_cases": len(records[0]["cases"]["test"]),
        **provenance(precision.device),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as text; Dice of the model: the teacher of UG-MCL, the student of a supervised run."""
    lines = [
        f"{'':30}{'Dice':>8}{'std':>8}{'student':>9}{'95HD mm':>9}{'AUROC':>8}{'CPU s':>8}{'s':>7}  seeds"
    ]
    for group in GROUPS:
        for arm, row in figures.get(group, {}).items():
            student, area = row["student_dice"], row["error_auroc"]
            lines.append(
                f"{group + ' ' + arm:30}{row['dice']:>8.4f}{row['dice_std']:>8.4f}{student:>9.4f}"
                f"{row['hd95_mm']:>9.2f}{area or float('nan'):>8.3f}{row['cpu_seconds']:>8.0f}"
                f"{row['seconds']:>7.0f}  {len(row['seeds'])}"
            )
    for group, share in figures["gap_closed"].items():
        if share is not None:
            lines.append(f"{group}: UG-MCL makes up {share:.0%} of the gap from few labels to all.")
    return "\n".join(lines)


def score_ranking(given: argparse.Namespace) -> int:
    """Compare candidate scores on the finished UG-MCL runs; 1 when there is none."""
    found = [read_record(path) for path in sorted(given.work.glob("*_ug_mcl_seed*.json"))]
    records = [record for record in found if record is not None and record["cases"]["ranking"]]
    if not records:
        print(f"No finished UG-MCL run in {given.work}; run `hippocampus` first.", file=sys.stderr)
        return 1
    figures = {**rank_scores(records), **provenance()}
    write_record(given.out, figures)
    print("Spearman's correlation of score and true Dice, mean of the runs (-1 is perfect)")
    print(f"{'':24}{'pool':>8}{'test':>8}   choose on pool; test is only reported")
    for name, sets in figures["candidates"].items():
        values = [sets[which]["mean"] for which in ("ranking", "test")]
        mark = "  <- best on pool" if name == figures["best_on_ranking"] else ""
        mark += "  (in use)" if name == figures["score"] else ""
        print(f"{name:24}" + "".join(f"{'none':>8}" if v is None else f"{v:>8.3f}" for v in values) + mark)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; 2 for a wrong one."""
    parser = argparse.ArgumentParser(prog="python -m server.experiments", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("hippocampus", help="UG-MCL beside supervised-only on real scans")
    option = one.add_argument
    option("--data", type=Path, default=Path("../shared/data/hippocampus"), help="the set's folder")
    option("--out", type=Path, default=Path("build/hippocampus.json"), help="the figures as JSON")
    option("--threads", type=int, default=2, help="CPU threads that runs side by side share; 1: one by one")
    option("--cpu-seconds", type=float, default=530.0, help="training time of UG-MCL and of supervised")
    option("--only", nargs="+", default=[], metavar="NAME", help="groups, arms as binary/ug_mcl, or runs")
    option("--seeds", type=int, help="seeds of ug_mcl and supervised; default 3 binary, 1 two_class")
    option("--labeled", type=int, default=10, help="labeled pool cases")
    option("--unlabeled", type=int, help="unlabeled pool cases; default all others")
    option("--test", type=int, help="test cases; default all")
    option("--set", action="append", default=[], metavar="SECTION.NAME=VALUE", help="change the preset")
    one.set_defaults(run=hippocampus)
    two = commands.add_parser("score-ranking", help="which score of a scan ranks true errors best")
    two.add_argument("--out", type=Path, default=Path("build/score_ranking.json"), help="the figures as JSON")
    two.set_defaults(run=score_ranking)
    for command in (one, two):
        command.add_argument("--work", type=Path, default=Path("build/hippocampus"), help="runs and models")
    given = parser.parse_args(arguments)
    given.arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return int(given.run(given))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
