"""Many readers at once: `python -m server.benchmarks.load`, or `make bench-load`.

Starts a server with a tiny untrained model on generated scans. Each reader is a stock MONAI Label client with
its own `client_id` that asks for a case, has it segmented and submits a label, over and over. No two readers
may have one case, and afterwards every acknowledged label is downloaded and compared voxel by voxel.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import requests
from monailabel.client.client import MONAILabelClient

from server.benchmarks.served import (
    add_tiny_model,
    percentile,
    say,
    serving,
    write_label,
    write_scans,
)

SHAPE = (16, 16, 16)
# Rounds would take the processor from the requests that are timed here.
SETTINGS = {"device": "cpu", "threads": "1", "min_labels": "1000000"}
STEPS = ("next", "infer", "submit")

Result = TypeVar("Result")


class Ledger:
    """What all readers together were given, submitted and waited for. Thread-safe.

    Attributes:
        seconds: How long each answer took, by step.
        errors: Sentences on requests that failed.
        doubles: Cases given to a reader while another had them, or after they were labeled.
        saved: Number of the acknowledged label, and its reader, by case.
        exhausted: Requests for a case when none was left.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: dict[str, str] = {}
        self._count = 0
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: list[str] = []
        self.doubles: list[str] = []
        self.saved: dict[str, tuple[int, str]] = {}
        self.exhausted = 0

    def timed(self, step: str, work: Callable[[], Result]) -> Result:
        """Do a request and note how long it took."""
        begun = time.perf_counter()
        try:
            return work()
        finally:
            taken = time.perf_counter() - begun
            with self._lock:
                self.seconds[step].append(taken)

    def given(self, case: str, reader: str) -> None:
        """A reader got a case."""
        with self._lock:
            holder = self._holder.setdefault(case, reader)
            if holder != reader or case in self.saved:
                self.doubles.append(f"{case} was given to {reader}, and {holder} had it")

    def next_number(self) -> int:
        """A number for a label, never given before."""
        with self._lock:
            self._count += 1
            return self._count

    def acknowledged(self, case: str, number: int, reader: str) -> None:
        """The server said that it has a label."""
        with self._lock:
            self.saved[case] = (number, reader)

    def failed(self, reader: str, error: Exception) -> None:
        """A request failed."""
        with self._lock:
            self.errors.append(f"{reader}: {type(error).__name__}: {str(error)[:300]}")

    def nothing_left(self) -> None:
        """A reader was told that every case is labeled."""
        with self._lock:
            self.exhausted += 1


def read_until(deadline: float, url: str, reader: str, folder: Path, ledger: Ledger) -> None:
    """The work of one reader until a moment of `time.monotonic`."""
    folder.mkdir()
    client = MONAILabelClient(url, tmpdir=str(folder), client_id=reader)
    while time.monotonic() < deadline:
        try:
            case = ledger.timed("next", lambda: client.next_sample("most_uncertain", {})).get("id")
            if case is None:
                ledger.nothing_left()
                return
            ledger.given(case, reader)
            proposal, _ = ledger.timed("infer", lambda: client.infer("ugmcl", case, {"fresh": True}))  # noqa: B023
            Path(proposal).unlink()
            number = ledger.next_number()
            label = folder / "label.nii.gz"
            write_label(label, SHAPE, number)
            ledger.timed("submit", lambda: client.save_label(case, str(label), "final", {}))  # noqa: B023
            ledger.acknowledged(case, number, reader)
        except Exception as error:  # whatever goes wrong is what is counted here
            ledger.failed(reader, error)


def lost_labels(url: str, ledger: Ledger, folder: Path) -> list[str]:
    """The cases whose acknowledged label is not what the server has, voxel by voxel and by reader."""
    lost = []
    session = requests.Session()
    for case, (number, reader) in sorted(ledger.saved.items()):
        wanted = write_label(folder / "wanted.nii.gz", SHAPE, number)
        query = {"label": case, "tag": "final"}
        answer = session.get(f"{url}/datastore/label", params=query, timeout=60)
        versions = session.get(f"{url}/datastore/label/history", params=query, timeout=60).json()["versions"]
        (folder / "kept.nii.gz").write_bytes(answer.content)
        kept = np.asarray(nib.load(folder / "kept.nii.gz").dataobj) if answer.ok else None
        known = [version["reader"] for version in versions if version["state"] == "active"]
        if kept is None or not np.array_equal(kept, wanted) or known != [reader]:
            lost.append(case)
    return lost


