"""`experiment evaluate`: the CSV files of all finished runs of the given packs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.evaluation.boundary import label_boundary_distance
from server.evaluation.case_metrics import case_rows
from server.evaluation.csv_files import COLUMNS, Row, read_rows, write_rows
from server.evaluation.packs import LabeledSet, Predictions, Run, finished_runs
from server.evaluation.uncertainty_rows import uncertainty_rows

VERSION = "1"
"""Part of every digest: raised when a figure is computed in another way, so that runs are measured anew."""
Rows = dict[str, list[Row]]


class TrueBoundaries:
    """Distances to the true boundary, measured once for each case of a pack, which all its runs share."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[np.float32]] = {}

    def __call__(self, case: str, label: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The distance map `(X, Y, Z)` of a case."""
        if case not in self._kept:
            self._kept[case] = label_boundary_distance(label).astype(np.float32)
        return np.asarray(self._kept[case], dtype=np.float64)


def evaluate(packs: Sequence[Path], work: Path, out: Path, say: Callable[[str], None]) -> list[Run]:
    """Evaluate the runs that `out` does not have yet.

    Args:
        packs: The data sets.
        work: Folder of run folders.
        out: Takes the CSV files; they are written after every run, so an interrupted evaluation goes on.
        say: Told one line a run.

    Returns:
        All finished runs of these data sets.

    Raises:
        ValueError: If a file cannot be read, or there is no finished run of any of the packs.
    """
    rows = read_evaluated(out)
    found: list[Run] = []
    opened = [LabeledSet(path) for path in packs]
    for pack in opened:
        boundaries = TrueBoundaries()
        runs = finished_runs(work, pack)
        for number, run in enumerate(runs, start=1):
            key = digest_of(pack.digest, run)
            known = any(row["run"] == run.name and row["digest"] == key for row in rows["runs"])
            if not known:
                fresh = run_rows(run, pack, key, boundaries)
                merge(rows, run.name, fresh)
                write_evaluated(out, rows)
            say(f"[{number}/{len(runs)}] {run.name}: {'already there' if known else 'evaluated'}")
        found += runs
    if not found:
        names = ", ".join(pack.data_set for pack in opened)
        raise ValueError(f"{work} holds no finished run of {names}; `experiment run` makes them.")
    return found


def run_rows(run: Run, pack: LabeledSet, digest: str, boundaries: TrueBoundaries) -> Rows:
    """The rows of one run for every file."""
    predictions = run.predictions()
    judged = uncertainty_rows(run, pack, boundaries)
    rows: Rows = {
        "cases": list(_case_rows(predictions, pack)),
        "uncertainty": judged.uncertainty,
        "reliability": judged.reliability,
        "risk_coverage": judged.risk_coverage,
        "scores": judged.scores,
        "runs": [{**run_row(run, predictions), "temperature": judged.temperature, "digest": digest}],
    }
    identity = {
        "run": run.name,
        "data_set": pack.data_set,
        "labels": int(run.record["labeled"]),
        "method": str(run.record["method"]),
        "seed": int(run.record["seed"]),
    }
    return {name: [{**identity, **row} for row in part] for name, part in rows.items()}


def _case_rows(predictions: Predictions, pack: LabeledSet) -> list[Row]:
    rows = []
    for role in predictions.roles():
        for case in predictions.cases("test"):
            if predictions.has(role, case):
                true = pack.label(case)
                predicted = predictions.labels(role, case, true)
                found = case_rows(predicted, true, pack.classes, pack.spacing_mm(case))
                rows += [{"role": role, "case": case, **row} for row in found]
    return rows


def run_row(run: Run, predictions: Predictions) -> Row:
    """What the report says of a run besides its figures."""
    record = run.record
    origin: dict[str, Any] = record.get("provenance") or record
    versions: dict[str, str] = origin.get("versions") or {}
    precision = record.get("precision")
    return {
        "unlabeled": record.get("unlabeled"),
        "model": run.model,
        "steps": int(record["steps"]),
        "seconds": record.get("seconds"),
        "cpu_seconds": record.get("cpu_seconds"),
        "evaluated_on": record.get("evaluated_on") or "test",
        "test_cases": len(predictions.cases("test")),
        "ranking_cases": len(predictions.cases("ranking")),
        "precision": precision.get("name", "") if isinstance(precision, dict) else precision or "",
        "device": origin.get("device") or record.get("device") or "",
        "commit": origin.get("commit") or "",
        "versions": "; ".join(f"{name} {version}" for name, version in versions.items()),
        "fingerprint": record.get("fingerprint", ""),
    }


def merge(rows: Rows, run: str, fresh: Rows) -> None:
    """Replace the rows of one run, and keep every file in order of its runs."""
    for name, part in fresh.items():
        kept = [row for row in rows[name] if row["run"] != run]
        rows[name] = sorted(kept + part, key=lambda row: str(row["run"]))


def read_evaluated(out: Path) -> Rows:
    """What an earlier evaluation wrote whole; nothing where it was of another version of the columns."""
    try:
        rows = {name: read_rows(out, name, optional=True) for name in COLUMNS}
    except ValueError:
        return {name: [] for name in COLUMNS}
    # runs.csv is written last: rows of a run it does not name were cut short.
    known = {row["run"] for row in rows["runs"]}
    return {name: [row for row in part if row["run"] in known] for name, part in rows.items()}


def write_evaluated(out: Path, rows: Rows) -> None:
    """Replace all files, runs.csv last."""
    for name in [*(name for name in COLUMNS if name != "runs"), "runs"]:
        write_rows(out, name, rows[name])


def digest_of(pack_digest: str, run: Run) -> str:
    """Changes with the pack, the run's predictions, its record or `VERSION`."""
    parts = [
        VERSION,
        pack_digest,
        *(file_digest(run.folder / name) for name in ("predictions.npz", "run.json")),
    ]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from error
