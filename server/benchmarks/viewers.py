"""Waiting in a viewer, beside the stock app: `python -m server.benchmarks.viewers`, or `make bench-viewers`.

Two servers on the same scan: ours, and MONAI Label's radiology app in an environment of its own. The requests
are those that 3D Slicer's stock module makes (next sample, download, read; infer, receive, read), made by
MONAI Label's own client, in turn to one and the other. Both models have random weights, which take as long as
others.

Our server has asked its model about the least sure cases before a reader gets them, so `segment_ms` is the
time of an answer that is there; `segment_asking_model_ms` is that of one that is not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import nrrd
import numpy as np
import requests
from monailabel.client.client import MONAILabelClient

from sample_data.phantom import make_phantom
from server.benchmarks.served import app_environment, say, serving
from server.benchmarks.stock_radiology import MODEL, MONAI, environment, serving_stock
from ugmcl.provenance import provenance

COPIES = 3
"""Files of the scan: whichever is offered, it is the same scan, and no reader waits for another's case."""
SETTINGS = {"min_labels": "1000000"}
SCORED_S = 1800.0
# What 3D Slicer's stock module asks for.
WISHES = {"result_extension": ".nrrd", "result_dtype": "uint8"}
ROWS = {
    "next": "Next to image, ours",
    "stock_next": "Next to image, stock",
    "segment": "Segment to overlay, ours",
    "segment_asking_model": "- where the model has to be asked",
    "stock_segment": "Segment to overlay, stock",
}
SPLITS = ("network", "preprocessing", "model", "encoding", "reading")

# In a process of its own: the server must load the app's modules afresh, as the host wants it.
MODEL_OF_SCAN = """
import sys
from pathlib import Path
import torch
from lib.registry import ModelRegistry
from lib.volumes import read_volume
from lib.workspace import Workspace
from ugmcl.checkpoint import Checkpoint
from ugmcl.network import DualTaskVNet
from ugmcl.presets import preset_for_scans
torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
config = preset_for_scans("default", ("foreground",), [read_volume(Path(sys.argv[2]))], device)
registry = ModelRegistry(Workspace.of(sys.argv[1]))
registry.publish(registry.add(Checkpoint.of(DualTaskVNet(config.network), config), "r0001", None, {}))
"""


class Side(NamedTuple):
    """A server and how to ask it.

    Attributes:
        name: Before its figures.
        url: Its address.
        strategy, model: What it calls them.
        phases: What its `latencies` say, by our words for it.
    """

    name: str
    url: str
    strategy: str
    model: str
    phases: dict[str, tuple[str, ...]]


OUR_PHASES: dict[str, tuple[str, ...]] = {"preprocessing": ("load", "preprocess"), "model": ("inference",)}
STOCK_PHASES: dict[str, tuple[str, ...]] = {"preprocessing": ("pre",), "model": ("infer",)}


class Waits:
    """Milliseconds of every request, by what was waited for."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, seconds: float) -> None:
        self.found[name].append(1000 * seconds)

    def each(self) -> dict[str, list[float]]:
        """All of them, without the splits."""
        return {
            name: [round(value, 1) for value in values]
            for name, values in self.found.items()
            if "." not in name
        }

    def medians(self) -> dict[str, float]:
        return {name: round(statistics.median(values), 1) for name, values in sorted(self.found.items())}


def next_case(side: Side, folder: Path, reader: str, waits: Waits) -> str:
    """From Next to the scan's voxels in memory; returns the case."""
    client = MONAILabelClient(side.url, tmpdir=str(folder), client_id=reader)
    begun = time.perf_counter()
    case = str(client.next_sample(side.strategy, {})["id"])
    asked = time.perf_counter()
    answer = requests.get(f"{side.url}/datastore/image", params={"image": case}, timeout=600)
    answer.raise_for_status()
    file = folder / "image.nii.gz"
    file.write_bytes(answer.content)
    downloaded = time.perf_counter()
    np.asarray(nib.load(file).dataobj)
    done = time.perf_counter()
    waits.add(f"{side.name}next_ms", done - begun)
    waits.add(f"{side.name}next_split_ms.asking", asked - begun)
    waits.add(f"{side.name}next_split_ms.network", downloaded - asked)
    waits.add(f"{side.name}next_split_ms.reading", done - downloaded)
    return case


