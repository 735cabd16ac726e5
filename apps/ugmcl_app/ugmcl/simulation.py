"""simulation: expert labels revealed round by round, to see how many of them a way of choosing needs.

An arm is a way of choosing the next cases together with a way of training on them. All arms of a seed begin
with the same labels, drawn by the seed; after that, each round starts from the model of the one before, as
the server's rounds do. Unlike there, no label is kept back for validation, and the model of a round is its
last checkpoint, never one chosen on test cases.

A round is known by all that went into it, the rounds before it included, so arms that are still alike share
their rounds, and a round that was interrupted or done is found again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .case_score import score_case
from .checkpoint import Checkpoint, load_checkpoint
from .config import replace
from .experiment import Experiment, model_of, read_record, train_experiment, write_record
from .inference import Predictor
from .pack import Pack
from .precision import Precision
from .provenance import provenance
from .simulation_measures import dice_of_cases, run_with_all_labels
from .simulation_plan import ARMS, Settings, choose, label_order
from .trainer import Progress

SEED_STRIDE = 1000
"""Round r of seed s trains with the seed `SEED_STRIDE * s + r`: each round draws anew, as in the server."""


class Simulation:
    """A folder of rounds, one arm's round at a time."""

    def __init__(
        self,
        pack: Pack,
        work: Path,
        settings: Settings,
        precision: Precision,
        *,
        commit: str | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Callable[[str], Callable[[Progress], None] | None] = lambda _: None,
    ) -> None:
        """Open or go on.

        Args:
            pack: The data set.
            work: Takes `rounds/<name>-<fingerprint>/` and `arms/<data set>_<arm>_seed<k>.json`.
            settings: What all arms share.
            precision: Number format and device.
            commit: Of this code, where git cannot tell.
            should_stop: Asked after every training step, scored and evaluated case.
            progress: Gives what is called after every training step, by a name of the round.
        """
        self.pack, self.work, self.settings, self.precision = pack, work, settings, precision
        self._commit, self._stop, self._progress = commit, should_stop, progress

    def _identity(self, arm: str) -> str:
        return self.settings.identity(ARMS[arm], self.pack, self.precision)

    def arm_file(self, arm: str, seed: int) -> Path:
        """Where an arm's rounds are recorded."""
        return self.work / "arms" / f"{self.pack.data_set}_{arm}_seed{seed}.json"

    def refuse_other_settings(self, arms: Sequence[str], seeds: Sequence[int]) -> None:
        """Look before anything starts.

        Raises:
            ValueError: If an arm's file is of other settings.
        """
        other = [
            f"{arm} (seed {seed})"
            for arm in arms
            for seed in seeds
            if (found := read_record(self.arm_file(arm, seed))) is not None
            and found.get("settings") != self._identity(arm)
        ]
        if other:
            raise ValueError(
                f"{self.work} holds arms of other settings: {', '.join(other[:5])}. Their steps, labels, "
                "pack, configuration, number format or threads differ; give another --work."
            )

    def next_round(self, arm: str, seed: int, before: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """Do an arm's next round, or find it done, and record it in the arm's file.

        Args:
            arm: A name of `ARMS`.
            seed: Of the first labels, the random order and the training.
            before: The records of the arm's rounds so far; fewer than `Settings.labels`, none for "all".

        Returns:
            The round's record, or `None` when `should_stop` ended it.
        """
        if ARMS[arm].strategy == "all" and self.settings.reference_run is not None:
            record = self._adopted(self.settings.reference_run)
        else:
            chosen = self._chosen(arm, seed, before)
            if chosen is None:
                return None
            record = self._round(arm, seed, chosen, before)
        if record is not None:
            self._note(arm, seed, [*before, record])
        return record

    def _chosen(self, arm: str, seed: int, before: Sequence[dict[str, Any]]) -> list[str] | None:
        """All labeled cases of the next round, in the order in which they were labeled."""
        pool, counts = self.pack.pool, self.settings.labels
        if ARMS[arm].strategy == "all":
            return list(pool)
        order = label_order(pool, seed)
        if not before:
            return order[: counts[0]]
        labeled: list[str] = before[-1]["labeled_ids"]
        scores: dict[str, Any] | None = {}
        if ARMS[arm].strategy != "random":
            scores = self._scores(before[-1])
        if scores is None:
            return None
        candidates = [case for case in pool if case not in set(labeled)]
        size = counts[len(before)] - counts[len(before) - 1]
        return labeled + choose(ARMS[arm].strategy, scores, candidates, size, order)

    def _scores(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """Score and features of every unlabeled case with a round's model; `None` when stopped."""
        folder = self._folder(record)
        kept = read_record(folder / "scores.json")
        if kept is not None:
            return dict(kept["scores"])
        began, scores = time.perf_counter(), {}
        predictor = Predictor(load_checkpoint(folder / f"{record['model']}.pt"), precision=self.precision)
        labeled = set(record["labeled_ids"])
        for case in self.pack.unlabeled([name for name in self.pack.pool if name not in labeled]):
            found = score_case(predictor, self.pack.load(case)[0])
            scores[case.id] = {"score": found.score, "features": found.features.tolist()}
            if self._stop():
                return None
        seconds = round(time.perf_counter() - began, 2)
        write_record(folder / "scores.json", {"seconds": seconds, "scores": scores})
        return scores

    def _experiment(
        self, arm: str, seed: int, chosen: Sequence[str], before: Sequence[dict[str, Any]]
    ) -> Experiment:
        """A round as a run of training; its labels in the order of the pool, whatever order they came in."""
        settings, supervised = self.settings, ARMS[arm].supervised
        config = settings.config(ARMS[arm])
        steps = settings.steps if before else settings.first_steps
        steps = settings.reference_steps if ARMS[arm].strategy == "all" else steps
        labeled = [case for case in self.pack.pool if case in set(chosen)]
        rest = [case for case in self.pack.pool if case not in set(chosen)]
        after = before[-1]["fingerprint"] if before else ""
        format_ = f"{self.precision.name} {self.precision.device.partition(':')[0]}"
        return Experiment(
            f"{self.pack.data_set}_{len(labeled)}labels",
            "supervised" if supervised else settings.method,
            SEED_STRIDE * seed + len(before),
            replace(config, train={"steps": steps}),
            self.pack.cases(labeled),
            self.pack.unlabeled(rest) if config.uses_unlabeled else [],
            self.pack.cases(self.pack.test[: settings.test]),
            threads=settings.threads,
            origin=f"{self.pack.digest} {format_} {json.dumps(config.to_dict()['infer'])} {after}",
        )

    def _folder(self, record: dict[str, Any]) -> Path:
        return self.work / "rounds" / f"{record['name']}-{record['fingerprint']}"

    def _round(
        self, arm: str, seed: int, chosen: list[str], before: Sequence[dict[str, Any]]
    ) -> dict[str, Any] | None:
        run = self._experiment(arm, seed, chosen, before)
        role = model_of(run.config)
        record: dict[str, Any] = {"name": run.name, "fingerprint": run.fingerprint, "model": role}
        folder = self._folder(record)
        done = read_record(folder / "round.json")
        if done is not None:
            return {**done, "labeled_ids": chosen}
        start = None
        if before:
            start = load_checkpoint(self._folder(before[-1]) / f"{before[-1]['model']}.pt")
        report = self._progress(f"{arm}, seed {seed}, {len(chosen)} labels")
        trained = train_experiment(
            run, self.pack.load, folder, self.precision, report, self._stop, warm_start=start
        )
        if trained is None:
            return None
        measured = self._measured(load_checkpoint(folder / f"{role}.pt"))
        if measured is None:
            return None
        origin = provenance(self.precision.device)
        origin["commit"] = origin["commit"] or self._commit
        record |= {"labels": len(chosen), "labeled_ids": chosen, **trained, **measured, "provenance": origin}
        write_record(folder / "round.json", record)
        return record

    def _measured(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        began = time.perf_counter()
        cases = self.pack.cases(self.pack.test[: self.settings.test])
        found = dice_of_cases(checkpoint, cases, self.pack, self.precision, self._stop)
        if found is None:
            return None
        return {"test": found, "evaluation_seconds": round(time.perf_counter() - began, 2)}

    def _adopted(self, folder: Path) -> dict[str, Any] | None:
        """A finished run with all labels as the reference's only round."""
        run, checkpoint = run_with_all_labels(folder, self.pack, self.settings.supervised)
        measured = self._measured(checkpoint)
        if measured is None:
            return None
        kept = ("name", "fingerprint", "model", "labeled_ids", "seconds", "cpu_seconds", "steps", "precision",
                "provenance")  # fmt: skip
        return {**{name: run[name] for name in kept}, "labels": len(self.pack.pool), **measured}

    def _note(self, arm: str, seed: int, rounds: Sequence[dict[str, Any]]) -> None:
        """The arm's file, replaced after each of its rounds."""
        path = self.arm_file(arm, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        planned = [len(self.pack.pool)] if ARMS[arm].strategy == "all" else list(self.settings.labels)
        record = {
            "data_set": self.pack.data_set,
            "arm": arm,
            "seed": seed,
            "strategy": ARMS[arm].strategy,
            "method": "supervised" if ARMS[arm].supervised else self.settings.method,
            "planned": planned,
            "settings": self._identity(arm),
            "rounds": list(rounds),
        }
        known = read_record(path)
        if known is None or len(known["rounds"]) < len(rounds):  # rounds found again one by one stay recorded
            write_record(path, record)
