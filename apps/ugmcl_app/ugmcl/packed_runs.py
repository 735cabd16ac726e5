"""packed_runs: one run of an experiment on a pack, from its start to its folder of results.

A run's folder is `<data set>_<labels>labels_<method>_seed<k>`. `run.json` is written last and marks it
finished; until then, a folder inside it named by the fingerprint holds what a killed run goes on from.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .config import Config
from .experiment import Experiment, model_of, read_record, train_experiment, write_record
from .pack import Pack
from .precision import Precision, choose_precision
from .provenance import provenance
from .run_predictions import predict_run
from .trainer import Progress


def refuse_other_runs(runs: Sequence[Experiment], work: Path) -> None:
    """Look at all folders before anything starts.

    Raises:
        ValueError: If one holds a run of another configuration, finished or not.
    """
    other = [run.name for run in runs if _is_other(run, work / run.name)]
    if other:
        raise ValueError(
            f"{work} holds other runs of the same name: {', '.join(other[:5])}. Their settings, cases, pack, "
            "number format or threads differ. Give another --work, a --suffix, or --replace to lose them."
        )


def _is_other(run: Experiment, folder: Path) -> bool:
    record = read_record(folder / "run.json")
    if record is not None:
        return record.get("fingerprint") != run.fingerprint
    return any(path != folder / _unfinished(run) for path in folder.glob("training-*"))


def _unfinished(run: Experiment) -> str:
    return f"training-{run.fingerprint}"


def kept_precision(work: Path, config: Config, device: str, name: str = "auto") -> Precision:
    """The number format of all runs of a work folder: the named one, or measured once and kept.

    Args:
        work: Takes `precision-<device>.json`.
        config: What is measured.
        device: "cpu" or "cuda...", resolved.
        name: "auto", "fp32", "bf16" or "fp16".
    """
    if name != "auto":
        # On a CPU the default layout needs no copies between convolutions and normalization.
        return Precision(name, device, name != "fp32" and device != "cpu")
    path = work / f"precision-{device.replace(':', '')}.json"
    with locked(work / ".precision.lock", wait=True):
        stored = read_record(path)
        if stored is None:
            stored = choose_precision(config, device).to_dict()
            write_record(path, stored)
    return Precision(**stored)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock that ends with the process, however it ends; false when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def run_packed(
    run: Experiment,
    pack: Pack,
    work: Path,
    precision: Precision,
    *,
    commit: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Train and predict one run, or go on with it, or read its record.

    Args:
        run: Of `packed_plan.plan`.
        pack: The data set.
        work: Takes the run's folder; it must not hold another run of that name, see `refuse_other_runs`.
        precision: Number format and device.
        commit: Of this code, where git cannot tell.
        progress: Called after every training step.
        should_stop: Asked after every training step and predicted case.

    Returns:
        The content of `run.json`, or `None` when `should_stop` ended it.
    """
    folder = work / run.name
    record = read_record(folder / "run.json")
    if record is not None and record.get("fingerprint") == run.fingerprint:
        return (
            record
            if run.has_result(record)
            else _predict_again(run, record, pack, folder, precision, should_stop)
        )
    training = folder / _unfinished(run)
    trained = train_experiment(run, pack.load, training, precision, progress, should_stop)
    if trained is None:
        return None
    start = time.perf_counter()
    evaluated = [*run.test, *run.ranking]
    predictions = training / "predictions.npz"
    if evaluated and not predict_run(run, pack.load, training, predictions, precision, should_stop):
        return None
    seconds = round(time.perf_counter() - start, 2)
    role = model_of(run.config)
    files = ["student.pt", "teacher.pt"] if role == "teacher" else ["student.pt"]
    files += ["predictions.npz"] if evaluated else []
    for name in files:  # copied, not moved: killed here, the run still finds them where it looks
        shutil.copyfile(training / name, folder / f".{name}.tmp")
        (folder / f".{name}.tmp").replace(folder / name)
    origin = provenance(precision.device)
    origin["commit"] = origin["commit"] or commit
    record = {**_record(run, pack), **trained, "prediction_seconds": seconds}
    record.update(device=origin["device"], provenance=origin)
    write_record(folder / "run.json", record)
    shutil.rmtree(training)
    return record


def _predict_again(
    run: Experiment,
    record: dict[str, Any],
    pack: Pack,
    folder: Path,
    precision: Precision,
    should_stop: Callable[[], bool],
) -> dict[str, Any] | None:
    """Scans are segmented in another way than when the run ended: the networks stay, their answers change."""
    start = time.perf_counter()
    predictions, evaluated = folder / "predictions.npz", bool(run.test or run.ranking)
    if evaluated and not predict_run(run, pack.load, folder, predictions, precision, should_stop):
        return None
    again = {"config": run.config.to_dict(), "prediction_seconds": round(time.perf_counter() - start, 2)}
    record = {**record, **again, "prediction_provenance": provenance(precision.device)}
    write_record(folder / "run.json", record)
    return record


def _record(run: Experiment, pack: Pack) -> dict[str, Any]:
    held_out = bool(run.test) and run.test[0].id not in pack.test
    return {
        "name": run.name,
        "data_set": pack.data_set,
        "labeled": len(run.labeled),
        "labeled_ids": [case.id for case in run.labeled],
        "unlabeled": len(run.unlabeled) if run.config.uses_unlabeled else 0,
        "method": run.arm,
        "seed": run.seed,
        "model": model_of(run.config),
        "evaluated_on": "hold_out" if held_out else "test",
        "pack": pack.digest,
        "fingerprint": run.fingerprint,
        "config": run.config.to_dict(),
    }
