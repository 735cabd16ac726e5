"""pending_labels: the final labels that no completed round has learned, and whether they deserve one."""

from __future__ import annotations

from pathlib import Path

from .round_job import LabelSource


class PendingLabels:
    """Compares the final labels with those that the last completed round has read.

    Attributes:
        learned: Image id -> SHA-256 of the label as that round read it.
    """

    def __init__(self, datastore: LabelSource, min_labels: int, learned: dict[str, str]) -> None:
        self._datastore, self._min_labels = datastore, max(1, min_labels)
        self.learned = learned

    def unreadable(self, labels: dict[str, str]) -> set[str]:
        """Of the pending labels, those whose file cannot be opened now; asks the datastore."""
        learned = self.learned
        return {i for i in labels if learned.get(i) != labels[i] and not self._opens(i)}

    def deserve_round(self, labels: dict[str, str], unreadable: set[str]) -> bool:
        """Whether enough labels are new, replaced or gone since the last completed round.

        One that cannot be read stays pending, but no round could learn it: it would start one at every start
        of the server.
        """
        differing = labels.items() ^ self.learned.items()
        pending = {image_id for image_id, _ in differing} - unreadable
        return bool(labels) and len(pending) >= self._min_labels

    def _opens(self, image_id: str) -> bool:
        try:
            with Path(self._datastore.get_label_uri(image_id, "final")).open("rb"):
                return True
        except Exception:  # the datastore's own exceptions differ; in any case there is nothing to learn from
            return False
