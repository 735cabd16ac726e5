"""run_options: what the command lines of `experiment run` and `simulate run` have in common."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from .precision import DTYPES, resolve_device
from .terminal import stop_on_signal


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """`--set`, `--device`, `--precision`, `--threads`, `--commit` and `--stop-after`."""
    option = parser.add_argument
    option("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="any value")
    option("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    option("--precision", default="auto", choices=["auto", *DTYPES],
           help="number format (default: auto, measured once and kept in --work)")  # fmt: skip
    option("--threads", type=int, metavar="N", help="CPU threads (default: 1 on the CPU, all beside a GPU)")
    option("--commit", metavar="ID", help="commit of this code, where git cannot tell")
    option("--stop-after", type=float, metavar="S",
           help="save the state and end after S seconds; the same command goes on from there")  # fmt: skip


def exit_status(run: Callable[[argparse.Namespace], int], given: argparse.Namespace) -> int:
    """What `run` returns; 2 and a sentence on standard error when it raises ValueError."""
    try:
        return run(given)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def require_positive(given: argparse.Namespace, names: Sequence[str]) -> None:
    """ValueError for the first option that was given and is not above 0."""
    for name in names:
        value = getattr(given, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be above 0.")


def prepare_device(given: argparse.Namespace) -> str:
    """Set the threads and return the device; raises ValueError for one there is not."""
    device = resolve_device(given.device)
    if given.threads or device == "cpu":
        torch.set_num_threads(given.threads or 1)
    return device


@contextlib.contextmanager
def asked_to_stop(given: argparse.Namespace, began: float) -> Iterator[Callable[[], bool]]:
    """A question that is true after Ctrl-C, SIGTERM, or `--stop-after` seconds from `began` (monotonic)."""
    ends = began + (given.stop_after or float("inf"))
    with stop_on_signal() as signaled:
        yield lambda: signaled() or time.monotonic() > ends
