"""experiment: training runs to compare, each finished once and kept as JSON, and the tables made of them.

A run that was interrupted goes on from its training state; one that was trained but not evaluated is not
trained again; a finished one is read back. All of this holds only for the same configuration and the same
cases: anything else is another run. Test cases are evaluated once, at the end; nothing is chosen on them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .config import Config
from .metrics import average
from .precision import Precision
from .provenance import provenance
from .sampling import LoadCase, TrainingCase
from .trainer import FitResult, Progress, evaluate, fit


@dataclass(frozen=True)
class Experiment:
    """One run.

    Attributes:
        group: The task, such as "binary".
        arm: What is compared within a group, such as "ug_mcl".
        seed: Of everything random.
        config: All numbers.
        labeled: Cases to learn from with labels.
        unlabeled: Cases to learn from without labels; unused by supervised training.
        test: Labeled cases for the reported figures.
        ranking: Cases neither labeled in training nor in `test`, on which the score of a scan may be chosen;
            empty for none.
        threads: CPU threads the run is to have; 0 for those the process has.
        origin: What else makes a run another run: the content of the data, the number format; may be empty.
    """

    group: str
    arm: str
    seed: int
    config: Config
    labeled: Sequence[TrainingCase]
    unlabeled: Sequence[TrainingCase]
    test: Sequence[TrainingCase]
    ranking: Sequence[TrainingCase] = ()
    threads: int = 0
    origin: str = ""

    @property
    def name(self) -> str:
        """Unique among runs that are compared."""
        return f"{self.group}_{self.arm}_seed{self.seed}"

    @property
    def fingerprint(self) -> str:
        """Changes with the configuration of training, the cases, their origin or the number of threads."""
        sets = (self.labeled, self.unlabeled, self.test, self.ranking)
        cases = [[case.id for case in one] for one in sets]
        known = [self.config.identity(), self.seed, cases, self.threads or torch.get_num_threads()]
        known += [self.origin] if self.origin else []
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]

    def network(self, path: Path) -> Checkpoint:
        """A checkpoint of this run, to be evaluated as the configuration says today."""
        return replace(load_checkpoint(path), config=self.config)

    def has_result(self, record: dict[str, Any] | None) -> bool:
        """Whether a record is of this run, evaluated as its configuration says."""
        if record is None or record.get("fingerprint") != self.fingerprint:
            return False
        return bool(record["config"]["infer"] == self.config.to_dict()["infer"])


def run_experiment(
    experiment: Experiment,
    load: LoadCase,
    folder: Path,
    precision: Precision,
    *,
    progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any] | None:
    """Train and evaluate one run, or go on with it, or read its result.

    Args:
        experiment: What to run.
        load: Reads a case.
        folder: Takes `<name>.json` when finished, and a folder with the training state and the two models.
        precision: Number format and device, the same for all runs that are compared.
        progress: Called after every training step.
        should_stop: Asked after every training step; true saves the state and ends.

    Returns:
        The run's record, or `None` when `should_stop` ended it.
    """
    finished = folder / f"{experiment.name}.json"
    record = read_record(finished)
    if record is not None and experiment.has_result(record):
        return record
    workdir = folder / f"{experiment.name}-{experiment.fingerprint}"
    trained = train_experiment(experiment, load, workdir, precision, progress, should_stop)
    if trained is None:
        return None
    record = {**_identity(experiment), **trained, **_evaluation(experiment, load, workdir, precision)}
    record.update(provenance(precision.device))
    write_record(finished, record)
    return record


def train_experiment(
    experiment: Experiment,
    load: LoadCase,
    workdir: Path,
    precision: Precision,
    progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    warm_start: Checkpoint | None = None,
) -> dict[str, Any] | None:
    """Train one run, or go on with it, or read how its training went; `None` when `should_stop` ended it.

    `workdir` then holds `student.pt`, `teacher.pt` and `trained.json`; of one fingerprint only, whose origin
    names what a `warm_start` comes from.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    trained = read_record(workdir / "trained.json")
    if trained is not None:
        return trained
    result = fit(
        experiment.config, experiment.labeled, experiment.unlabeled, [], load, workdir,
        warm_start=warm_start, precision=precision, progress=progress, should_stop=should_stop,
        seed=experiment.seed,
    )  # fmt: skip
    return None if result.stopped else _keep(result, workdir)


