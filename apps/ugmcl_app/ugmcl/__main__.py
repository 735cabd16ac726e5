"""`python -m ugmcl`: the experiments on a machine that has torch, monai and numpy and nothing else."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 for a wrong one."""
    # Before torch is imported: its waiting threads then sleep instead of spinning beside other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from . import experiment_command, simulation_command

    parser = argparse.ArgumentParser("python -m ugmcl", description="Experiments with UG-MCL and its rivals.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    experiment = commands.add_parser(
        "experiment", help="train methods on a packed data set", description=experiment_command.ABOUT
    )
    experiment_command.add_arguments(experiment)
    experiment.set_defaults(run=experiment_command.main)
    simulate = commands.add_parser(
        "simulate", help="reveal labels round by round", description=simulation_command.ABOUT
    )
    simulation_command.add_arguments(simulate)
    simulate.set_defaults(run=simulation_command.main)
    given = parser.parse_args(arguments)
    return int(given.run(given))


if __name__ == "__main__":
    sys.exit(main())
