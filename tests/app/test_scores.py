"""Scores of the unlabeled pool: kept, ranked, and brought up to date in the background."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib import scoring
from lib.catalogue import batch_rows, cases
from lib.drafts import DraftStore
from lib.infers import PublishedModel, UGMCLInfer
from lib.maps import MapStore
from lib.pool import scan_version
from lib.registry import ModelRegistry
from lib.scores import ScoreBoard
from lib.scoring import PoolScoring
from lib.volumes import read_volume
from lib.worker_process import Event, WorkerOutcome
from lib.workspace import Workspace
from tests.app.round_support import Studies, settings, tiny_checkpoint
from ugmcl.case_score import score_case
from ugmcl.checkpoint import load_checkpoint
from ugmcl.inference import Predictor


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "studies" / ".ugmcl")


@pytest.fixture
def scores(workspace: Workspace) -> ScoreBoard:
    return ScoreBoard(workspace)


def test_the_least_sure_case_of_the_live_version_is_the_best(scores: ScoreBoard) -> None:
    scores.put("a", 0.2, "v2")
    scores.put("b", 0.9, "v1")
    scores.put("c", 0.4, "v2")
    best = scores.best(["a", "b", "c"], "v2")
    assert best == ("c", 0.4, "v2", "")
    assert scores.best(["a", "b"], "v3") == ("b", 0.9, "v1", "")
    assert scores.best(["unscored"], "v2") is None
    assert scores.best([], "v2") is None


def test_equal_scores_are_ranked_by_id(scores: ScoreBoard) -> None:
    for image_id in ("c", "a", "b"):
        scores.put(image_id, 0.5, "v1")
    best = scores.best(["c", "b", "a"], "v1")
    assert best is not None
    assert best.id == "a"


def test_scores_outlive_the_server(scores: ScoreBoard, workspace: Workspace) -> None:
    for number in range(50):
        scores.put(f"c{number}", number / 50, "v1")
    scores.flush()
    again = ScoreBoard(workspace)
    assert again.get("c10") == ("c10", 0.2, "v1", "")
    assert again.missing({"c1": "", "new": ""}, "v1") == ["new"]
    assert again.missing({"c1": "", "new": ""}, "v2") == ["c1", "new"]


def test_a_replaced_scan_is_scored_anew(scores: ScoreBoard, workspace: Workspace) -> None:
    scores.put("a", 0.2, "v1", "100:7:a.nii.gz")
    scores.flush()
    again = ScoreBoard(workspace)
    assert again.missing({"a": "100:7:a.nii.gz"}, "v1") == []
    assert again.missing({"a": "100:8:a.nii.gz"}, "v1") == ["a"]


def test_a_file_of_scores_from_before_scans_were_noted_still_counts(workspace: Workspace) -> None:
    workspace.scores_file.write_text('{"scores": {"a": {"score": 0.25, "model_version": "v1"}}}')
    scores = ScoreBoard(workspace)
    assert scores.get("a") == ("a", 0.25, "v1", "")
    assert scores.missing({"a": "100:7:a.nii.gz"}, "v1") == []


@pytest.fixture
def scoring_of(workspace: Workspace, scores: ScoreBoard) -> Iterator[Callable[..., PoolScoring]]:
    started: list[PoolScoring] = []

    def make(studies: Studies, registry: ModelRegistry, **values: Any) -> PoolScoring:
        scoring = PoolScoring(studies, registry, workspace, scores, settings(**values))
        started.append(scoring)
        return scoring

    yield make
    for pool in started:
        pool.stop()


def wait_for(condition: Callable[[], Any], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_every_unlabeled_case_is_scored_by_the_live_version_and_training_pauses_it(
    workspace: Workspace, scores: ScoreBoard, scoring_of: Callable[..., PoolScoring], tmp_path: Path
) -> None:
    studies = Studies(tmp_path / "studies", count=4)
    studies.save_label("case00", 0)
    (studies.folder / "case03.nii.gz").write_bytes(b"not an image")
    registry = ModelRegistry(workspace)
    stray = workspace.training / "drafts" / "7-0.nii.gz"  # of a worker that was killed
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"half")
    scoring = scoring_of(studies, registry)
    scoring.pause()
    scoring.start()
    version = registry.add(tiny_checkpoint(1), "r0001", None, {})
    registry.publish(version)
    time.sleep(0.3)
    assert scoring._worker is None
    scoring.resume()
    pool = {i: scan_version(studies.get_image_uri(i)) for i in ("case01", "case02")}
    wait_for(lambda: scores.missing(pool, version) == [])
    assert scores.get("case00") is None
    wait_for(lambda: set(scoring._skipped) == {"case03"})
    assert not stray.exists()
    # What a reader who asks for one of them is answered with.
    for case in ("case01", "case02"):
        image = Path(studies.get_image_uri(case))
        draft, kept = DraftStore(workspace).find(case, image), MapStore(workspace).find(case, image)
        assert draft is not None
        assert kept is not None
        assert (draft.model_version, kept.model_version, kept.mc_samples) == (version, version, 8)
    studies.add_image("case03", 3)  # mended
    studies.add_image("case01", 11)  # replaced
    replaced = {i: scan_version(studies.get_image_uri(i)) for i in ("case01", "case03")}
    assert scores.missing(replaced, version) == ["case01", "case03"]
    with scoring._changed:
        scoring._changed.notify_all()  # what the poll does every 5 seconds
    wait_for(lambda: scores.missing(replaced, version) == [])


def test_features_are_kept_with_the_scores_and_a_batch_follows_where_batches_are_wanted(
    workspace: Workspace, scores: ScoreBoard, scoring_of: Callable[..., PoolScoring], tmp_path: Path
) -> None:
    studies = Studies(tmp_path / "studies", count=3)
    registry = ModelRegistry(workspace)
    version = registry.add(tiny_checkpoint(1), "r0001", None, {})
    registry.publish(version)
    images = {i: studies.folder / f"{i}.nii.gz" for i in studies.list_images()}
    workspace.database.write(lambda session: cases.add(session, {i: images[i].name for i in images}))
    for image_id, path in images.items():  # from when the setting was off
        scores.put(image_id, 0.5, version, scan_version(str(path)))
    scoring_of(studies, registry, diverse_batch=2).start()

    def chosen() -> tuple[str | None, list[str]]:
        with workspace.database.read() as session:
            return batch_rows.chosen(session)

    wait_for(lambda: len(chosen()[1]) == 2)
    assert chosen()[0] == version
    with workspace.database.read() as session:
        known, features = batch_rows.features_of(session, sorted(images), version)
    assert known == sorted(images)
    predictor = Predictor(load_checkpoint(registry.path(version)), "cpu")
    seen = score_case(predictor, read_volume(images["case01"])).features
    # Not to the last bit: the worker chooses its own number of threads.
    assert features[1].tolist() == pytest.approx(seen.tolist(), rel=0.02, abs=1e-3)


def test_scoring_leaves_what_the_same_model_told_a_reader(
    workspace: Workspace, scores: ScoreBoard, scoring_of: Callable[..., PoolScoring], tmp_path: Path
) -> None:
    studies = Studies(tmp_path / "studies", count=2)
    registry = ModelRegistry(workspace)
    version = registry.add(tiny_checkpoint(1), "r0001", None, {})
    registry.publish(version)
    drafts, maps = DraftStore(workspace), MapStore(workspace)
    model = PublishedModel(registry, settings())
    task = UGMCLInfer(model, maps, settings(), lambda: 1, drafts)
    image = Path(studies.get_image_uri("case00"))
    task.run({"image": str(image), "image_id": "case00", "mc_samples": 3}).label_file.unlink()
    told = drafts.find("case00", image)
    assert told is not None
    scoring_of(studies, registry).start()
    pool = {i: scan_version(studies.get_image_uri(i)) for i in studies.list_images()}
    wait_for(lambda: scores.missing(pool, version) == [])
    other = Path(studies.get_image_uri("case01"))
    wait_for(lambda: maps.find("case01", other) is not None)  # the last of the worker's events
    kept, draft = maps.find("case00", image), drafts.find("case00", image)
    assert kept is not None
    assert draft is not None
    assert (kept.mc_samples, draft.key) == (3, told.key)
    wait_for(lambda: not list((workspace.training / "drafts").iterdir()))


def test_the_stalest_scores_are_renewed_first_and_a_case_that_kills_its_worker_is_passed_over(
    workspace: Workspace, scores: ScoreBoard, scoring_of: Callable[..., PoolScoring], tmp_path: Path
) -> None:
    studies = Studies(tmp_path / "studies", count=3)
    registry = ModelRegistry(workspace)
    older, newer, version = (registry.add(tiny_checkpoint(seed), "r0001", None, {}) for seed in (1, 2, 3))
    registry.publish(version)
    scores.put("case00", 0.5, newer)
    scores.put("case01", 0.5, older)
    scoring = scoring_of(studies, registry)
    orders: list[list[str]] = []

    class Dying:
        stopped = False

        def run(self) -> WorkerOutcome:
            scoring._begun = orders[-1][0]
            return WorkerOutcome(error="The worker was ended by signal SIGKILL.")

        def stop(self) -> None:
            self.stopped = True

    def prepare(version: str, scans: dict[str, str]) -> Dying:
        orders.append(list(scans))
        return Dying()

    scoring._prepare = prepare  # type: ignore[assignment, method-assign]
    for _ in range(3):
        assert not scoring._score_missing()
    assert orders == [["case02", "case01", "case00"], ["case01", "case00"], ["case00"]]
    assert not scoring._score_missing()
    assert len(orders) == 3


def test_a_scan_that_could_not_be_scored_is_tried_again_after_a_while(
    workspace: Workspace, scores: ScoreBoard, scoring_of: Callable[..., PoolScoring], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clock, attempts, reads = [1000.0], list[list[str]](), [False]
    monkeypatch.setattr(scoring, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Worker:
        stopped = False

        def __init__(self, arguments: list[str], on_event: Callable[[Event], None], **_: Any) -> None:
            self._told = on_event
            self._cases = [case["id"] for case in json.loads(Path(arguments[-1]).read_text())["cases"]]

        def run(self) -> WorkerOutcome:
            attempts.append(self._cases)
            for case in self._cases:
                self._told({"event": "begun", "id": case})
                self._told({"event": "score", "id": case, "score": 0.5} if reads[0] else
                           {"event": "skipped", "id": case, "reason": "out of memory"})  # fmt: skip
            return WorkerOutcome(result={"event": "result"})

        def stop(self) -> None:
            self.stopped = True

    monkeypatch.setattr(scoring, "WorkerProcess", Worker)
    registry = ModelRegistry(workspace)
    registry.publish(registry.add(tiny_checkpoint(), "r0001", None, {}))
    pool = scoring_of(Studies(tmp_path / "studies", count=1), registry)
    (workspace.training / "drafts").mkdir()
    for stray in ("123-0.zip", "123-0.nii.gz"):
        (workspace.training / "drafts" / stray).write_bytes(b"of a worker that was killed")
    pool._score_missing()
    assert list((workspace.training / "drafts").glob("*")) == []
    for passed, tried in ((599.0, 1), (2.0, 2), (1199.0, 2), (2.0, 3)):
        clock[0] += passed
        pool._score_missing()
        assert len(attempts) == tried
    reads[0] = True
    clock[0] += 86400.0
    assert pool._score_missing()
    assert scores.get("case00") is not None
    assert not pool._score_missing()
    assert attempts == [["case00"]] * 4
