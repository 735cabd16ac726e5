"""`ugmcl-assist simulate`: how many labels a strategy needs, from a pack to the page of results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from server.experiment_command import run_command

ABOUT = """\
How many labels does a way of choosing cases need? `run` reveals the labels of a packed data set round by
round, here or, as `python -m ugmcl simulate`, on a machine with nothing but torch, monai and numpy.
`evaluate` turns the rounds into CSV files; `report` writes tables, a picture and docs/active_learning.json
from those alone."""
EVALUATE = """\
Write the rounds of a work folder, finished or not, to CSV files. Arms and seeds that only the CSV files
know are kept, so that seeds run elsewhere or later add up."""
REPORT = """\
Write the generated part of results.md on labels needed, its pictures and active_learning.json from the CSV
files of `simulate evaluate`. What stands outside the markers in results.md is kept."""


def add_arguments(options: argparse.ArgumentParser) -> None:
    """The commands of the group."""
    from ugmcl import simulation_command

    commands: Any = options.add_subparsers(dest="simulate_command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run", help="reveal labels round by round", description=simulation_command.ABOUT
    )
    simulation_command.add_arguments(run)
    run.set_defaults(simulate=simulation_command.main)
    evaluate = commands.add_parser("evaluate", help="rounds to CSV files", description=EVALUATE)
    evaluate.add_argument("--work", required=True, type=Path, metavar="DIR", help="folder of the rounds")
    evaluate.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the CSV files")
    evaluate.add_argument("--replace", action="store_true", help="drop rows of arms with other settings")
    evaluate.set_defaults(simulate=_evaluate)
    report = commands.add_parser("report", help="CSV files to docs/results.md", description=REPORT)
    report.add_argument("--csv", required=True, type=Path, metavar="DIR", help="folder of the CSV files")
    report.add_argument(
        "--docs", type=Path, default=Path("docs"), metavar="DIR", help="folder of results.md (default: docs)"
    )
    report.set_defaults(simulate=_report)


def main(options: argparse.Namespace) -> int:
    """Run one command of the group.

    Raises:
        StartError: If it cannot be done as asked, or with the files given.
    """
    return run_command(options.simulate, options)


def _evaluate(options: argparse.Namespace) -> int:
    from server.evaluation.simulation_rows import evaluate_simulation

    evaluate_simulation(options.work, options.out, _say, replace=options.replace)
    return 0


def _report(options: argparse.Namespace) -> int:
    from server.evaluation.simulation_report import report_simulation

    for path in report_simulation(options.csv, options.docs):
        _say(f"wrote {path}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
