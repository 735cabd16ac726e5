"""`ugmcl-assist` as a person meets it: start, refuse, stop."""

import fcntl
import os
import signal
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np

from server.serving import ready_lines
from tests.server.conftest import (
    APP,
    Server,
    add_models,
    command,
    environment,
    running_server,
    write_phantoms,
)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_project_that_an_earlier_version_serves_is_refused_by_serve_and_train(tmp_path: Path) -> None:
    """It keeps its rounds in a file of its own, which this one would take away from under it."""
    (tmp_path / "studies" / ".ugmcl").mkdir(parents=True)
    with (tmp_path / "studies" / ".ugmcl" / "rounds.lock").open("a") as held:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for arguments in (("serve", "--port", "0"), ("train",)):
            ended = run(tmp_path, *arguments, "--studies", "studies")
            assert ended.returncode == 2
            assert "An earlier version of this program is working on the project" in ended.stderr
            assert "Traceback" not in ended.stderr


def test_serving_leaves_nothing_in_the_app_folder(server: Server) -> None:
    assert set(os.listdir(APP)) - server.app_before <= {"__pycache__"}
    assert (server.studies / ".ugmcl" / "logs" / "server.log").is_file()


def test_an_unknown_app_setting_is_a_sentence_naming_the_valid_ones(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "studies", tmp_path / "reference", 1)
    ended = run(tmp_path, "serve", "--studies", "studies", "--port", "0", "--conf", "colour", "red")
    assert ended.returncode == 2
    assert "colour" in ended.stderr
    assert "min_labels" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_without_scans_and_files_set_aside_are_told_of_at_the_start() -> None:
    empty = ready_lines("http://127.0.0.1:8000", {"total": 0, "completed": 0})
    assert "Ready: 0 scans" in empty
    assert "straight into the studies folder" in empty
    some = ready_lines("http://h:1", {"total": 3, "completed": 1, "quarantined": [{"file": "a"}]})
    assert "Ready: 3 scans, 1 of them labeled; set aside: 1, http://h:1/info/ says why." in some
    assert "straight into" not in some


def test_predict_writes_a_label_and_a_map_for_each_scan(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "scans", tmp_path / "reference", 2)
    (tmp_path / "studies").mkdir()
    (version,) = add_models(tmp_path / "studies", 1)
    ended = run(
        tmp_path, "predict", "--model", version, "--studies", "studies", "--input", "scans",
        "--output", "out", "--mc-samples", "2", "--device", "cpu",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"case_0{i}{end}.nii.gz" for i in range(2) for end in ("", "_uncertainty")}
    source = nib.load(tmp_path / "scans" / "case_00.nii.gz")
    label = nib.load(tmp_path / "out" / "case_00.nii.gz")
    assert label.shape == source.shape
    np.testing.assert_allclose(label.affine, source.affine, atol=1e-4)


def test_ctrl_c_ends_the_server_cleanly_and_the_log_has_no_traceback(tmp_path: Path) -> None:
    with running_server(tmp_path, 1) as running:
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 0
        said = running.log.read_text()
    assert "Ready: 1 scan, 0 of them labeled.\n" in said
    assert f"In 3D Slicer give {running.url}" in said
    assert "Stopped" in said
    assert "Traceback" not in said


def test_labels_are_exported_without_a_server(tmp_path: Path) -> None:
    names = write_phantoms(tmp_path / "studies", tmp_path / "studies" / "labels" / "final", 2)
    (tmp_path / "made" / "data").mkdir(parents=True)  # an empty folder may be there already
    ended = run(
        tmp_path, "export", "--studies", "studies", "--out", "made/data", "--layout", "monailabel",
        "--case", names[1], "--conf", "device", "cpu",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert f"Cases in {tmp_path / 'made' / 'data'}: 1." in ended.stdout
    made = {str(path.relative_to(tmp_path / "made")) for path in (tmp_path / "made").rglob("*.*")}
    scan = f"{names[1]}.nii.gz"
    assert made == {
        "data/datastore_v2.json", "data/history.csv", f"data/{scan}", f"data/labels/final/{scan}"
    }  # fmt: skip
    for name in (scan, f"labels/final/{scan}"):
        assert (tmp_path / "made/data" / name).read_bytes() == (tmp_path / "studies" / name).read_bytes()
    assert list((tmp_path / "studies" / ".ugmcl" / "exports").iterdir()) == []