def run(readers: int, seconds: float, cases: int, build: Path) -> dict[str, Any]:
    """Start the server, let the readers work, and compare what they were told with what is there."""
    with tempfile.TemporaryDirectory(prefix="bench-load-", dir=build) as temporary:
        folder = Path(temporary)
        say(f"Writing {cases} scans and a tiny model ...")
        write_scans(folder / "studies", cases, SHAPE)
        add_tiny_model(folder / "studies")
        with serving(folder / "studies", build / "bench-load-server.log", SETTINGS) as server:
            say(f"Started in {server.start_s:.1f} s; {readers} readers work for {seconds:.0f} s ...")
            ledger = Ledger()
            begun, before_s = time.monotonic(), server.cpu_s()
            work(server.url, readers, begun + seconds, folder, ledger)
            taken, cpu_s = time.monotonic() - begun, server.cpu_s() - before_s
            say(f"Comparing {len(ledger.saved)} acknowledged labels ...")
            lost = lost_labels(server.url, ledger, folder)
    cpu_ms = round(1000 * cpu_s / max(1, len(ledger.saved)), 1)
    return {**summary(readers, taken, ledger, lost), "server_cpu_ms_per_label": cpu_ms}


def work(url: str, readers: int, deadline: float, folder: Path, ledger: Ledger) -> None:
    """Let the readers work at the same time, and tell now and then how far they are."""
    names = [f"reader-{number:02d}" for number in range(readers)]
    threads = [
        threading.Thread(target=read_until, args=(deadline, url, name, folder / name, ledger))
        for name in names
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        moment = time.monotonic() + 15
        for thread in threads:
            thread.join(max(0.0, moment - time.monotonic()))
        say(f"  {len(ledger.saved)} labels, {len(ledger.errors)} errors, {len(ledger.doubles)} double leases")


def summary(readers: int, taken: float, ledger: Ledger, lost: list[str]) -> dict[str, Any]:
    """The figures, as they are written to the file."""
    every = [second for seconds in ledger.seconds.values() for second in seconds]
    return {
        "readers": readers,
        "seconds": round(taken, 1),
        "requests": len(every),
        "labels": len(ledger.saved),
        "readers_with_labels": len({reader for _, reader in ledger.saved.values()}),
        "errors": len(ledger.errors),
        "double_leases": len(ledger.doubles),
        "lost_labels": len(lost),
        "exhausted": ledger.exhausted,
        "p95_ms": round(1000 * percentile(every, 0.95), 1) if every else None,
        "latency_ms": {step: _latency(ledger.seconds[step]) for step in STEPS if ledger.seconds[step]},
        "error_kinds": dict(Counter(error.partition(": ")[2] for error in ledger.errors).most_common(10)),
        "examples": {"double_leases": ledger.doubles[:5], "lost_labels": lost[:5]},
    }


def _latency(seconds: list[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "worst": 1.0}
    told = {name: round(1000 * percentile(seconds, share), 1) for name, share in shares.items()}
    return {"count": len(seconds), **told}


def table(found: dict[str, Any]) -> str:
    """The latencies as Markdown."""
    lines = ["| request | answers | p50, ms | p95, ms | p99, ms | worst, ms |", "|---|---|---|---|---|---|"]
    for step, told in found["latency_ms"].items():
        values = [told["count"], *(told[name] for name in ("p50", "p95", "p99", "worst"))]
        lines.append(f"| {step} | " + " | ".join(f"{value:.0f}" for value in values) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run, write the file, print the table; 1 when anything failed, was given twice or was lost."""
    options = argparse.ArgumentParser(prog="python -m server.benchmarks.load", description=__doc__)
    options.add_argument("--readers", type=int, default=50, metavar="N")
    options.add_argument("--seconds", type=float, default=300, metavar="S")
    options.add_argument("--cases", type=int, default=10000, metavar="N", help="scans in the pool")
    options.add_argument("--out", type=Path, default=Path("build/bench-load.json"), metavar="FILE")
    given = options.parse_args()
    logging.getLogger("monailabel").setLevel(logging.WARNING)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found = run(given.readers, given.seconds, given.cases, given.out.parent)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    say(table(found))
    say(json.dumps({key: value for key, value in found.items() if key != "latency_ms"}, indent=1))
    return 1 if found["errors"] or found["double_leases"] or found["lost_labels"] else 0


if __name__ == "__main__":
    sys.exit(main())
