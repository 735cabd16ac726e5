"""The host's training task: one round of the queue, whatever a viewer sends along."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.errors import Refusal
from lib.registry import ModelRegistry
from lib.round_record import DONE, RUNNING, Round
from lib.rounds import RoundQueue
from lib.scores import ScoreBoard
from lib.trainers import IGNORED_PARAMETERS, UGMCLTrain
from lib.workspace import Workspace
from tests.app.round_support import ReadingWorker, Studies, settings


@pytest.fixture
def pool(tmp_path: Path) -> Studies:
    return Studies(tmp_path / "studies", count=2)


@pytest.fixture
def trainer(pool: Studies) -> UGMCLTrain:
    workspace = Workspace(pool.folder / ".ugmcl")
    registry, scores = ModelRegistry(workspace), ScoreBoard(workspace)
    return UGMCLTrain(
        RoundQueue(
            pool,
            registry,
            workspace,
            scores,
            settings(),
            make_worker=lambda job, on_event: ReadingWorker(job),
            score_pool=False,
        )
    )


def test_a_call_runs_one_round_and_ignores_what_viewers_send(pool: Studies, trainer: UGMCLTrain) -> None:
    pool.save_label("case00", 0)
    assert trainer.stats() == {}
    entry = trainer({"model": "ugmcl", **dict.fromkeys(IGNORED_PARAMETERS, "anything")}, None)
    assert (entry["status"], entry["labeled_ids"]) == ("done", ["case00"])
    assert trainer.stats()["model_version"] == entry["model_version"]


def test_a_running_round_moves_slicers_progress_bar(
    pool: Studies, trainer: UGMCLTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Round(
        "r1", DONE, metrics={"student": {"dice": 0.8, "hd95_mm": 2.0}, "teacher": None}, duration_s=9.0
    )
    running = Round("r2", RUNNING, progress={"step": 30, "steps": 120, "eta_s": 5.0})
    planning = Round("r2", RUNNING)
    monkeypatch.setattr(trainer._rounds, "rounds", lambda: [done, running])
    stats = trainer.stats()
    assert (stats["epoch"], stats["total_epochs"], stats["best_metric"]) == (30, 120, 0.8)
    assert "total_time" not in stats  # Slicer shows 0 while it is there
    monkeypatch.setattr(trainer._rounds, "rounds", lambda: [planning])
    assert trainer.stats()["total_epochs"] == 1  # Slicer divides by it


def test_without_a_label_there_is_nothing_to_train_on(pool: Studies, trainer: UGMCLTrain) -> None:
    with pytest.raises(Refusal) as refusal:
        trainer({"model": "ugmcl"}, None)
    assert refusal.value.extra == {"labeled": 0, "labels_needed": 1}


def test_its_configuration_says_that_the_settings_are_the_servers(trainer: UGMCLTrain) -> None:
    assert all(name in trainer.info()["config"]["note"] for name in IGNORED_PARAMETERS)
