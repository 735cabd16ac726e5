"""Many cases in one project: `python -m server.benchmarks.scale`, or `make bench-scale`.

One project of tiny scans grows to each of the sizes. At each, the server is started anew and asked over HTTP,
as by a viewer; what is timed is what a reader waits for. MONAI Label's own datastore is timed on folders of
the same scans in this process, without any HTTP, and only at the sizes where it does not take hours.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from server.benchmarks.served import percentile, say, serving, write_label, write_scans

SHAPE = (8, 8, 8)
SIZES = (100, 1000, 10000, 100000)
SETTINGS = {"device": "cpu", "threads": "1", "min_labels": "1000000"}
# Of 100 cases, there must be one left for each reader who asks.
REPEATS = {"next": 80, "save": 60, "info": 50, "page": 50, "rescan": 3, "file": 60}
PAGE = "/cases?status=unlabeled&sort=uncertainty&limit=50"
COLUMNS = ("next", "save", "file", "info", "page", "rescan")


def timed(work: Callable[[int], Any], repeats: int, patience_s: float = 120.0) -> list[float]:
    """Milliseconds of each of `repeats` calls after one that does not count; fewer when they take long."""
    work(0)
    deadline = time.monotonic() + patience_s
    taken = []
    for number in range(1, repeats + 1):
        begun = time.perf_counter()
        work(number)
        taken.append(1000 * (time.perf_counter() - begun))
        if time.monotonic() > deadline and len(taken) >= 3:
            break
    return taken


class Viewer:
    """Asks a running server what readers and viewers ask it."""

    def __init__(self, url: str, studies: Path) -> None:
        self._url, self._studies = url, studies
        self._session = requests.Session()
        self._given: list[str] = []
        self._label = studies.parent / "label.nii.gz"
        write_label(self._label, SHAPE, 1)
        self._after: str | None = None
        self._run = time.time_ns()

    def next(self, number: int) -> None:
        """Another reader asks for a case."""
        reader = {"client_id": f"reader-{self._run}-{number}"}
        answer = self._session.post(f"{self._url}/activelearning/most_uncertain", json=reader)
        answer.raise_for_status()
        self._given.append(answer.json()["id"])

    def save(self, number: int) -> None:
        """One of them submits its label."""
        with self._label.open("rb") as file:
            answer = self._session.put(
                f"{self._url}/datastore/label?image={self._given[number]}&tag=final",
                files={"label": ("label.nii.gz", file)},
                data={"params": json.dumps({"client_id": f"reader-{self._run}-{number}"})},
            )
        answer.raise_for_status()

    def file(self, number: int) -> None:
        """What a label's file costs beside the server: written, flushed, renamed, its folder flushed."""
        part, path = (self._studies.parent / name for name in ("file.part", "file.nii.gz"))
        with part.open("wb") as stream:
            stream.write(self._label.read_bytes())
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def info(self, number: int) -> dict[str, Any]:
        """A viewer connects."""
        found: dict[str, Any] = self._session.get(f"{self._url}/info/").json()
        return found

    def page(self, number: int) -> None:
        """A page of the worklist, then the one after it."""
        query = {"after": self._after} if self._after else {}
        answer = self._session.get(self._url + PAGE, params=query)
        answer.raise_for_status()
        self._after = answer.json().get("next")

    def has_page(self) -> bool:
        """Whether this server has a worklist."""
        return self._session.get(self._url + PAGE).status_code == 200

    def rescan(self, number: int) -> None:
        """A file is put into the folder, until it is served."""
        name = f"new_{self._run}_{number}"
        first = next(self._studies.glob("case_*.nii"))
        content = bytearray(first.read_bytes())
        content[-8:] = time.time_ns().to_bytes(8, "little")
        (self._studies / f"{name}.nii").write_bytes(content)
        while self._session.head(f"{self._url}/datastore/image?image={name}").status_code != 200:
            time.sleep(0.05)


def ours(studies: Path, log: Path, count: int, baseline_s: float, starts: int) -> dict[str, Any]:
    """Start and ask the server on a project that has just got all of its `count` scans."""
    with serving(studies, log, SETTINGS) as server:
        first_s = server.start_s
    found: dict[str, Any] = {}
    lowest = float("inf")
    for remaining in reversed(range(starts)):
        with serving(studies, log, SETTINGS) as server:
            lowest = min(lowest, server.start_s)
            if remaining:
                continue
            viewer = Viewer(server.url, studies)
            total = viewer.info(0)["datastore"]["total"]
            if total < count:
                raise RuntimeError(f"The server serves {total} of {count} scans; see {log}.")
            for name in COLUMNS:
                if name == "page" and not viewer.has_page():
                    continue
                found |= _figures(name, timed(getattr(viewer, name), REPEATS[name]))
    start_s = round(max(0.0, lowest - baseline_s), 2)
    return {**found, "start_s": start_s, "first_start_s": round(first_s - baseline_s, 2)}


