"""trainers: the host's training task `ugmcl`, a thin face of the round queue."""

from __future__ import annotations

from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from .round_record import DONE, RUNNING
from .rounds import RoundQueue

IGNORED_PARAMETERS = (
    "name",
    "pretrained",
    "device",
    "max_epochs",
    "early_stop_patience",
    "val_split",
    "train_batch_size",
    "val_batch_size",
    "multi_gpu",
    "gpus",
    "dataset",
    "dataloader",
    "tracking",
    "tracking_uri",
    "tracking_experiment_name",
    "client_id",
)
"""What stock viewers send with a training request; a round's numbers are the project's, not a viewer's."""


class UGMCLTrain(TrainTask):  # type: ignore[misc]
    """One round of uncertainty-guided mutual consistency learning on all labels and the unlabeled pool."""

    def __init__(self, rounds: RoundQueue) -> None:
        super().__init__(
            "Trains on all final labels together with the unlabeled images, then publishes if not worse"
        )
        self._rounds = rounds

    def config(self) -> dict[str, Any]:
        """What viewers show as options: none. Parameters that stock viewers send are accepted and ignored."""
        return {
            "note": "A round follows every label by itself; its settings are the server's (--conf). "
            f"Accepted and ignored: {', '.join(IGNORED_PARAMETERS)}."
        }

    def stats(self) -> dict[str, Any]:
        """The running or last completed round, in the names stock viewers read from `/info/`; {} before any.

        While one runs there is no `total_time`, by which 3D Slicer knows that its progress bar may move, and
        `best_metric` is that of the last completed one.
        """
        rounds = self._rounds.rounds()
        done = [entry for entry in rounds if entry.status == DONE]
        running = next((entry for entry in rounds if entry.status == RUNNING), None)
        measured = [m["dice"] for m in (done[-1].metrics or {}).values() if m is not None] if done else []
        if running is not None:
            return {
                "round": running.id,
                "model_version": None,
                "epoch": running.progress["step"],
                "total_epochs": max(1, running.progress["steps"]),  # not planned yet: 0
                "best_metric": max(measured, default=0.0),
                "start_ts": running.started_at,
            }
        if not done:
            return {}
        last = done[-1]
        return {
            "round": last.id,
            "model_version": last.model_version,
            "epoch": last.progress["step"],
            "total_epochs": last.progress["steps"],
            "best_metric": max(measured, default=0.0),
            "start_ts": last.started_at,
            "total_time": last.duration_s,
        }

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Run one round and wait for it; returns the round as `GET /rounds` shows it.

        Raises:
            Refusal: 409 when no image has a final label.
        """
        return self._rounds.run_now().public()
