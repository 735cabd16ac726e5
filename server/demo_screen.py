"""What the demo shows in the terminal: progress bars, and a table that grows by a line per round."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table


@dataclass(frozen=True)
class RoundResult:
    """What one round brought, measured on the held-out cases.

    Attributes:
        labeled: Distinct final labels the round took in.
        dice: Mean Dice, in [0, 1].
        hd95_mm: Mean 95th percentile of the surface distance.
        error_auroc: How well the uncertainty finds the wrong voxels, in [0, 1]; None without any error.
        seconds: Duration of the round.
        promoted: Whether its model went live.
        dice_by_case: Dice of each held-out case.
    """

    labeled: int
    dice: float
    hd95_mm: float
    error_auroc: float | None
    seconds: float
    promoted: bool = True
    dice_by_case: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The round's entry in demo.json."""
        return {
            "labeled": self.labeled,
            "dice": round(self.dice, 4),
            "error_auroc": None if self.error_auroc is None else round(self.error_auroc, 4),
            "seconds": round(self.seconds, 1),
        }


class DemoScreen:
    """The terminal. Where the output is no terminal, plain lines take the place of the moving parts."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeElapsedColumn(),
            console=self.console,
        )
        self.results: list[RoundResult] = []

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Keep table and bars at the foot of the terminal while the demo runs."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, get_renderable=self._foot, refresh_per_second=6):
            yield

    def say(self, text: str) -> None:
        """Print a line above the moving parts."""
        self.console.print(text)

    @contextlib.contextmanager
    def bar(self, description: str, total: float | None = None) -> Iterator[Bar]:
        """A progress bar for as long as the block runs; `total` None where the end is not known."""
        if not self.console.is_terminal:
            self.console.print(description)
        task = self.progress.add_task(description, total=total, note="")
        try:
            yield Bar(self.progress, task)
        finally:
            self.progress.remove_task(task)

    def add(self, result: RoundResult) -> None:
        """Add a round's line to the table."""
        self.results.append(result)
        if not self.console.is_terminal:
            self.console.print(
                "  ".join(f"{name} {value}" for name, value in zip(COLUMNS, cells(result), strict=True))
            )

    def table(self) -> Table:
        """The rounds so far."""
        table = Table(title="Held-out cases after each round", title_justify="left", title_style="bold")
        for name in COLUMNS:
            table.add_column(name, justify="right")
        for result in self.results:
            table.add_row(*cells(result), style=None if result.promoted else "dim")
        return table

    def _foot(self) -> Group:
        return Group(*([self.table()] if self.results else []), self.progress)


@dataclass
class Bar:
    """One progress bar."""

    progress: Progress
    task: TaskID

    def set(self, done: float, total: float | None = None, note: str = "") -> None:
        """Move the bar to `done` of `total`, with a short note beside it."""
        self.progress.update(self.task, completed=done, total=total, note=note)


COLUMNS = ("labels", "Dice", "95HD mm", "error AUROC", "seconds")


def cells(result: RoundResult) -> tuple[str, ...]:
    """The table's line for a round; a round whose model did not go live is marked."""
    return (
        str(result.labeled),
        f"{result.dice:.3f}" + ("" if result.promoted else " (kept)"),
        f"{result.hd95_mm:.1f}",
        "-" if result.error_auroc is None else f"{result.error_auroc:.3f}",
        f"{result.seconds:.0f}",
    )
