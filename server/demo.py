"""`ugmcl-assist demo`: the main job to watch in one terminal, reference labels standing in for the expert.

Per round: the server names the case it is least sure of, segments it and says how sure it is; the expert's
label is submitted; after a few of these the server trains on its own account, and the held-out cases, which
it never trains on, show what the new model is worth. All of it by the stock Python client and HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from sample_data import CohortError, generate
from server.demo_launch import own_server
from server.demo_picture import ShownCase, draw_picture
from server.demo_screen import DemoScreen, RoundResult
from server.demo_session import DemoError, DemoSession

BUILD = Path("build")

ROUND_SECONDS = 80
"""A little less training than the server's default: four rounds take well under ten minutes on two cores."""

DEBOUNCE_S = 12
"""Time enough between two labels that the labels of one round of the demo make one round of training."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The demo's options."""
    parser.add_argument("--rounds", type=int, default=4, metavar="N", help="rounds to watch (default 4)")
    parser.add_argument(
        "--labels-per-round",
        type=int,
        default=4,
        metavar="N",
        help="labels the expert submits in each (default 4)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=BUILD,
        metavar="DIR",
        help="folder for demo.json and demo.png (default build)",
    )
    parser.add_argument(
        "--round-seconds",
        type=int,
        default=ROUND_SECONDS,
        metavar="S",
        help=f"training time of a round on a CPU, for the demo's own server (default {ROUND_SECONDS})",
    )
    parser.add_argument(
        "--server",
        metavar="URL",
        help="a running server on the sample cohort; by default the demo starts its own",
    )
    parser.add_argument(
        "--studies",
        type=Path,
        metavar="DIR",
        help="studies folder of the sample cohort (default build/sample/studies, generated when absent)",
    )


def _metrics(*args: Any) -> dict[str, Any]:
    """`ugmcl.metrics.evaluate_case`, imported on first use: torch takes seconds that --help can spare."""
    from ugmcl.metrics import evaluate_case

    return evaluate_case(*args)


