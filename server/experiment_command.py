"""`ugmcl-assist experiment`: comparisons of methods, from a packed data set to the page of results."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.stock_host import StartError

ABOUT = """\
Compare methods on the same scans. `pack` writes a data set as one file; `run` trains methods on it, here or,
as `python -m ugmcl experiment`, on a machine with nothing but torch, monai and numpy. `evaluate` turns packs
and the folders of finished runs into CSV files; `report` writes tables, pictures and docs/results.json from
those CSV files alone."""
EVALUATE = """\
Measure every finished run of a data set: overlap and surface distances of each test case, and how well the
uncertainty finds errors. Runs that were measured before are not measured again; the CSV files may hold
several data sets, each evaluated in turn with its own pack."""
REPORT = """\
Write the generated part of results.md, its pictures and results.json from the CSV files of `evaluate`. What
stands outside the markers in results.md is kept."""
PACK = """\
Write a data set as one file: images/, labels/ and split.json; the left-atrium .h5 layout of the papers
(<case>/mri_norm2.h5, train.list, test.list); or the Medical Segmentation Decathlon (imagesTr/, labelsTr/,
dataset.json)."""
REFERENCES = ["supervised", "ug_mcl_plus"]


def add_arguments(options: argparse.ArgumentParser) -> None:
    """The commands of the group."""
    commands = options.add_subparsers(dest="experiment_command", metavar="COMMAND", required=True)
    add_pack_parser(commands)
    add_run_parser(commands)
    add_evaluate_parser(commands)
    add_report_parser(commands)


def add_pack_parser(commands: Any) -> None:
    """`experiment pack`."""
    options = commands.add_parser("pack", help="a data set to one file", description=PACK)
    option = options.add_argument
    option("--data", required=True, type=Path, metavar="DIR", help="the data set's folder")
    option("--out", required=True, type=Path, metavar="FILE", help="the pack, an .npz file")
    option("--layout", default="auto", choices=["auto", "folder", "h5", "decathlon"], help="default: auto")
    option("--name", default="", help="of the data set; part of the runs' names (default: the folder's)")
    option("--classes", default="", metavar="A,B", help="names of the classes 1, 2, ...")
    option("--merge", action="store_true", help="make all classes one")
    option("--bits", type=int, default=16, choices=[8, 16], help="of an intensity (default: 16)")
    option("--test-last", type=int, default=0, metavar="N", help="make the last N of a pool the test cases")
    option("--train-list", type=Path, metavar="FILE", help="h5: the pool, a case a line")
    option("--test-list", type=Path, metavar="FILE", help="h5: the test cases, a case a line")
    option("--channel", type=int, metavar="N", help="which image of scans with several, from 0")
    options.set_defaults(experiment=_pack)


def add_run_parser(commands: Any) -> None:
    """`experiment run`."""
    from ugmcl import experiment_command

    options = commands.add_parser("run", help="train methods on a pack", description=experiment_command.ABOUT)
    experiment_command.add_arguments(options)
    options.set_defaults(experiment=experiment_command.main)


def add_evaluate_parser(commands: Any) -> None:
    """`experiment evaluate`."""
    options = commands.add_parser("evaluate", help="packs and runs to CSV files", description=EVALUATE)
    options.add_argument(
        "--pack", required=True, nargs="+", type=Path, metavar="FILE", help="the data sets, as packed"
    )
    options.add_argument("--work", required=True, type=Path, metavar="DIR", help="folder of the runs")
    options.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the CSV files")
    options.set_defaults(experiment=_evaluate)


def add_report_parser(commands: Any) -> None:
    """`experiment report`."""
    options = commands.add_parser("report", help="CSV files to docs/results.md", description=REPORT)
    options.add_argument("--csv", required=True, type=Path, metavar="DIR", help="folder of the CSV files")
    options.add_argument(
        "--docs", type=Path, default=Path("docs"), metavar="DIR", help="folder of results.md (default: docs)"
    )
    options.add_argument(
        "--reference",
        nargs="+",
        default=REFERENCES,
        metavar="METHOD",
        help=f"methods the others are compared with, a table each (default: {' '.join(REFERENCES)})",
    )
    options.set_defaults(experiment=_report)


def main(options: argparse.Namespace) -> int:
    """Run one command of the group.

    Raises:
        StartError: If it cannot be done as asked, or with the files given.
    """
    return run_command(options.experiment, options)


def run_command(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a command that measures or writes results.

    Raises:
        StartError: If it cannot be done as asked, with the files given, or without the extra `experiment`.
    """
    try:
        return command(options)
    except ModuleNotFoundError as error:
        raise StartError(
            f"{error.name} is not installed; `pip install 'ugmcl-assist[experiment]'` adds it."
        ) from error
    except ValueError as error:
        raise StartError(str(error)) from error


def _pack(options: argparse.Namespace) -> int:
    from server.packing.packing import PackOptions, pack_data_set
    from server.packing.sources import find_source

    source = find_source(options.data, options.layout, options.train_list, options.test_list, options.channel)
    classes = [name.strip() for name in options.classes.split(",") if name.strip()]
    chosen = PackOptions(options.name, classes, options.merge, options.bits, options.test_last)
    exact = pack_data_set(source, options.out, chosen, _say)
    lossy = [name for name, kept in exact.items() if not kept]
    _say(f"wrote {options.out}: {len(exact)} cases, {options.out.stat().st_size / 2**20:.1f} MiB")
    if lossy:
        _say(f"{len(lossy)} of them have more levels than {options.bits} bits hold; these were rounded.")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from server.evaluation.evaluate import evaluate
    from server.evaluation.overlays import draw_worst_cases

    runs = evaluate(options.pack, options.work, options.out, _say)
    for path in draw_worst_cases(runs, options.pack, options.out):
        _say(f"wrote {path}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from server.evaluation.report import report

    for path in report(options.csv, options.docs, options.reference):
        _say(f"wrote {path}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
