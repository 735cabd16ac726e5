"""round_runner: the work of one round around its worker: the job before it, the model version after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .model_folders import StagedVersion
from .precedence import lock_file
from .publication import decide
from .registry import ModelRegistry
from .roles import RoleSplit
from .round_job import LabelSource, build_job, work_folder
from .round_record import VALIDATE, Round
from .settings import AppSettings
from .worker_process import Event, WorkerOutcome, WorkerProcess
from .workspace import Workspace, write_json_atomic

NICE = 10


class Worker(Protocol):
    """What runs a round; `WorkerProcess` in real use."""

    def run(self) -> WorkerOutcome:
        """Run to the end."""

    def stop(self) -> None:
        """Ask for an early end; returns at once."""


WorkerFactory = Callable[[dict[str, Any], Callable[[Event], None]], Worker]


class Candidate(NamedTuple):
    """What a completed round would leave.

    Attributes:
        staged: The version to be.
        promoted: Whether it is to go live.
        reason: The sentence that says why, and which cases were set aside.
        metrics: As in `Round`.
        compared_with: As in `Round`.
        calibration: As in `Round`.
        used: Ids of the labeled cases used, sorted.
        read: Image id -> SHA-256 of the label file as the worker read it, set-aside cases included.
        set_aside: Image id -> why the round went on without it.
    """

    staged: StagedVersion
    promoted: bool
    reason: str
    metrics: dict[str, Any] | None
    compared_with: str | None
    calibration: dict[str, Any] | None
    used: list[str]
    read: dict[str, str]
    set_aside: dict[str, str]


class RoundRunner:
    """Builds the workers of rounds and keeps their results; holds no lock and no state of its own."""

    def __init__(
        self,
        datastore: LabelSource,
        registry: ModelRegistry,
        roles: RoleSplit,
        workspace: Workspace,
        settings: AppSettings,
        make_worker: WorkerFactory | None = None,
    ) -> None:
        self._datastore, self._registry, self._roles = datastore, registry, roles
        self._workspace, self._settings = workspace, settings
        self._make_worker = make_worker or self._worker_process

    def prepare(self, entry: Round, on_event: Callable[[Event], None]) -> tuple[Worker, int]:
        """The worker, not started, of a round that has claimed its labels; and the size of its pool."""
        job = build_job(entry, self._datastore, self._registry, self._roles, self._workspace, self._settings)
        return self._make_worker(job, on_event), len(job["unlabeled"])

    def candidate(self, entry: Round, result: Event) -> Candidate:
        """Compare what a worker made with the live version, and put it into place as a version to be."""
        set_aside = {**entry.set_aside, **result["set_aside"]}
        used = sorted(set(result["read"]) - set(set_aside))
        roles = self._roles.assign_all(used)
        validating = sum(role == VALIDATE for role in roles.values())
        metrics, compared_with, error = self._against_live(result)
        margin = self._settings.publish_margin
        promoted, reason = decide(result["candidate"], metrics, margin, validating, compared_with)
        if error:
            promoted, reason = False, error
        record = {**_record(entry, result, used, roles, reason), "compared_with": compared_with}
        staged = self._registry.stage(Path(result["checkpoint"]), entry.id, metrics, record)
        if set_aside:
            cases = "; ".join(f"{image_id}: {why}" for image_id, why in sorted(set_aside.items()))
            reason = f"{reason.removesuffix('.')}. Set aside: {cases}"
        read = dict(result["read"])
        calibration = result.get("calibration")
        return Candidate(staged, promoted, reason, metrics, compared_with, calibration, used, read, set_aside)

    def _against_live(self, result: Event) -> tuple[dict[str, Any] | None, str | None, str]:
        """The round's metrics with `published_before` of the version that is live now, that version, and a
        sentence if it cannot be measured.

        A round compares with the version that was live when it began. A rollback meanwhile changes that; so
        does damage to that version's files, which may leave none to compare with.
        """
        metrics, compared_with = result["metrics"], result["published_version"]
        while metrics is not None and (live := self._registry.published()) != compared_with:
            if live is None:
                return {**metrics, "published_before": None}, None, ""
            job = {
                "command": "compare",
                "published": str(self._registry.path(live)),
                "labels": list(self._settings.labels),
                "device": self._settings.device,
                "threads": self._settings.threads,
                "inference_lock": str(lock_file(self._workspace.root)),
                "cases": result["validation"],
            }
            outcome = self._make_worker(job, lambda event: None).run()
            compared_with = live
            metrics = {**metrics, "published_before": (outcome.result or {}).get("published_before")}
            if outcome.result is None:
                why = (
                    f"Not published: version {live} was made live during the round, and measuring it to "
                    f"compare with failed ({outcome.error}). Publish this version by hand, or start a round."
                )
                return metrics, live, why
        return metrics, compared_with if metrics is not None else None, ""

    def discard_state(self) -> None:
        """Drop the saved training state of a round that is done, or may have failed on it."""
        (work_folder(self._workspace) / "state.pt").unlink(missing_ok=True)

    def _worker_process(self, job: dict[str, Any], on_event: Callable[[Event], None]) -> Worker:
        file = work_folder(self._workspace) / f"{job['command']}.json"
        write_json_atomic(file, job)
        arguments = [job["command"], "--job", str(file)]
        return WorkerProcess(arguments, nice=NICE, threads=self._settings.threads, on_event=on_event)


def read_progress(event: Event) -> tuple[dict[str, Any], str]:
    """A worker's progress event as `progress` of the round, and as one line for the host's task view."""
    step, steps, eta = event["step"], event["steps"], float(event["eta_s"])
    loss = event.get("losses", {}).get("total")
    shown = (
        "validating, " if event.get("phase") == "validate" else "" if loss is None else f"loss {loss:.4f}, "
    )
    line = f"step {step}/{steps} {shown}{eta:.0f} s left"
    return {"step": step, "steps": steps, "eta_s": round(eta, 1)}, line


def _record(
    entry: Round, result: Event, used: list[str], roles: dict[str, str], reason: str
) -> dict[str, Any]:
    """What the registry keeps beside a version."""
    kept = ("candidate", "calibration", "config", "precision", "seed", "steps", "seconds", "cpu_seconds")
    record = {key: result.get(key) for key in kept}
    record["data"] = [
        {"id": image_id, "label_sha256": result["read"][image_id], "role": roles[image_id]}
        for image_id in used
    ]
    return {**record, "unlabeled": entry.unlabeled, "reason": reason}