def main(args: argparse.Namespace) -> int:
    """Run the demo: 0 when it went through, 1 with a sentence when it could not, 130 on Ctrl-C."""
    screen = DemoScreen()
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        _check(args)
        cohort = _cohort(args.studies, screen)
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ugmcl-demo-")))
            stack.enter_context(screen.live())
            url = args.server or stack.enter_context(_started(cohort, args, screen))
            demo = Demo(DemoSession(url, folder), cohort, screen)
            demo.run(args.rounds, args.labels_per_round)
        _write(args.out, demo)
    except (DemoError, CohortError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. Labels submitted so far are saved on the server.", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _stop(number: int, frame: object) -> None:
    """Take a plain `kill` as Ctrl-C, so that the demo's own server ends with it."""
    raise KeyboardInterrupt


class Demo:
    """One run: the expert with the reference labels, and the held-out cases to measure on.

    Attributes:
        results: One entry per round watched, oldest first.
        shown: The held-out case for the picture, as the last model segments it.
    """

    def __init__(self, session: DemoSession, cohort: Path, screen: DemoScreen) -> None:
        self.session = session
        self.screen = screen
        self.references = cohort / "reference" / "labels"
        self.heldout = sorted((cohort / "reference" / "heldout" / "images").glob("*.nii.gz"))
        self.heldout_labels = cohort / "reference" / "heldout" / "labels"
        self.results = screen.results
        self.shown: ShownCase | None = None

    def run(self, rounds: int, labels_per_round: int) -> None:
        """Watch `rounds` rounds; a model that is there at the start, or in the making, counts as one."""
        cases = self._known_cases()
        live = self.session.published_model()
        # Without a model the labels that are there must bring one; with one, only a running round counts.
        found = set() if live else {name for name, labeled in cases.items() if labeled}
        first = self._wait("Learning from the labels that are there", found)
        if first is not None:
            self._measure(first)
        while len(self.results) < rounds:
            submitted = self._annotate(labels_per_round)
            if not submitted:
                self.screen.say("Every case has a label: nothing is left to ask the expert.")
                return
            round_ = self._wait(f"Learning from {len(submitted)} more labels", submitted)
            if round_ is not None:
                self._measure(round_)

    def _known_cases(self) -> dict[str, bool]:
        """The server's cases and whether they have a label; DemoError when one is not of the cohort."""
        known = {path.name.removesuffix(".nii.gz") for path in self.references.glob("*.nii.gz")}
        cases = self.session.cases()
        strangers = sorted(set(cases) - known)
        if strangers:
            raise DemoError(
                f"The server at {self.session.url} holds {len(strangers)} cases without a reference label in "
                f"{self.references}, {strangers[0]} among them; the demo needs a server on the sample cohort "
                "(`make serve`), and --studies naming that cohort's studies folder."
            )
        return cases

    def _annotate(self, count: int) -> set[str]:
        """Let the expert label the `count` most uncertain cases, one after the other."""
        submitted: set[str] = set()
        with self.screen.bar("The expert corrects the most uncertain cases", total=count) as bar:
            for number in range(count):
                chosen = self.session.next_case()
                if chosen is None:
                    break
                case, _ = chosen
                bar.set(number, count, case)
                self._review(case)
                self.session.submit(case, self.references / f"{case}.nii.gz")
                submitted.add(case)
        return submitted

    def _review(self, case: str) -> None:
        """Show what the model makes of a case before the expert corrects it; nothing before a first model."""
        if self.session.published_model() is None:
            self.screen.say(f"  {case}: no model yet, labeled from scratch")
            return
        reply = self.session.infer(case)
        reference = np.asarray(nib.load(self.references / f"{case}.nii.gz").dataobj)
        spacing = _spacing(self.references / f"{case}.nii.gz")
        dice = _metrics(reply.label, reference, spacing, _classes(reference))["dice"]
        self.screen.say(
            f"  {case}: uncertainty {reply.score:.3f}, the model's Dice {dice:.3f}; expert's label submitted"
        )

    def _wait(self, description: str, submitted: set[str]) -> dict[str, Any] | None:
        """Wait for a round, with its own progress on the bar."""
        with self.screen.bar(description) as bar:

            def show(entry: dict[str, Any]) -> None:
                progress = entry.get("progress") or {}
                note = f"{entry['labeled']} labels, {entry['unlabeled']} unlabeled"
                if progress.get("eta_s") is not None:
                    note += f", {progress['eta_s']:.0f} s left"
                bar.set(progress.get("step") or 0, progress.get("steps") or None, note)

            return self.session.wait_for_round(submitted, show)

    def _measure(self, round_: dict[str, Any]) -> None:
        """Segment the held-out cases with the model that is live and add the round's line."""
        metrics: dict[str, dict[str, Any]] = {}
        with self.screen.bar("Measuring on the held-out cases", total=len(self.heldout)) as bar:
            for number, scan in enumerate(self.heldout):
                name = scan.name.removesuffix(".nii.gz")
                bar.set(number, len(self.heldout), name)
                reply = self.session.infer_file(scan)
                file = nib.load(self.heldout_labels / scan.name)
                reference = np.asarray(file.dataobj)
                metrics[name] = _metrics(
                    reply.label, reference, _spacing(scan), _classes(reference), reply.uncertainty
                )
                # The picture keeps to one case, the third, so that it is no hand-picked one.
                if number == min(2, len(self.heldout) - 1) and reply.uncertainty is not None:
                    image = np.asarray(nib.load(scan).dataobj)
                    self.shown = ShownCase(
                        name,
                        image,
                        reference,
                        reply.label,
                        reply.uncertainty,
                        file.affine,
                        metrics[name]["dice"],
                    )
        self.screen.add(summarize(round_, metrics))


def summarize(round_: dict[str, Any], metrics: dict[str, dict[str, Any]]) -> RoundResult:
    """A round's line from its entry in GET /rounds and the metrics of each held-out case."""
    areas = [case["error_auroc"] for case in metrics.values() if case["error_auroc"] is not None]
    return RoundResult(
        labeled=int(round_["labeled"]),
        dice=float(np.mean([case["dice"] for case in metrics.values()])),
        hd95_mm=float(np.mean([case["hd95_mm"] for case in metrics.values()])),
        error_auroc=float(np.mean(areas)) if areas else None,
        seconds=float(round_["duration_s"] or 0.0),
        promoted=bool(round_["promoted"]),
        dice_by_case={name: float(case["dice"]) for name, case in metrics.items()},
    )


def _check(args: argparse.Namespace) -> None:
    for name in ("rounds", "labels_per_round", "round_seconds"):
        if getattr(args, name) < 1:
            raise DemoError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be 1 or more.")


def _cohort(studies: Path | None, screen: DemoScreen) -> Path:
    """Folder of the sample cohort: the one named, or the default one, generated when it is absent."""
    if studies is not None:
        cohort = studies.resolve().parent
        if not (cohort / "reference" / "heldout" / "images").is_dir():
            raise DemoError(
                f"{studies} belongs to no sample cohort: there is no reference/heldout beside it. "
                "Make one with `ugmcl-assist sample-data --out DIR` and name DIR/studies."
            )
        return cohort
    with screen.bar("Drawing the sample cohort") as bar:
        return generate(BUILD / "sample", progress=lambda done, total: bar.set(done, total)).parent


@contextlib.contextmanager
def _started(cohort: Path, args: argparse.Namespace, screen: DemoScreen) -> Iterator[str]:
    """The demo's own server, with a line about where it is and where its log goes."""
    settings = {"round_seconds": str(args.round_seconds), "debounce_s": str(DEBOUNCE_S)}
    with contextlib.ExitStack() as stack:
        with screen.bar("Starting a server on a fresh copy of the sample cohort"):
            url = stack.enter_context(own_server(cohort, args.out, settings))
        screen.say(f"Server at {url}, log in {args.out / 'demo-server.log'}")
        yield url


def _write(out: Path, demo: Demo) -> None:
    """Write demo.json and demo.png and say what came out."""
    if not demo.results:
        raise DemoError("No round was finished, so there is nothing to show.")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"rounds": [result.to_dict() for result in demo.results]}, indent=1) + "\n"
    (out / "demo.json.part").write_text(text, encoding="utf-8")
    os.replace(out / "demo.json.part", out / "demo.json")
    draw_picture(out / "demo.png", demo.results, demo.shown)
    screen, first, last = demo.screen, demo.results[0], demo.results[-1]
    if not screen.console.is_terminal:
        screen.console.print(screen.table())
    screen.say(
        f"Dice {first.dice:.3f} with {first.labeled} labels, {last.dice:.3f} with {last.labeled}. "
        f"Picture: {out / 'demo.png'}, figures: {out / 'demo.json'}"
    )


def _spacing(path: Path) -> tuple[float, float, float]:
    """Voxel edge lengths of a scan in mm."""
    zooms = nib.load(path).header.get_zooms()
    return float(zooms[0]), float(zooms[1]), float(zooms[2])


def _classes(reference: np.ndarray[Any, Any]) -> int:
    """Number of foreground classes of a reference label."""
    return max(1, int(reference.max()))
