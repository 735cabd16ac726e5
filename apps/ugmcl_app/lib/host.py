"""host: every place where the stock MONAI Label host is bent to this app, each with its why.

(The two import repairs that must come before the host's first line are in `pydicom_alias.py`.)
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

import monailabel.endpoints.train
import monailabel.interfaces.app
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask as StockAsyncTask

from .errors import Refusal
from .round_record import CANCELLED, DONE, FAILED, PAUSED, QUEUED, RUNNING, Round
from .rounds import RoundQueue

logger = logging.getLogger(__name__)

_TASK_STATUS = {
    QUEUED: "SUBMITTED",
    PAUSED: "SUBMITTED",
    RUNNING: "RUNNING",
    DONE: "DONE",
    FAILED: "ERROR",
    CANCELLED: "STOPPED",
}


def install(app: Any) -> None:
    """Bend the host for this app; called once by the app's constructor. Calling it again changes nothing.

    * Stock training starts a process per request, lets a second request fail with 429 while one runs, and
      forgets its tasks with the server. Our rounds are one queue fed by labels as well as requests, so the
      names through which the host's train routes and `async_training` reach that machinery are pointed at the
      queue.
    * Stock scoring starts a process after every training and *every next-sample request*; our scores come
      from the round queue's own background worker.
    """
    monailabel.endpoints.train.AsyncTask = RoundTasks
    monailabel.interfaces.app.AsyncTask = RoundTasks
    app._auto_update_scoring = False


class RoundTasks(StockAsyncTask):  # type: ignore[misc]
    """The host's task interface, with "train" answered by the app's round queue and all else passed on."""

    @staticmethod
    def run(
        method: str,
        request: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        force_sync: bool = False,
        enqueue: bool = False,
    ) -> tuple[Any, str | None]:
        """Ask for a round: the waiting one, as a stock task; with `force_sync` after it has ended.

        Raises:
            Refusal: 404 for an unknown trainer; 409 when no image has a final label.
        """
        queue = _queue() if method == "train" else None
        if queue is None:
            return StockAsyncTask.run(method, request, params, force_sync, enqueue)
        trainer = (request or {}).get("model")
        known = list(app_instance()._trainers)
        if trainer not in known:
            raise Refusal(404, f"There is no trainer '{trainer}'. Known trainers: {', '.join(known)}.")
        entry = queue.request("Requested by a client.")
        if force_sync:
            entry = queue.wait(entry)
        return task_of(entry, queue), None

    @staticmethod
    def status(
        method: str,
        all: bool = False,  # noqa: A002 - the host's name
        check_if_running: bool = False,
    ) -> tuple[Any, str | None]:
        """The running round, else the waiting, else the last; all with `all`; or None and the reason."""
        queue = _queue() if method == "train" else None
        if queue is None:
            return StockAsyncTask.status(method, all, check_if_running)
        current = queue.current()
        if check_if_running:
            # A waiting round counts: a client that polls right after its request must not take it for
            # finished.
            return (
                (task_of(current, queue), None) if current else (None, "No Train Tasks are currently Running")
            )
        rounds = queue.rounds()
        if not rounds:
            return None, "No Train Tasks Found"
        if all:
            return [task_of(entry, queue) for entry in rounds], None
        return task_of(current or rounds[-1], queue), None

    @staticmethod
    def stop(method: str) -> Any:
        """Cancel the running round and the waiting one; None when there is none."""
        queue = _queue() if method == "train" else None
        if queue is None:
            return StockAsyncTask.stop(method)
        entry = queue.cancel()
        return None if entry is None else task_of(entry, queue)


def task_of(entry: Round, queue: RoundQueue) -> dict[str, Any]:
    """A round in the shape of a stock task, plus `round` (its id) and `progress`.

    Returns:
        `id`, `status` (SUBMITTED, RUNNING, DONE, ERROR or STOPPED), `request`, `start_ts` and `end_ts` (local
        time, the host's format; `end_ts` once ended), `details` (last 20 lines), `round`, `progress`.
    """
    lines = queue.details(entry)
    if entry.reason:
        lines = [*lines, entry.reason][-20:]
    task = {
        "id": entry.id,
        "status": _TASK_STATUS[entry.status],
        "request": {"model": "ugmcl"},
        "start_ts": _host_time(entry.started_at or entry.created_at),
        "details": lines,
        "round": entry.id,
        "progress": entry.public()["progress"],
    }
    if entry.finished_at is not None:
        task["end_ts"] = _host_time(entry.finished_at)
    return task


def _queue() -> RoundQueue | None:
    """The round queue of the running app; None for another app in this process: it keeps stock tasks."""
    # Not by isinstance: the host loads `lib` anew for every app it opens, so one class may exist twice.
    queue: RoundQueue | None = getattr(app_instance(), "rounds", None)
    return queue


def _host_time(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")
