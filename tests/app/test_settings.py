"""The options of a project: parsed once, and refused with the valid ones named."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.settings import AppSettings
from lib.workspace import Workspace, file_name_of, read_json, write_json_atomic


def test_without_options_there_is_one_class_called_foreground() -> None:
    settings = AppSettings.from_conf({})
    assert settings == AppSettings.from_conf(None)
    assert settings.labels_map == {"foreground": 1}
    assert settings.any_single_name


def test_options_come_as_text_and_leave_as_values() -> None:
    settings = AppSettings.from_conf(
        {
            "labels": "anterior, posterior",
            "min_labels": "3",
            "debounce_s": "0.5",
            "allow_empty_labels": "true",
        }
    )
    assert settings.labels_map == {"anterior": 1, "posterior": 2}
    assert (settings.min_labels, settings.debounce_s, settings.allow_empty_labels) == (3, 0.5, True)
    assert not settings.any_single_name


def test_an_unknown_key_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(
        ValueError, match=r"Unknown --conf key lables; valid keys: labels, workspace, .*threads"
    ):
        AppSettings.from_conf({"lables": "x"})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("labels", ""),
        ("labels", "a,,b"),
        ("labels", "a,A"),
        ("labels", "organ,high"),
        ("labels", "background,organ"),
        ("min_labels", "0"),
        ("min_labels", "two"),
        ("debounce_s", "-1"),
        ("debounce_s", "nan"),
        ("round_seconds", "inf"),
        ("allow_empty_labels", "maybe"),
        ("preset", "paper"),
        ("device", "tpu"),
        ("threads", "1.5"),
    ],
)
def test_an_unacceptable_value_is_refused_with_what_is_allowed(key: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"^--conf {key} is .*; .+\.$"):
        AppSettings.from_conf({key: text})


def test_state_lives_with_the_studies_unless_told_otherwise(tmp_path: Path) -> None:
    assert Workspace.of(tmp_path / "s").root == tmp_path / "s" / ".ugmcl"
    assert Workspace.of(tmp_path / "s", str(tmp_path / "w")).root == tmp_path / "w"


def test_a_workspace_with_models_belongs_to_one_project(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.bind(tmp_path / "one", ["a"], in_use=False)
    workspace.bind(tmp_path / "one", ["a", "b"], in_use=False)
    workspace.bind(tmp_path / "one", ["a", "b"], in_use=True)
    with pytest.raises(ValueError, match="trained for the classes a, b"):
        workspace.bind(tmp_path / "one", ["b", "a"], in_use=True)
    with pytest.raises(ValueError, match="belongs to the studies"):
        workspace.bind(tmp_path / "two", ["a", "b"], in_use=True)


def test_a_project_folder_can_be_moved_with_its_models(tmp_path: Path) -> None:
    Workspace.of(tmp_path / "one").bind(tmp_path / "one", ["a"], in_use=False)
    (tmp_path / "one").rename(tmp_path / "two")
    Workspace.of(tmp_path / "two").bind(tmp_path / "two", ["a"], in_use=True)
    with pytest.raises(ValueError, match="belongs to the studies folder that it lies in"):
        Workspace.of(tmp_path / "two").bind(tmp_path / "elsewhere", ["a"], in_use=True)


def test_json_that_is_missing_or_broken_reads_as_the_default(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    assert read_json(file, 7) == 7
    write_json_atomic(file, {"a": 1})
    assert read_json(file, 7) == {"a": 1}
    file.write_text('{"a": ')
    assert read_json(file, 7) == 7


def test_different_ids_never_share_a_file_name() -> None:
    ids = ["a", "A", "a b", "a%20b", "ä", "名" * 60, "名" * 59 + "x"]
    names = [file_name_of(image_id) for image_id in ids]
    assert len(set(names)) == len(ids)
    assert all(len(name) < 240 and "/" not in name for name in names)
