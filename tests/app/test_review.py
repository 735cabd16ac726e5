"""Drafts of cases, and what the review page is told of a case and of the project, from real files."""

from __future__ import annotations

import json
import threading
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.datastore import FolderDatastore
from lib.drafts import DraftStore, write_draft
from lib.errors import Refusal
from lib.infers import PublishedModel, UGMCLInfer
from lib.maps import MapStore
from lib.registry import ModelRegistry
from lib.review import Review
from lib.review_history import ReviewHistory
from lib.round_record import DONE, Round
from lib.scores import ScoreBoard
from lib.settings import AppSettings
from lib.volumes import read_volume, read_voxels
from lib.worker_score import score_cases
from lib.workspace import Workspace
from tests.app.scan_support import SHAPE, block, publish_tiny_model, scan, write_nifti
from ugmcl.case_score import CaseScore
from ugmcl.inference import Prediction, Predictor
from ugmcl.precision import Precision
from ugmcl.uncertainty import UncertaintySummary


def prediction(axis: int = 0, index: int = 5) -> Prediction:
    """A block, and an uncertainty of 0.2 in one slice."""
    uncertainty = np.zeros(SHAPE, np.float32)
    uncertainty[(slice(None),) * axis + (index,)] = 0.2
    summary = UncertaintySummary(0.4, 0.1, "entropy", 2, [{"axis": axis, "index": index, "score": 1.0}])
    return Prediction(block(), uncertainty, None, summary, {}, {}, np.zeros((2, *SHAPE), np.float32))


@pytest.fixture
def drafts(project: Workspace) -> DraftStore:
    return DraftStore(project)


@pytest.fixture
def datastore(scans: Path, project: Workspace) -> Any:
    store = FolderDatastore(scans, project, {"foreground": 1})
    yield store
    project.database.close()


@pytest.fixture
def review(datastore: FolderDatastore, project: Workspace, drafts: DraftStore) -> Review:
    return Review(datastore, project.database, drafts)


def keep(drafts: DraftStore, scans: Path, version: str = "v1", **where: int) -> None:
    image = scans / "a.nii.gz"
    drafts.keep("a", image, read_volume(image), prediction(**where), version)


def submit(datastore: FolderDatastore, folder: Path, image_id: str, value: int = 0, **info: Any) -> None:
    label = block()
    label.flat[value] = 1
    datastore.save_label(image_id, str(write_nifti(folder / "label.nii.gz", label)), "final", info)


def test_a_draft_comes_back_as_it_was(drafts: DraftStore, scans: Path) -> None:
    keep(drafts, scans)
    found = drafts.find("a", scans / "a.nii.gz")
    assert found is not None
    assert found.model_version == "v1"
    segmentation, uncertainty = found.volumes()
    assert np.array_equal(segmentation, block())
    assert np.array_equal(np.unique(uncertainty), [0, 51])
    worst = found.worst_slice()
    assert (worst.axis, worst.place, worst.image.shape) == (0, 5, SHAPE[1:])
    assert (worst.uncertainty == 51).all()
    assert np.array_equal(worst.segmentation, block()[5])
    order = np.argsort(scan(seed=0)[5].ravel())
    assert (np.diff(worst.image.ravel()[order].astype(int)) >= 0).all()


def test_a_draft_of_a_replaced_scan_or_a_damaged_one_is_none(drafts: DraftStore, scans: Path) -> None:
    image = scans / "a.nii.gz"
    keep(drafts, scans)
    (file,) = (scans / ".ugmcl" / "drafts").iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert drafts.find("a", image) is None
    file.write_bytes(content)
    assert drafts.find("a", image) is not None
    write_nifti(image, scan(seed=9))
    assert drafts.find("a", image) is None
    assert drafts.find("b", scans / "b.nii.gz") is None


def test_a_removed_scan_leaves_no_draft_behind(
    drafts: DraftStore, datastore: FolderDatastore, scans: Path
) -> None:
    keep(drafts, scans)
    datastore.remove_image("a")
    assert list((scans / ".ugmcl" / "drafts").iterdir()) == []


