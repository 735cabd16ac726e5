"""pending_labels: which labels no completed round has learned, and whether they deserve one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .round_job import LabelSource


def unreadable_labels(
    datastore: LabelSource, labels: Mapping[str, str], learned: Mapping[str, str]
) -> set[str]:
    """Of the labels that differ from the learned ones, those whose file cannot be opened now.

    Args:
        datastore: Asked for the files.
        labels: Image id -> SHA-256 of its final label.
        learned: The same, as the last completed round read them.
    """
    return {i for i in labels if learned.get(i) != labels[i] and not _opens(datastore, i)}


def deserve_round(
    labels: Mapping[str, str], learned: Mapping[str, str], unreadable: set[str], min_labels: int
) -> bool:
    """Whether enough labels are new, replaced or gone since the last completed round.

    One that cannot be read stays pending, but no round could learn it: it would start one at every start of
    the server.
    """
    pending = {image_id for image_id, _ in labels.items() ^ learned.items()} - unreadable
    return bool(labels) and len(pending) >= max(1, min_labels)


def _opens(datastore: LabelSource, image_id: str) -> bool:
    try:
        with Path(datastore.get_label_uri(image_id, "final")).open("rb"):
            return True
    except Exception:  # the datastore's own exceptions differ; in any case there is nothing to learn from
        return False
