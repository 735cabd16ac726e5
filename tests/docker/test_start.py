"""The Dockerfile's own steps in a clean Debian, and what they install, started as the container would be.

`make test-docker`; as root, with `debootstrap`, and about ten minutes of downloads and installation.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import pytest

from tests.docker.stages import Root, Stage, debian_root, stages_of
from tests.server.conftest import end, phantom

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300
NEEDED = ("debootstrap", "unshare", "nsenter", "chroot", "ip")
BuildRoot = Callable[[str], tuple[Stage, Root]]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("needs root, for chroot and mounts")
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}; Debian: apt install debootstrap util-linux iproute2")
    path = tmp_path_factory.mktemp("debian") / "root"
    debian_root(path)
    return path


@pytest.fixture(scope="module")
def build_root(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildRoot]:
    """Builds a stage, and those it copies from, each in a root of its own."""
    stages, built = stages_of(ROOT / "docker" / "Dockerfile"), dict[str, Root]()
    folder = tmp_path_factory.mktemp("stages")

    def build(name: str) -> tuple[Stage, Root]:
        for step, value in stages[name].steps:
            if step == "COPY" and value.startswith("--from="):
                build(value.split()[0].removeprefix("--from="))
        if name not in built:
            subprocess.run(["cp", "-a", str(debian), str(folder / name)], check=True)
            root = Root(folder / name, ROOT)
            root.build(stages[name], built)
            built[name] = root
        return stages[name], built[name]

    yield build
    shutil.rmtree(folder)  # gigabytes


@contextlib.contextmanager
def started(stage: Stage, root: Root, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The stage's program, once its own health check is content; ended as an engine ends it."""
    (folder / "volume").mkdir()
    process = root.start(stage, folder / "volume", folder / "log")
    check = json.loads(stage.last("HEALTHCHECK").partition("CMD ")[2])
    try:
        deadline = time.monotonic() + PATIENCE_S
        while (asked := root.run_beside(process, check)).returncode != 0:
            said = (folder / "log").read_text(errors="replace")[-3000:]
            assert process.poll() is None, f"it ended with {process.returncode}:\n{said}"
            assert time.monotonic() < deadline, f"not healthy: {asked.stderr[-1000:]}\n{said}"
            time.sleep(1)
        yield process
    finally:
        assert end(process, signal.SIGTERM), "it did not end on SIGTERM"


def ids_of(process: subprocess.Popen[bytes]) -> tuple[set[int], set[int]]:
    """User and group ids, real and effective."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    words = {line.split()[0]: {int(word) for word in line.split()[1:]} for line in lines if "id:\t" in line}
    return words["Uid:"], words["Gid:"]


ASK = """
import json, sys, urllib.request as u
base = "http://127.0.0.1:8000"
headers = {"Content-Type": "application/json"}
offered = json.load(u.urlopen(u.Request(base + "/activelearning/first", b"{}", headers)))
ready = json.load(u.urlopen(base + "/ready"))
json.dump([offered.get("id"), ready["ready"]], sys.stdout)
"""


def test_server_runs_as_nobody_on_a_read_only_root_and_finds_scans_in_its_volume(
    build_root: BuildRoot, tmp_path: Path
) -> None:
    stage, root = build_root("server")
    with started(stage, root, tmp_path) as process:
        assert ids_of(process) == ({10001}, {10001})
        touched = root.run_beside(process, ["touch", "/opt/ugmcl/written"])
        assert touched.returncode != 0
        assert "Read-only file system" in touched.stderr
        image, _, affine = phantom(0)
        scan = tmp_path / "volume" / "studies" / "case_00.nii.gz"
        nib.save(nib.Nifti1Image(image, affine), scan)
        os.chown(scan, 10001, 10001)
        deadline = time.monotonic() + 120  # a new file is noticed after a while
        answered = root.run_beside(process, ["python", "-c", ASK])
        while "case_00" not in answered.stdout and time.monotonic() < deadline:
            time.sleep(2)
            answered = root.run_beside(process, ["python", "-c", ASK])
        assert answered.returncode == 0, answered.stderr
        assert json.loads(answered.stdout) == ["case_00", True]
        assert (tmp_path / "volume" / "workspace" / "catalogue.db").is_file()
    assert "Application shutdown complete." in (tmp_path / "log").read_text(errors="replace")
    assert process.returncode == -signal.SIGTERM  # an engine shows 143: it ended, in order, for that reason


def test_orthanc_speaks_dicomweb(build_root: BuildRoot, tmp_path: Path) -> None:
    stage, root = build_root("orthanc")
    with started(stage, root, tmp_path) as process:
        assert ids_of(process) == ({10002}, {10002})
        listed = root.run_beside(process, ["curl", "-fsS", "http://127.0.0.1:8042/dicom-web/studies"])
        assert listed.returncode == 0, listed.stderr
        assert json.loads(listed.stdout) == []


def test_ohif_is_served_with_its_configuration(build_root: BuildRoot, tmp_path: Path) -> None:
    stage, root = build_root("ohif")
    with (root.path / "etc" / "hosts").open("a") as hosts:
        hosts.write("127.0.0.1 orthanc\n")  # the compose network names it
    with started(stage, root, tmp_path) as process:
        assert ids_of(process) == ({10003}, {10003})
        page = root.run_beside(process, ["curl", "-fsS", "http://127.0.0.1:8080/viewer?StudyInstanceUIDs=1"])
        assert "OHIF" in page.stdout
        settings = root.run_beside(process, ["curl", "-fsS", "http://127.0.0.1:8080/app-config.js"])
        assert "qidoRoot: '/dicom-web'" in settings.stdout
