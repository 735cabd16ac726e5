"""What the server acknowledged, and whether it is all still there, once and byte for byte."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from lib.catalogue.label_store import LabelStore

EXTENSION = ".nii.gz"


@dataclass
class Ledger:
    """Labels by case, in the order in which they were acknowledged. Thread-safe.

    Attributes:
        acknowledged: SHA-256 of each label that was answered with 200.
        attempted: Of each label that was sent, answered or not.
        lost, doubled: What `check` found missing, or there more than once; as `case/sha`.
    """

    acknowledged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    attempted: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    lost: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def attempt(self, case: str, content: bytes) -> str:
        """A label is about to be sent."""
        digest = LabelStore.digest(content)
        with self._lock:
            self.attempted[case].add(digest)
        return digest

    def acknowledge(self, case: str, digest: str) -> None:
        """The answer was 200: from now on it must be there."""
        with self._lock:
            self.acknowledged[case].append(digest)

    @property
    def count(self) -> int:
        with self._lock:
            return sum(len(digests) for digests in self.acknowledged.values())

    def acknowledged_of(self, case: str) -> list[str]:
        """What was acknowledged of a case until now; to be asked before its history is."""
        with self._lock:
            return list(self.acknowledged[case])

    def check(
        self,
        case: str,
        acknowledged: list[str],
        versions: list[dict[str, Any]],
        store: LabelStore,
        current: bytes,
    ) -> None:
        """Compare one case's history, kept bytes and label in effect with what was acknowledged.

        Args:
            case: The case.
            acknowledged: Its `acknowledged_of`, before the rest was asked for.
            versions: Its history, oldest first.
            store: Where the bytes of all versions are kept.
            current: The label file in effect, unchanged while the history was asked for.
        """
        found = [version["sha256"] for version in versions]
        for digest in acknowledged:
            if digest not in found or store.read(digest, EXTENSION) is None:
                self.lost.add(f"{case}/{digest[:12]}")
        self.doubled |= {f"{case}/{digest[:12]}" for digest in found if found.count(digest) > 1}
        active = [version["sha256"] for version in versions if version["state"] == "active"]
        in_effect = LabelStore.digest(current)
        with self._lock:
            known = in_effect in self.attempted[case]
        # Only a label that was sent later may stand in the place of the last acknowledged one.
        if active != [in_effect] or not known or in_effect in acknowledged[:-1]:
            self.lost.add(f"{case}/in effect {in_effect[:12]}, history {active}")
