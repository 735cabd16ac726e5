"""Inference through the app's tasks, with a real (untrained) network: files, geometry, values, refusals."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from lib import infers
from lib.errors import Refusal
from lib.infers import PublishedModel, UGMCLInfer, UncertaintyBandsInfer
from lib.maps import MapStore, StoredMap
from lib.registry import ModelRegistry
from lib.settings import AppSettings
from lib.volumes import read_header, read_label, write_map
from lib.workspace import Workspace
from tests.app.scan_support import publish_tiny_model, scan, write_nifti
from ugmcl.precision import Precision
from ugmcl.uncertainty import bands


class Project:
    """The tasks of one project, wired as the app does."""

    def __init__(self, workspace: Workspace, settings: AppSettings) -> None:
        self.registry = ModelRegistry(workspace)
        self.maps = MapStore(workspace)
        self.model = PublishedModel(self.registry, settings)
        self.model.precision = Precision()
        self.segmentation = UGMCLInfer(self.model, self.maps, settings, lambda: 0)
        self.bands = UncertaintyBandsInfer(self.segmentation, self.maps)


@pytest.fixture
def project_tasks(project: Workspace, app_settings: AppSettings) -> Project:
    return Project(project, app_settings)


@pytest.fixture
def tasks(project_tasks: Project) -> Project:
    publish_tiny_model(project_tasks.registry)
    return project_tasks


def request(scans: Path, **params: Any) -> dict[str, Any]:
    return {"image": str(scans / "a.nii.gz"), "image_id": "a", "mc_samples": 2, **params}


def test_before_a_model_the_tasks_are_listed_and_answer_409(project_tasks: Project, scans: Path) -> None:
    for task in (project_tasks.segmentation, project_tasks.bands):
        assert task.is_valid()
        assert task.info()["type"] == "segmentation"
        assert task.info()["dimension"] == 3
        with pytest.raises(Refusal) as caught:
            task.run(request(scans))
        assert caught.value.status_code == 409
        assert caught.value.extra == {"labeled": 0, "labels_needed": 1}
        assert "0 final labels are here, and 1 needed; submit more." in str(caught.value.detail)
    assert project_tasks.segmentation.info()["labels"] == {"foreground": 1}
    assert project_tasks.bands.info()["labels"] == {"low": 1, "medium": 2, "high": 3}


@pytest.mark.parametrize("extension", [".nii.gz", ".nii", ".nrrd"])
def test_label_and_map_lie_on_the_scans_own_grid(tasks: Project, scans: Path, extension: str) -> None:
    found = tasks.segmentation.run(request(scans, uncertainty=True, result_extension=extension))
    image = read_header(scans / "a.nii.gz")
    assert found.uncertainty_file is not None
    for path in (found.label_file, found.uncertainty_file):
        assert path.name.endswith(extension)
        header = read_header(path)
        assert header.shape == image.shape
        np.testing.assert_allclose(header.affine, image.affine, atol=1e-6)
        assert SimpleITK.ReadImage(str(path)).GetSize() == image.shape
    labels, _ = read_label(found.label_file)
    values, _ = read_label(found.uncertainty_file)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1}
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert values.min() >= 0
    assert values.max() <= 1


def test_the_reply_says_which_model_and_how_sure(tasks: Project, scans: Path) -> None:
    params = tasks.segmentation.run(request(scans)).params
    assert params["model_version"] == tasks.registry.published()
    assert params["label_names"] == {"foreground": 1}
    assert params["latencies"]["total"] > 0
    summary = params["uncertainty"]
    assert set(summary) == {"score", "mean_foreground", "measure", "mc_samples", "top_slices", "url"}
    assert 0 <= summary["score"] <= 1
    assert summary["mc_samples"] == 2
    assert summary["url"] == "/uncertainty/a"
    for entry in summary["top_slices"]:
        assert 0 <= entry["index"] < read_header(scans / "a.nii.gz").shape[entry["axis"]]


def test_an_upload_has_no_map_address_and_keeps_nothing(
    tasks: Project, project: Workspace, tmp_path: Path
) -> None:
    upload = write_nifti(tmp_path / "up.nii.gz", scan(seed=8))
    found = tasks.segmentation.run({"image": str(upload), "mc_samples": 2})
    assert found.params["uncertainty"]["url"] is None
    assert found.uncertainty_file is None
    assert not list(project.maps.iterdir())


def test_ids_are_quoted_in_the_map_address(tasks: Project, scans: Path) -> None:
    found = tasks.segmentation.run(request(scans, image_id="a b/ü"))
    assert found.params["uncertainty"]["url"] == "/uncertainty/a%20b%2F%C3%BC"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
def test_the_label_comes_in_the_type_asked_for(tasks: Project, scans: Path, dtype: str) -> None:
    for extension in (".nii.gz", ".nrrd"):
        found = tasks.segmentation.run(request(scans, result_dtype=dtype, result_extension=extension))
        assert read_label(found.label_file)[0].dtype == np.dtype(dtype)


def test_without_a_wish_the_result_has_the_format_of_its_image(tasks: Project, tmp_path: Path) -> None:
    for name in ("up.nrrd", "up.nii", "up.nii.gz"):
        write_map(tmp_path / name, scan(seed=8), np.eye(4))
        found = tasks.segmentation.run({"image": str(tmp_path / name), "mc_samples": 1})
        assert found.label_file.name.endswith(name.removeprefix("up"))


def test_numpys_short_names_of_types_are_understood(tasks: Project, scans: Path) -> None:
    found = tasks.segmentation.run(request(scans, result_dtype="float"))
    assert read_label(found.label_file)[0].dtype == np.float64


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mc_samples", 0),
        ("mc_samples", 65),
        ("mc_samples", 2.5),
        ("mc_samples", True),
        ("mc_samples", "many"),
        ("mc_samples", None),
        ("mc_samples", float("nan")),
        ("mc_samples", [8]),
        ("uncertainty", "yes"),
        ("uncertainty", 1),
        ("uncertainty", None),
        ("result_extension", ".dcm"),
        ("result_extension", "../x.nrrd"),
        ("result_extension", 7),
        ("result_dtype", "complex64"),
        ("result_dtype", "uint8; rm"),
        ("result_dtype", ["uint8"]),
    ],
)
def test_unacceptable_parameters_are_refused_by_name(
    tasks: Project, scans: Path, name: str, value: Any
) -> None:
    with pytest.raises(Refusal, match="allowed") as caught:
        tasks.segmentation.run(request(scans, **{name: value}))
    assert caught.value.status_code == 422
    assert f"params.{name}" in caught.value.detail


def test_what_stock_viewers_send_is_accepted(tasks: Project, scans: Path) -> None:
    sent = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "mc_samples": "2"}
    assert tasks.segmentation.run(request(scans, **sent)).label_file.name.endswith(".nrrd")
    file, params = tasks.segmentation(request(scans))
    assert Path(file).is_file()
    assert "model_version" in params


def test_an_unusable_upload_is_refused(tasks: Project, tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").write_bytes(b"no image")
    with pytest.raises(Refusal) as caught:
        tasks.segmentation.run({"image": str(tmp_path / "x.nii.gz")})
    assert caught.value.status_code == 422


def test_the_map_of_a_case_is_kept_for_the_model_that_made_it(tasks: Project, scans: Path) -> None:
    image = scans / "a.nii.gz"
    found = tasks.segmentation.run(request(scans, uncertainty=True, mc_samples=8))
    assert found.uncertainty_file is not None
    kept = tasks.segmentation.keep_map("a", image)
    assert kept.model_version == tasks.registry.published()
    np.testing.assert_array_equal(read_label(kept.path)[0], read_label(found.uncertainty_file)[0])
    made = kept.path.stat().st_mtime_ns
    assert tasks.segmentation.keep_map("a", image).path.stat().st_mtime_ns == made
    newer = publish_tiny_model(tasks.registry, seed=1)
    assert tasks.segmentation.keep_map("a", image).model_version == newer
    assert tasks.segmentation.keep_map("a", image, kept.model_version).model_version == kept.model_version
    with pytest.raises(Refusal):
        tasks.segmentation.keep_map("a", image, "v9999")


def test_a_map_of_a_replaced_scan_is_made_anew(tasks: Project, scans: Path) -> None:
    image = scans / "a.nii.gz"
    tasks.segmentation.keep_map("a", image)
    write_nifti(image, scan(seed=77))
    assert tasks.maps.find("a", image) is None
    tasks.segmentation.keep_map("a", image)
    assert tasks.maps.find("a", image) is not None


def test_a_kept_map_is_served_as_nrrd_with_the_same_values(tasks: Project, scans: Path) -> None:
    kept = tasks.segmentation.keep_map("a", scans / "a.nii.gz")
    values, affine = read_label(tasks.maps.as_nrrd("a"))
    np.testing.assert_array_equal(values, read_label(kept.path)[0])
    np.testing.assert_allclose(affine, read_label(kept.path)[1], atol=1e-9)
    publish_tiny_model(tasks.registry, seed=2)
    tasks.segmentation.keep_map("a", scans / "a.nii.gz")
    assert not np.array_equal(read_label(tasks.maps.as_nrrd("a"))[0], values)


def test_a_new_publication_answers_from_the_next_inference_on(tasks: Project, scans: Path) -> None:
    first = tasks.segmentation.run(request(scans)).params["model_version"]
    second = publish_tiny_model(tasks.registry, seed=3)
    assert tasks.segmentation.run(request(scans)).params["model_version"] == second != first
    tasks.registry.publish(first)
    assert tasks.segmentation.run(request(scans)).params["model_version"] == first


def test_the_bands_are_the_map_in_three_steps(tasks: Project, scans: Path) -> None:
    found = tasks.bands.run(request(scans, result_extension=".nrrd"))
    labels, affine = read_label(found.label_file)
    kept = tasks.maps.find("a", scans / "a.nii.gz")
    assert kept is not None
    np.testing.assert_array_equal(labels, bands(read_label(kept.path)[0]))
    np.testing.assert_allclose(affine, read_header(scans / "a.nii.gz").affine, atol=1e-6)
    assert found.params["label_names"] == {"low": 1, "medium": 2, "high": 3}
    again = tasks.bands.run(request(scans, result_extension=".nrrd"))
    np.testing.assert_array_equal(read_label(again.label_file)[0], labels)
    assert "inference" not in again.params["latencies"]  # the kept map was used


def test_bands_ask_the_model_only_where_nothing_is_kept_or_fresh_ones_are_wanted(
    tasks: Project, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, asked = tasks.model.get(), list[int]()
    assert live is not None
    predict = live[1].predict

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(1)
        return predict(*arguments, **options)

    monkeypatch.setattr(live[1], "predict", counted)
    for params, times in (({}, 1), ({}, 1), ({"fresh": True}, 2)):
        tasks.bands.run(request(scans, **params))
        assert len(asked) == times


def test_bands_of_a_map_that_is_just_being_replaced_are_made_anew(
    tasks: Project, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read_label(tasks.bands.run(request(scans)).label_file)[0]
    find = tasks.maps.find

    def too_late(image_id: str, image: Path) -> StoredMap | None:
        kept = find(image_id, image)
        if kept is not None:
            kept.path.unlink()
        return kept

    monkeypatch.setattr(tasks.maps, "find", too_late)
    np.testing.assert_array_equal(read_label(tasks.bands.run(request(scans)).label_file)[0], plain)


@pytest.mark.parametrize("failing", ["write_label", "write_map"])
def test_a_result_that_cannot_be_written_leaves_no_file(
    tasks: Project, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError("no space left on device")

    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(infers, failing, full)
    with pytest.raises(OSError, match="no space"):
        tasks.segmentation.run(request(scans, uncertainty=True))
    assert list(folder.iterdir()) == []


def test_two_classes_keep_their_values(project_tasks: Project, scans: Path) -> None:
    publish_tiny_model(project_tasks.registry, ("anterior", "posterior"))
    labels, _ = read_label(project_tasks.segmentation.run(request(scans)).label_file)
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_a_nibabel_user_finds_the_same_affine(tasks: Project, scans: Path) -> None:
    found = tasks.segmentation.run(request(scans))
    np.testing.assert_array_equal(
        nibabel.load(found.label_file).affine, nibabel.load(scans / "a.nii.gz").affine
    )
