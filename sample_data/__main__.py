"""`python -m sample_data --out DIR`: write the sample cohort."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sample_data.cohort import DEFAULT_SEED, CohortError, generate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The generator's options."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--cases", type=int, default=24, metavar="N", help="scans to serve (default 24)")
    parser.add_argument(
        "--labeled", type=int, default=4, metavar="N", help="labeled from the start (default 4)"
    )
    parser.add_argument("--heldout", type=int, default=6, metavar="N", help="scans to measure on (default 6)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, metavar="N", help=f"default {DEFAULT_SEED}")


def main(args: argparse.Namespace) -> int:
    """Write the cohort and say where; 0, or 2 with a sentence when it cannot be made as asked."""
    show = _show if sys.stderr.isatty() else None
    try:
        studies = generate(args.out, args.cases, args.labeled, args.heldout, args.seed, progress=show)
    except (CohortError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Scans to serve: {studies}\nReference labels and held-out cases: {studies.parent / 'reference'}")
    return 0


def _show(done: int, total: int) -> None:
    """One line that counts up in the terminal."""
    print(f"\rDrawing case {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sample_data", description=__doc__)
    add_arguments(parser)
    sys.exit(main(parser.parse_args()))