def stock(folder: Path, count: int) -> dict[str, Any]:
    """The same of MONAI Label's own datastore, in this process."""
    from monailabel.datastore.local import LocalDatastore
    from monailabel.tasks.activelearning.random import Random

    studies = folder / f"stock-{count}"
    ids = write_scans(studies, count, SHAPE)
    begun = time.perf_counter()
    store = LocalDatastore(str(studies), extensions=("*.nii.gz", "*.nii"))
    first_s = time.perf_counter() - begun
    begun = time.perf_counter()
    store = LocalDatastore(str(studies), extensions=("*.nii.gz", "*.nii"))
    start_s = time.perf_counter() - begun
    strategy, label = Random(), studies.parent / "label.nii.gz"
    write_label(label, SHAPE, 1)

    def next_case(number: int) -> None:
        chosen = strategy({"strategy": "random"}, store)["id"]
        # As the stock route does with each answer.
        store.update_image_info(chosen, {"strategy": {"random": {"ts": int(time.time())}}})

    def save(number: int) -> None:
        store.save_label(ids[number], str(label), "final", {})

    found = _figures("next", timed(next_case, 20, 30.0)) | _figures("save", timed(save, 20, 30.0))
    found |= _figures("info", timed(lambda _: store.status(), 20, 30.0))
    return {**found, "start_s": round(start_s, 2), "first_start_s": round(first_s, 2)}


def _figures(name: str, taken: list[float]) -> dict[str, float]:
    return {
        f"{name}_p50_ms": round(percentile(taken, 0.5), 2),
        f"{name}_p95_ms": round(percentile(taken, 0.95), 2),
    }


def run(sizes: list[int], stock_sizes: list[int], build: Path, starts: int) -> dict[str, Any]:
    """All sizes of ours, then those of the stock datastore."""
    log = build / "bench-scale-server.log"
    with tempfile.TemporaryDirectory(prefix="bench-scale-", dir=build) as temporary:
        folder = Path(temporary)
        (folder / "none").mkdir()
        baseline_s = float("inf")
        for _ in range(starts + 1):
            with serving(folder / "none", log, SETTINGS) as server:
                baseline_s = min(baseline_s, server.start_s)
        say(f"A start without any case takes {baseline_s:.1f} s.")
        found: dict[str, Any] = {}
        for count in sizes:
            write_scans(folder / "studies", count, SHAPE)
            found[str(count)] = ours(folder / "studies", log, count, baseline_s, starts)
            say(f"{count} cases: {json.dumps(found[str(count)])}")
        found["stock"] = {}
        for count in stock_sizes:
            found["stock"][str(count)] = stock(folder, count)
            say(f"stock, {count} cases: {json.dumps(found['stock'][str(count)])}")
    return found


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown, p50 / p95, and how much the p95 grows from the smallest to the largest."""
    heads = ["cases", *(f"{name}, ms" for name in COLUMNS), "start, s", "first start, s"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    own = {count: row for count, row in found.items() if count != "stock"}
    for side, rows in (("", own), ("stock, ", found["stock"])):
        for count, row in rows.items():
            lines.append(
                f"| {side}{int(count):,} | {_cells(row)} | {row['start_s']} | {row['first_start_s']} |"
            )
        if len(rows) > 1:
            lines.append(f"| {side}growth of p95 | {_growth(list(rows.values()))} | | |")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> str:
    shown = (
        f"{row[f'{name}_p50_ms']:.1f} / {row[f'{name}_p95_ms']:.1f}" if f"{name}_p95_ms" in row else "-"
        for name in COLUMNS
    )
    return " | ".join(shown)


def _growth(rows: list[dict[str, Any]]) -> str:
    keys = [f"{name}_p95_ms" for name in COLUMNS]
    return " | ".join(f"x {rows[-1][key] / rows[0][key]:.1f}" if key in rows[0] else "-" for key in keys)


def main() -> int:
    """Run, write the file, print the table."""
    options = argparse.ArgumentParser(prog="python -m server.benchmarks.scale", description=__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="N")
    options.add_argument(
        "--stock-sizes", type=int, nargs="*", default=list(SIZES[:3]), metavar="N",
        help="a write of the stock datastore takes seconds at 20,000 cases",
    )  # fmt: skip
    options.add_argument(
        "--starts", type=int, default=2, metavar="N", help="starts, of which the fastest counts"
    )
    options.add_argument("--out", type=Path, default=Path("build/bench-scale.json"), metavar="FILE")
    given = options.parse_args()
    logging.getLogger("monailabel").setLevel(logging.WARNING)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found = run(sorted(given.sizes), sorted(given.stock_sizes), given.out.parent, given.starts)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    say(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