def test_a_full_disk_fails_no_inference_and_keeps_the_draft_there_was(
    drafts: DraftStore, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(drafts, scans)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    keep(drafts, scans, "v2")
    found = drafts.find("a", scans / "a.nii.gz")
    assert found is not None
    assert found.model_version == "v1"
    assert len(list((scans / ".ugmcl" / "drafts").iterdir())) == 1


def test_an_inference_leaves_a_draft_of_its_case_and_none_of_an_upload(
    project: Workspace, drafts: DraftStore, scans: Path, app_settings: AppSettings
) -> None:
    registry = ModelRegistry(project)
    version = publish_tiny_model(registry)
    model = PublishedModel(registry, app_settings)
    model.precision = Precision()
    task = UGMCLInfer(model, MapStore(project), app_settings, lambda: 0, drafts)
    image = scans / "a.nii.gz"
    task.run({"image": str(image), "image_id": None, "mc_samples": 2}).label_file.unlink()
    assert drafts.find("a", image) is None
    task.run({"image": str(image), "image_id": "a", "mc_samples": 2}).label_file.unlink()
    found = drafts.find("a", image)
    assert found is not None
    assert found.model_version == version


@pytest.mark.parametrize("by", ["an inference", "scoring"])
def test_what_the_model_said_of_a_case_is_said_again_without_asking_it(
    project: Workspace, drafts: DraftStore, scans: Path, app_settings: AppSettings, by: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    registry, maps = ModelRegistry(project), MapStore(project)
    version = publish_tiny_model(registry)
    model = PublishedModel(registry, app_settings)
    model.precision = Precision()
    task = UGMCLInfer(model, maps, app_settings, lambda: 0, drafts)
    image = scans / "a.nii.gz"
    request = {"image": str(image), "image_id": "a", "mc_samples": 2, "uncertainty": True}
    if by == "scoring":
        (event,) = [one for one in scored(project, registry, scans) if one["event"] == "draft"]
        (uncertainty, affine), summary = read_voxels(event["map"]), event["summary"]
        drafts.take("a", Path(event["draft"]))
        draft = drafts.find("a", image)
        assert draft is not None
        label = draft.segmentation()
        maps.take("a", image, Path(event["map"]), version, summary)
    else:
        first = task.run(request)
        assert first.uncertainty_file is not None
        label, affine = read_voxels(first.label_file)
        uncertainty, summary = read_voxels(first.uncertainty_file)[0], first.params["uncertainty"]
    asked: list[int] = []
    original = Predictor.predict

    def counted(self: Predictor, *given: Any, **named: Any) -> Any:
        asked.append(1)
        return original(self, *given, **named)

    monkeypatch.setattr(Predictor, "predict", counted)
    again = task.run({**request, "result_extension": ".nrrd"})
    assert asked == []
    assert again.uncertainty_file is not None
    for expected, file in ((label, again.label_file), (uncertainty, again.uncertainty_file)):
        values, grid = read_voxels(file)
        assert values.dtype == expected.dtype
        assert np.array_equal(values, expected)
        assert np.allclose(grid, affine, atol=1e-6)
    assert again.params["uncertainty"] == {**summary, "url": "/uncertainty/a"}
    assert again.params["latencies"]["inference"] == 0

    task.run({**request, "fresh": True})
    task.run({**request, "mc_samples": 3})
    assert len(asked) == 2
    task.run(request)  # the kept map is now of 3 passes
    assert len(asked) == 3
    (file,) = project.drafts.iterdir()
    file.write_bytes(file.read_bytes()[:-40])
    task.run(request)
    assert len(asked) == 4
    publish_tiny_model(registry)
    assert task.run(request).params["model_version"] != version
    assert len(asked) == 5


def scored(project: Workspace, registry: ModelRegistry, scans: Path, **changed: Any) -> list[dict[str, Any]]:
    """The events of a scoring worker on case a."""
    events: list[dict[str, Any]] = []
    version = registry.published()
    assert version is not None
    job = {
        "model": str(registry.path(version)), "version": version, "device": "cpu", "threads": 0,
        "mc_samples": 2, "seed": 0, "cases": [{"id": "a", "image": str(scans / "a.nii.gz")}],
        "drafts": str(project.training / "drafts"), **changed,
    }  # fmt: skip
    score_cases(job, lambda event, **values: events.append({"event": event, **values}))  # type: ignore[arg-type]
    return events


def test_scoring_leaves_a_draft_that_can_be_taken_into_the_store(
    project: Workspace, drafts: DraftStore, scans: Path
) -> None:
    registry = ModelRegistry(project)
    version = publish_tiny_model(registry)
    events = scored(project, registry, scans)
    assert [event["event"] for event in events] == ["begun", "score", "draft", "result"]
    file = Path(events[2]["draft"])
    drafts.take("a", file)
    found = drafts.find("a", scans / "a.nii.gz")
    assert found is not None
    assert found.model_version == version
    assert not file.exists()
    assert Path(events[2]["map"]).is_file()
    assert events[2]["summary"]["mc_samples"] == 2
    without = scored(project, registry, scans, drafts=None)
    assert [event["event"] for event in without] == ["begun", "score", "result"]


def test_only_the_least_sure_so_far_get_a_draft(
    project: Workspace, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib import worker_score

    version = publish_tiny_model(ModelRegistry(project))
    scores = iter([0.2, 0.1, 0.5])
    found = CaseScore(0.0, np.zeros(1, np.float32))
    monkeypatch.setattr(worker_score, "DRAFTED", 1)
    monkeypatch.setattr(worker_score, "score_case", lambda *_, **__: found._replace(score=next(scores)))
    drafted: list[str] = []
    job = {
        "model": str(ModelRegistry(project).path(version)), "version": version, "device": "cpu",
        "threads": 0, "mc_samples": 2, "seed": 0, "drafts": str(project.training / "drafts"),
        "cases": [{"id": name, "image": str(scans / f"{name}.nii.gz")} for name in "abc"],
    }  # fmt: skip

    def note(event: str, **values: Any) -> None:
        if event == "draft":
            drafted.append(values["id"])

    worker_score.score_cases(job, note)  # type: ignore[arg-type]
    assert drafted == ["a", "c"]


def test_a_scan_that_is_away_has_the_picture_of_its_draft_and_no_other(
    review: Review, drafts: DraftStore, scans: Path
) -> None:
    keep(drafts, scans)
    key = review.state("a")["key"]
    (scans / "a.nii.gz").rename(scans.parent / "a.nii.gz")
    (scans / "b.nii.gz").rename(scans.parent / "b.nii.gz")
    state = review.state("a")
    assert (state["pictured"], state["key"], review.picture("a").shape) == (True, key, SHAPE)
    assert review.state("b")["pictured"] is False


def test_a_picture_is_the_least_sure_slice_with_the_label_there(
    review: Review, drafts: DraftStore, datastore: FolderDatastore, scans: Path, tmp_path: Path
) -> None:
    keep(drafts, scans, axis=2, index=3)
    submit(datastore, tmp_path, "a", value=1)
    shown = review.picture("a")
    assert (shown.axis, shown.place, shown.shape) == (2, 3, SHAPE)
    label = block()
    label.flat[1] = 1
    assert shown.label is not None
    assert np.array_equal(shown.label, label[:, :, 3])
    assert shown.segmentation is not None
    assert np.array_equal(shown.segmentation, block()[:, :, 3])
    assert shown.uncertainty is not None
    assert (shown.uncertainty == 51).all()


def test_without_a_draft_it_is_the_slice_with_most_of_the_label_else_the_middle(
    review: Review, datastore: FolderDatastore, tmp_path: Path
) -> None:
    plain = review.picture("b")
    assert (plain.axis, plain.place) == (2, SHAPE[2] // 2)
    assert (plain.label, plain.segmentation, plain.uncertainty) == (None, None, None)
    submit(datastore, tmp_path, "b")
    assert review.picture("b").place == 1  # the first of the block's three full slices
    assert review.picture("b").label is not None


def test_the_key_changes_with_the_draft_the_label_and_the_scan(
    review: Review, drafts: DraftStore, datastore: FolderDatastore, scans: Path, tmp_path: Path
) -> None:
    keys = [review.state("a")["key"]]
    keep(drafts, scans)
    keys.append(review.state("a")["key"])
    submit(datastore, tmp_path, "a")
    keys.append(review.state("a")["key"])
    keep(drafts, scans, "v2")
    keys.append(review.state("a")["key"])
    assert len(set(keys)) == 4
    assert review.state("a")["key"] == keys[-1]
    assert review.state("a")["draft_version"] == "v2"
    with pytest.raises(Refusal) as refused:
        review.state("unknown")
    assert refused.value.status_code == 404


def test_volumes_have_every_layer_on_the_scans_grid(
    review: Review, drafts: DraftStore, datastore: FolderDatastore, scans: Path, tmp_path: Path
) -> None:
    keep(drafts, scans)
    submit(datastore, tmp_path, "a")
    seen = review.volumes("a")
    for layer in (seen.image, seen.label, seen.segmentation, seen.uncertainty):
        assert layer is not None
        assert (layer.shape, layer.dtype) == (SHAPE, np.uint8)
    assert (int(seen.image.min()), int(seen.image.max())) == (0, 255)


# --- the history


class Rounds:
    """A queue of rounds that have ended."""

    def __init__(self, *rounds: Round) -> None:
        self._rounds = list(rounds)

    def rounds(self) -> list[Round]:
        return self._rounds


def done(number: int, labeled: list[str], **values: Any) -> Round:
    return Round(f"r{number:04d}", DONE, labeled, model_version=f"v{number}", promoted=True, **values)


def means(dice: float) -> dict[str, float]:
    return {"dice": dice, "hd95_mm": 10 * (1 - dice)}


def history(project: Workspace, *rounds: Round) -> ReviewHistory:
    return ReviewHistory(Rounds(*rounds), ModelRegistry(project), project.database)  # type: ignore[arg-type]


def test_the_curve_shows_the_better_of_student_and_teacher(project: Workspace) -> None:
    calibration = {"cases": 1, "voxels": 9, "ece": 0.1, "bins": []}
    rounds = [
        done(1, ["a", "b", "c"]),
        done(
            2, ["a", "b", "c", "d"],
            metrics={"student": means(0.7), "teacher": means(0.8), "published_before": None},
            calibration=calibration,
        ),
        Round("r0003", "failed", ["a"]),
    ]  # fmt: skip
    first, second = history(project, *rounds).curve()
    assert (first["labeled"], first["dice"], first["calibration"]) == (3, None, None)
    assert (second["labeled"], second["dice"], second["hd95_mm"]) == (4, 0.8, pytest.approx(2.0))
    assert second["calibration"] == calibration


def test_the_last_change_names_labels_and_how_the_scores_moved(
    project: Workspace, datastore: FolderDatastore
) -> None:
    scores = ScoreBoard(project)
    for case, before, after in (("b", 0.5, 0.4), ("c", 0.2, 0.3)):
        scores.put(case, before, "v1")
        scores.put(case, after, "v2")
    assert history(project).last_change() is None
    metrics = {"student": means(0.8), "teacher": means(0.7), "published_before": means(0.6)}
    last = done(2, ["a", "d"], metrics=metrics, compared_with="v1")
    change = history(project, done(1, ["a", "e"]), last).last_change()
    assert change is not None
    assert (change["dice"], change["before"]["dice"], change["compared_with"]) == (0.8, 0.6, "v1")
    assert (change["added"], change["removed"], change["corrected"]) == (["d"], ["e"], None)
    assert (change["moves"]["surer"], change["moves"]["less_sure"]) == (1, 1)
    assert change["moves"]["fell"] == [{"id": "b", "before": 0.5, "after": 0.4}]
    last.promoted = False
    unpublished = history(project, done(1, ["a", "e"]), last).last_change()
    assert unpublished is not None
    assert unpublished["moves"] is None


def test_a_corrected_label_is_found_by_the_hashes_in_the_models_records(project: Workspace) -> None:
    from tests.app.round_support import tiny_checkpoint

    registry = ModelRegistry(project)
    rounds = []
    for number, digests in enumerate([{"a": "1", "b": "1"}, {"a": "2", "b": "1", "c": "1"}], start=1):
        record = {"data": [{"id": i, "label_sha256": digest} for i, digest in digests.items()]}
        version = registry.add(tiny_checkpoint(), f"r{number:04d}", None, record)
        entry = done(number, list(digests))
        entry.model_version = version
        rounds.append(entry)
    change = ReviewHistory(Rounds(*rounds), registry, project.database).last_change()  # type: ignore[arg-type]
    assert change is not None
    assert (change["added"], change["corrected"]) == (["c"], ["a"])


def test_labels_are_counted_by_reader_and_day_in_utc(
    project: Workspace, datastore: FolderDatastore, tmp_path: Path
) -> None:
    submit(datastore, tmp_path, "a", 0, client_id="ann")
    submit(datastore, tmp_path, "b", 1, client_id="ann")
    submit(datastore, tmp_path, "c", 2)
    found = history(project).activity(7)
    today = datetime.now(UTC).date().isoformat()
    if found["days"][-1] != today:
        pytest.skip("the day changed while the test ran")
    assert len(found["days"]) == 7
    assert [(row["reader"], sum(row["by_day"]), row["total"]) for row in found["readers"]] == [
        ("ann", 2, 2),
        ("", 1, 1),
    ]
    assert found["readers"][0]["by_day"][-1] == 2


def test_drafts_kept_at_the_same_time_are_each_whole(drafts: DraftStore, scans: Path) -> None:
    threads = [threading.Thread(target=keep, args=(drafts, scans, f"v{n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
        found = drafts.find("a", scans / "a.nii.gz")
        if found is not None:
            assert np.array_equal(found.volumes()[0], block())
    for thread in threads:
        thread.join()
    (file,) = (scans / ".ugmcl" / "drafts").iterdir()
    with zipfile.ZipFile(file) as packed:
        assert json.loads(packed.read("about.json"))["model_version"] in {f"v{n}" for n in range(4)}


def test_a_scan_without_any_uncertainty_has_a_draft_of_its_middle(scans: Path, tmp_path: Path) -> None:
    image = scans / "a.nii.gz"
    sure = prediction()
    sure = sure._replace(summary=sure.summary._replace(top_slices=[]) if sure.summary else None)
    write_draft(tmp_path / "draft.zip", image, read_volume(image), sure, "v1")
    with zipfile.ZipFile(tmp_path / "draft.zip") as packed:
        about = json.loads(packed.read("about.json"))
    assert (about["axis"], about["place"]) == (2, SHAPE[2] // 2)