def segment(side: Side, case: str, folder: Path, waits: Waits, name: str = "segment", **wishes: bool) -> None:
    """From Segment to the label's voxels in memory, noted under this name."""
    client = MONAILabelClient(side.url, tmpdir=str(folder), client_id="reader")
    begun = time.perf_counter()
    file, params = client.infer(side.model, case, {**WISHES, **wishes})
    answered = time.perf_counter()
    nrrd.read(file)
    done = time.perf_counter()
    Path(file).unlink()
    waits.add(f"{side.name}{name}_ms", done - begun)
    for part, seconds in split(params["latencies"], side.phases, answered - begun, done - answered).items():
        waits.add(f"{side.name}{name}_split_ms.{part}", seconds)


def split(
    told: dict[str, Any], phases: dict[str, tuple[str, ...]], request_s: float, reading_s: float
) -> dict[str, float]:
    """Where the seconds of a segmentation went.

    Args:
        told: The server's `latencies` in seconds, with `total`.
        phases: Their names, by ours.
        request_s: Seconds of the whole request at the client.
        reading_s: Seconds for reading the label.

    Returns:
        Seconds by `SPLITS`: `encoding` is the server's work outside the other phases (back to the scan's
        grid, writing, keeping the map), `network` all of the request that is not the server's work.
    """
    found = {name: sum(float(told[one]) for one in names) for name, names in phases.items()}
    encoding = float(told["total"]) - sum(found.values())
    return {
        "network": request_s - float(told["total"]),
        **found,
        "encoding": encoding,
        "reading": reading_s,
    }


def segment_with_map(url: str, case: str, waits: Waits) -> None:
    """From Segment to label and uncertainty map, as our own modules for Slicer and OHIF ask for them."""
    wishes = {**WISHES, "uncertainty": True}
    begun = time.perf_counter()
    answer = requests.post(
        f"{url}/infer/ugmcl", params={"image": case}, data={"params": json.dumps(wishes)}, timeout=1800
    )
    answer.raise_for_status()
    waits.add("segment_with_map_ms", time.perf_counter() - begun)
    waits.add("segment_with_map_megabytes", len(answer.content) / 1e9)  # `add` multiplies by 1000


def write_copies(scan: Path | None, folder: Path) -> Path:
    """The scan under `COPIES` names, a generated one without `scan`; returns one of the files."""
    folder.mkdir(parents=True)
    if scan is None:
        phantom = make_phantom(7, 0)
        image = nib.Nifti1Image(np.asarray(phantom.image, np.int16), phantom.affine)
        image.header.set_xyzt_units("mm")
    else:
        image = nib.load(scan)
    for number in range(COPIES):
        nib.save(image, folder / f"case_{number}.nii.gz")
    return folder / "case_0.nii.gz"


