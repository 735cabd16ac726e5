"""`simulate evaluate`: the CSV files of a folder of simulated rounds, added to what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.evaluation.csv_files import SIMULATION_COLUMNS, Row, read_rows, write_rows
from ugmcl.experiment import read_record

Rows = dict[str, list[Row]]


def evaluate_simulation(work: Path, out: Path, say: Callable[[str], None], *, replace: bool = False) -> None:
    """Write the rounds of all arms as rows; arms and seeds that only `out` knows are kept.

    Args:
        work: Folder of `simulate run`, which may still be running.
        out: Takes `simulation_rounds.csv` and `simulation_cases.csv`.
        say: Told one line an arm and seed.
        replace: Whether rows of an arm with other settings are dropped.

    Raises:
        ValueError: If there is no round, a CSV is damaged, or it has rows of an arm with other settings.
    """
    rows: Rows = {name: read_rows(out, name, optional=True) for name in SIMULATION_COLUMNS}
    arms = [record for path in sorted((work / "arms").glob("*.json")) if (record := read_record(path))]
    if not arms:
        raise ValueError(f"{work} holds no round of a simulation; `simulate run` makes them.")
    for arm in arms:
        merge_arm(rows, arm, out, replace)
        state = f"{len(arm['rounds'])} of {len(arm['planned'])} rounds"
        say(f"{arm['data_set']} {arm['arm']}, seed {arm['seed']}: {state}")
    for name, part in rows.items():
        write_rows(out, name, sorted(part, key=_place))


def merge_arm(rows: Rows, arm: dict[str, Any], out: Path, replace: bool) -> None:
    """Put the rows of one arm and seed in the place of those that are there.

    Raises:
        ValueError: If rows of the arm have other settings and are not to be replaced.
    """
    same_arm = [row for row in rows["simulation_rounds"] if _is_of(row, arm)]
    other = [row for row in same_arm if row["settings"] != arm["settings"]]
    if other and not replace:
        raise ValueError(
            f"{out} has {arm['arm']} on {arm['data_set']} with other settings (commit {other[0]['commit']}, "
            f"{other[0]['steps']} steps); give another --out, or --replace to drop those rows."
        )
    dropped = {(arm["data_set"], arm["arm"], row["seed"]) for row in other}
    dropped.add((arm["data_set"], arm["arm"], arm["seed"]))
    for name, part in rows.items():
        rows[name] = [row for row in part if (row["data_set"], row["arm"], row["seed"]) not in dropped]
    before: set[str] = set()
    for one in arm["rounds"]:
        identity = {name: arm[name] for name in ("data_set", "arm", "seed")} | {"labels": one["labels"]}
        rows["simulation_rounds"].append({**identity, **_round_row(arm, one, before)})
        rows["simulation_cases"] += [
            {**identity, "case": case, "dice": value} for case, value in one["test"].items()
        ]
        before.update(one["labeled_ids"])


def _is_of(row: Row, arm: dict[str, Any]) -> bool:
    return bool((row["data_set"], row["arm"]) == (arm["data_set"], arm["arm"]))


def _round_row(arm: dict[str, Any], one: dict[str, Any], before: set[str]) -> Row:
    origin = one["provenance"]
    # With every label there is nothing to tell about which they are.
    added = [] if arm["strategy"] == "all" else [case for case in one["labeled_ids"] if case not in before]
    return {
        "strategy": arm["strategy"],
        "method": arm["method"],
        "planned": " ".join(str(count) for count in arm["planned"]),
        "steps": one["steps"],
        "seconds": one["seconds"],
        "cpu_seconds": one["cpu_seconds"],
        "added": " ".join(added),
        "precision": one["precision"]["name"],
        "device": origin["device"],
        "commit": origin["commit"] or "",
        "versions": "; ".join(f"{name} {version}" for name, version in origin["versions"].items()),
        "settings": arm["settings"],
    }


def _place(row: Row) -> tuple[str, str, int, int, str]:
    return (row["data_set"], row["arm"], row["seed"], row["labels"], row.get("case", ""))
