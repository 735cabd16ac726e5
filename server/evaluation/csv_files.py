"""The CSV files between `evaluate` and `report`: their columns, read with types, replaced atomically.

The long ones are compressed, so that the rows behind every published figure can be kept in the repository.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from server.evaluation.atomic import replacing
from server.evaluation.case_metrics import METRICS

Row = dict[str, Any]
IDENTITY = ("run", "data_set", "labels", "method", "seed")
"""First columns of every file: which run a row belongs to."""
COLUMNS: dict[str, tuple[str, ...]] = {
    "runs": (
        *IDENTITY, "unlabeled", "model", "steps", "seconds", "cpu_seconds", "evaluated_on", "test_cases",
        "ranking_cases", "temperature", "precision", "device", "commit", "versions", "fingerprint", "digest",
    ),
    "cases": (*IDENTITY, "role", "case", "class", "largest_component", *METRICS),
    "uncertainty": (
        *IDENTITY, "set", "case", "measure", "scaling", "region", "voxels", "errors", "auroc", "aupr", "ece",
        "risk_coverage_area",
    ),
    "reliability": (
        *IDENTITY, "set", "measure", "scaling", "region", "low", "high", "voxels", "mean_uncertainty",
        "error_rate",
    ),
    "risk_coverage": (*IDENTITY, "set", "measure", "region", "coverage", "risk"),
    "scores": (*IDENTITY, "set", "case", "score", "value", "dice"),
}  # fmt: skip
"""File name without .csv, and its columns."""
SIMULATION_COLUMNS: dict[str, tuple[str, ...]] = {
    "simulation_rounds": (
        "data_set", "arm", "seed", "labels", "strategy", "method", "planned", "steps", "seconds",
        "cpu_seconds", "added", "precision", "device", "commit", "versions", "settings",
    ),
    "simulation_cases": ("data_set", "arm", "seed", "labels", "case", "dice"),
}  # fmt: skip
"""The same of `simulate evaluate`: a row a round, and a row a round and test case."""
LAYOUTS = {**COLUMNS, **SIMULATION_COLUMNS}
COMPRESSED = {name for name in COLUMNS if name != "runs"}
"""Files with rows by case, voxel bin or score: `<name>.csv.gz`, 3 to 26 times smaller."""
WHOLE = {"labels", "seed", "unlabeled", "steps", "test_cases", "ranking_cases", "largest_component", "voxels",
         "errors", "failed"}  # fmt: skip
TEXT = {"run", "data_set", "method", "model", "evaluated_on", "precision", "device", "commit", "versions",
        "fingerprint", "digest", "role", "case", "class", "set", "measure", "scaling", "region",
        "score", "arm", "strategy", "planned", "added", "settings"}  # fmt: skip
"""All other columns are numbers; an empty field is a number that does not exist."""


def csv_path(folder: Path, name: str) -> Path:
    """Where the rows of a key of `LAYOUTS` are kept."""
    return folder / (f"{name}.csv.gz" if name in COMPRESSED else f"{name}.csv")


def write_rows(folder: Path, name: str, rows: Iterable[Row]) -> None:
    """Replace the file of `name` atomically; the same rows make the same bytes.

    Args:
        folder: Is made where it is missing.
        name: A key of `LAYOUTS`.
        rows: Numbers are kept with six significant digits.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LAYOUTS[name])
    writer.writerows([_written(row.get(column)) for column in LAYOUTS[name]] for row in rows)
    content = text.getvalue().encode()
    with replacing(csv_path(folder, name)) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if name in COMPRESSED else content)


def read_rows(folder: Path, name: str, *, optional: bool = False) -> list[Row]:
    """The rows of the file of `name` with numbers as numbers.

    Args:
        folder: Written by `evaluate`.
        name: A key of `LAYOUTS`.
        optional: Whether no file means no rows.

    Raises:
        ValueError: If the file is missing, has other columns, or holds a word where a number belongs.
    """
    path = csv_path(folder, name)
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if name in COMPRESSED else content).decode()
        return _parsed(path, LAYOUTS[name], list(csv.reader(io.StringIO(text, newline=""))))
    except FileNotFoundError:
        if optional:
            return []
        command = "simulate" if name in SIMULATION_COLUMNS else "experiment"
        raise ValueError(f"{path} is not there; run `{command} evaluate` with --out {folder}.") from None
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as CSV ({error}).") from error


def _parsed(path: Path, columns: Sequence[str], lines: list[list[str]]) -> list[Row]:
    if not lines or tuple(lines[0]) != tuple(columns):
        raise ValueError(f"{path} has other columns than this version writes; evaluate the runs again.")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            rows.append({column: _read(column, field) for column, field in zip(columns, line, strict=True)})
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; evaluate the runs again.") from error
    return rows


def _read(column: str, field: str) -> str | int | float | None:
    if column in TEXT:
        return field
    if field == "":
        return None
    return int(field) if column in WHOLE else float(field)


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return str(value)