def run(scan: Path | None, rounds: int, build: Path) -> dict[str, Any]:
    """Start both servers and ask them in turn; returns what is written to the file."""
    python = environment(build / "stock-venv")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-viewers-", dir=build)))
        first = write_copies(scan, folder / "studies")
        write_copies(scan, folder / "stock-studies")
        line = [sys.executable, "-c", MODEL_OF_SCAN, str(folder / "studies"), str(first)]
        subprocess.run(line, env=app_environment(), check=True)
        say("Starting both servers, a minute or two ...")
        log = build / "bench-viewers-stock.log"
        stock = stack.enter_context(serving_stock(python, folder / "stock-studies", folder, log))
        ours = stack.enter_context(
            serving(folder / "studies", build / "bench-viewers-server.log", SETTINGS)
        ).url
        _wait_until_scored(ours)
        sides = [
            Side("", ours, "most_uncertain", "ugmcl", OUR_PHASES),
            Side("stock_", stock, "random", MODEL, STOCK_PHASES),
        ]
        first_answers, waits = Waits(), Waits()
        ask_in_turn(sides, 0, folder, first_answers)
        for number in range(1, rounds + 1):
            ask_in_turn(sides, number, folder, waits)
            medians = waits.medians()
            told = ", ".join(f"{name} {medians[name]:.0f}" for name in medians if name.endswith("t_ms"))
            say(f"  round {number} of {rounds}: {told}")
        header = nib.load(first).header
        shape, spacing = header.get_data_shape(), header.get_zooms()
    return {
        **nested(waits.medians()),
        "first": {name: value for name, value in first_answers.medians().items() if "." not in name},
        "rounds": rounds,
        "scan": {
            "name": "generated" if scan is None else scan.name,
            "shape": [int(length) for length in shape],
            "spacing_mm": [round(float(length), 4) for length in spacing],
        },
        "each": {
            name: [round(one, 1) for one in values] for name, values in waits.found.items() if "." not in name
        },
        "stock": {"app": "radiology", "model": MODEL, "monai": MONAI, "monailabel": version("monailabel")},
        **provenance("cuda" if _on_gpu() else "cpu"),
    }


def ask_in_turn(sides: list[Side], number: int, folder: Path, waits: Waits) -> None:
    """One round: each side once, the other one first in the next round."""
    for side in sides if number % 2 else sides[::-1]:
        case = next_case(side, folder, "reader", waits)
        segment(side, case, folder, waits)
        if not side.name:
            segment_with_map(side.url, case, waits)
            segment(side, case, folder, waits, "segment_asking_model", fresh=True)


def nested(medians: dict[str, float]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    found: dict[str, Any] = {}
    for name, value in medians.items():
        group, _, part = name.partition(".")
        if part:
            found.setdefault(group, {})[part] = value
        else:
            found[name] = value
    return found


def table(found: dict[str, Any]) -> str:
    """The medians as Markdown."""
    lines = ["| wait, ms | all | " + " | ".join(("asking", *SPLITS)) + " |", "|---" * (len(SPLITS) + 3) + "|"]
    for name, title in ROWS.items():
        parts = found[f"{name}_split_ms"]
        values = [found[f"{name}_ms"], *(parts.get(part) for part in ("asking", *SPLITS))]
        lines.append(f"| {title} | " + " | ".join("-" if v is None else f"{v:.0f}" for v in values) + " |")
    return "\n".join(lines)


def _wait_until_scored(url: str) -> None:
    """The start scores the pool with the model; that would take the processor from what is timed."""
    deadline = time.monotonic() + SCORED_S
    while time.monotonic() < deadline:
        cases = requests.get(f"{url}/cases", params={"status": "unlabeled"}, timeout=60).json()["cases"]
        if cases and all(case["score"] is not None for case in cases):
            return
        time.sleep(1)
    raise RuntimeError(f"The cases were not scored within {SCORED_S:.0f} s.")


def _on_gpu() -> bool:
    import torch  # known to be installed; seconds that `--help` does not need

    return bool(torch.cuda.is_available())


def main() -> int:
    """Run, write the file, print the table."""
    options = argparse.ArgumentParser(prog="python -m server.benchmarks.viewers", description=__doc__)
    options.add_argument(
        "--scan", type=Path, metavar="FILE", help="a NIfTI file; a generated scan without it"
    )
    options.add_argument("--rounds", type=int, default=9, metavar="N", help="of each request to each side")
    options.add_argument("--out", type=Path, default=Path("build/bench-viewers.json"), metavar="FILE")
    given = options.parse_args()
    if given.scan is not None and not given.scan.is_file():
        options.error(f"--scan {given.scan}: there is no such file; name a NIfTI file.")
    if given.rounds < 1:
        options.error(f"--rounds {given.rounds}: at least 1 is needed.")
    logging.getLogger("monailabel").setLevel(logging.WARNING)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found = run(given.scan, given.rounds, given.out.parent.resolve())
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    say(table(found))
    say(f"Written to {given.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
