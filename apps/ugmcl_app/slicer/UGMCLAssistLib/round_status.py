"""What the reader should know of the model and of the round that trains the next one, in a line or two."""

from __future__ import annotations

from typing import Any, NamedTuple


class RoundStatus(NamedTuple):
    """Where the learning stands.

    Attributes:
        model_version: The published one; empty before the first.
        labels: Final labels that the published model has learned from and been validated on.
        running: Whether a round runs or waits.
        fraction: Of the running round's steps, in [0, 1].
        text: All of it for the panel.
    """

    model_version: str
    labels: int
    running: bool
    fraction: float
    text: str


def round_status(rounds: list[dict[str, Any]], models: list[dict[str, Any]]) -> RoundStatus:
    """Read the answers of `/rounds` and `/models`."""
    version = next((str(entry["version"]) for entry in models if entry.get("published")), "")
    made_by = next((entry for entry in reversed(rounds) if entry.get("model_version") == version), None)
    labels = int(made_by["labeled"]) if version and made_by else 0
    current = next((entry for entry in rounds if entry["status"] == "running"), None)
    waiting = any(entry["status"] == "queued" for entry in rounds)
    lines = [_of_model(version, labels, made_by)]
    if current is not None:
        lines.append(_of_running(current))
    elif waiting:
        lines.append("A round waits to start.")
    elif rounds:
        lines.append(_of_ended(rounds[-1]))
    return RoundStatus(
        version, labels, current is not None or waiting, _fraction(current or {}), "\n".join(lines)
    )


def _of_model(version: str, labels: int, made_by: dict[str, Any] | None) -> str:
    if not version:
        return "No model yet: draw and submit the first label."
    dice = _best_dice((made_by or {}).get("metrics"))
    quality = "" if dice is None else f", validation Dice {dice:.2f}"
    return f"Model {version}: {labels} label{'' if labels == 1 else 's'}{quality}."


def _of_running(entry: dict[str, Any]) -> str:
    progress = entry.get("progress") or {}
    if not progress.get("steps"):  # the unlabeled scans are not counted yet either
        return f"Round {entry['id']} is being prepared, with {entry['labeled']} labels."
    left = progress.get("eta_s")
    rest = "" if left is None else f", {round(left)} s left"
    return (
        f"Round {entry['id']} trains on {entry['labeled']} labels and {entry['unlabeled']} unlabeled scans: "
        f"step {progress.get('step', 0)} of {progress['steps']}{rest}."
    )


def _of_ended(entry: dict[str, Any]) -> str:
    return f"Last round {entry['id']}: {entry.get('reason') or entry['status']}"


def _best_dice(metrics: dict[str, Any] | None) -> float | None:
    found = [(metrics or {}).get(role) or {} for role in ("student", "teacher")]
    values = [float(scores["dice"]) for scores in found if scores.get("dice") is not None]
    return max(values, default=None)


def _fraction(entry: dict[str, Any]) -> float:
    progress = entry.get("progress") or {}
    steps = progress.get("steps") or 0
    return min(1.0, progress.get("step", 0) / steps) if steps else 0.0
