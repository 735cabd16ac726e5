"""Which journeys passed, in a file that holds after a crash too."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class JourneyRecord:
    """Gathers the reports of tests by journey, and writes the file anew after each.

    Args:
        path: `{journey: {"passed", "seconds"}}`; journeys that this run does not touch stay as they were.
    """

    path: Path
    _failed: dict[str, bool] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _skipped: set[str] = field(default_factory=set)

    def add(self, journey: str, outcome: str, seconds: float) -> None:
        """Take in one phase (set-up, call or tear-down) of a test of this journey."""
        if outcome == "skipped":
            self._skipped.add(journey)
        self._failed[journey] = self._failed.get(journey, False) or outcome == "failed"
        self._seconds[journey] = self._seconds.get(journey, 0.0) + seconds
        self._write()

    def _write(self) -> None:
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = {}
        for journey, failed in self._failed.items():
            kept.pop(journey, None)
            if failed or journey not in self._skipped:
                kept[journey] = {"passed": not failed, "seconds": round(self._seconds[journey], 1)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(beside, self.path)