def model_of(config: Config) -> str:
    """Whose predictions are the method's: "teacher", or "student" where no term needs a teacher."""
    return "teacher" if config.has_teacher else "student"


def _keep(result: FitResult, workdir: Path) -> dict[str, Any]:
    save_checkpoint(workdir / "teacher.pt", result.teacher)
    save_checkpoint(workdir / "student.pt", result.student)
    trained = {
        "seconds": round(result.seconds, 2),
        "cpu_seconds": round(result.cpu_seconds, 2),
        "steps": result.steps,
        "precision": result.precision,
        "set_aside": result.set_aside,
    }
    write_record(workdir / "trained.json", trained)
    return trained


def _identity(experiment: Experiment) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "group": experiment.group,
        "arm": experiment.arm,
        "seed": experiment.seed,
        "fingerprint": experiment.fingerprint,
        "model": model_of(experiment.config),
        "labeled": len(experiment.labeled),
        "unlabeled": len(experiment.unlabeled) if experiment.config.uses_unlabeled else 0,
        "config": experiment.config.to_dict(),
    }


def _evaluation(
    experiment: Experiment, load: LoadCase, workdir: Path, precision: Precision
) -> dict[str, Any]:
    """Means of both networks on the test cases, and every case of the model with its uncertainty."""
    start = time.perf_counter()
    role = model_of(experiment.config)
    model = experiment.network(workdir / f"{role}.pt")

    def measure(checkpoint: Checkpoint, cases: Sequence[TrainingCase], uncertainty: bool) -> dict[str, Any]:
        return evaluate(checkpoint, cases, load, precision=precision, uncertainty=uncertainty)

    test, ranking = measure(model, experiment.test, True), measure(model, experiment.ranking, True)
    cases = {"test": test, "ranking": ranking}
    means: dict[str, Any] = {role: average(cases["test"])}
    if role == "teacher":
        student = experiment.network(workdir / "student.pt")
        means["student"] = average(measure(student, experiment.test, False))
    return {"test": means, "cases": cases, "evaluation_seconds": round(time.perf_counter() - start, 1)}


def read_record(path: Path) -> dict[str, Any] | None:
    """A JSON file, or `None` where there is none or only a damaged one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write JSON atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def tabulate(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Group to arm to figures over its seeds, Dice of "the model": the teacher, or the supervised student.

    `dice_std` is the sample standard deviation over seeds, 0 for one seed; all other figures are means.
    """
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        table.setdefault(record["group"], {}).setdefault(record["arm"], {})
    for group, arms in table.items():
        for arm in arms:
            runs = [record for record in records if (record["group"], record["arm"]) == (group, arm)]
            arms[arm] = _figures(sorted(runs, key=lambda record: int(record["seed"])))
    return table


def _figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    model = runs[0]["model"]
    scores = [run["test"][model]["dice"] for run in runs]

    def mean(name: str, role: str = model) -> float | None:
        values = [run["test"][role][name] for run in runs if name in run["test"].get(role, {})]
        return float(np.mean(values)) if values else None

    return {
        "dice": float(np.mean(scores)),
        "dice_std": float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
        "dice_by_seed": scores,
        "seconds": float(np.mean([run["seconds"] for run in runs])),
        "seeds": [run["seed"] for run in runs],
        "model": model,
        "student_dice": mean("dice", "student"),
        "hd95_mm": mean("hd95_mm"),
        "error_auroc": mean("error_auroc"),
        "cpu_seconds": float(np.mean([run["cpu_seconds"] for run in runs])),
        "steps": [run["steps"] for run in runs],
        "labeled": runs[0]["labeled"],
        "unlabeled": runs[0]["unlabeled"],
        "precision": sorted({run["precision"]["name"] for run in runs}),
    }


def gap_closed(arms: dict[str, dict[str, Any]]) -> float | None:
    """Share of the Dice from supervised at its plateau to supervised with all labels that UG-MCL makes up.

    Taken from the better of the two supervised arms with the few labels; `None` while an arm is missing.
    """
    few = [arms[arm]["dice"] for arm in ("supervised", "supervised_plateau") if arm in arms]
    if not few or "ug_mcl" not in arms or "supervised_150" not in arms:
        return None
    gap = float(arms["supervised_150"]["dice"]) - max(few)
    return (float(arms["ug_mcl"]["dice"]) - max(few)) / gap if gap > 0 else None
