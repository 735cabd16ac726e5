"""A full disk, a folder that cannot be written, damaged files, a clock that jumps: each on a real server.

The full disk is a real one: a tmpfs of a few MiB, which needs root to mount.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import requests

from tests.faults.ledger import Ledger
from tests.faults.scene import FaultServer, LabelSource, check_all

FILE_SYSTEM_MIB = 48


class Unavailable(RuntimeError):
    """This disaster cannot be made on this machine; the sentence says why."""


@contextlib.contextmanager
def small_file_system(folder: Path) -> Iterator[Path]:
    """An empty file system of `FILE_SYSTEM_MIB` at `folder`."""
    folder.mkdir(parents=True)
    made = _mount("-t", "tmpfs", "-o", f"size={FILE_SYSTEM_MIB}m", "tmpfs", str(folder))
    if made.returncode != 0:
        raise Unavailable(f"no file system can be mounted here ({made.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_disk(server: FaultServer, labels: LabelSource, ledger: Ledger) -> None:
    """No byte is free: labels are refused with a sentence, and all goes on once there is room."""
    filler = server.project.studies / "filler.bin"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    _expect_refusal(server, labels, ledger, "disk is full")
    filler.unlink()
    expect_success(server, labels, ledger)
    check_all(server, ledger)


def make_read_only(server: FaultServer, labels: LabelSource, ledger: Ledger) -> None:
    """Every folder of the project loses its write permission under the running server, and gets it back."""
    if os.geteuid() == 0:  # root may write anywhere, but not without this capability
        if shutil.which("setpriv") is None:
            raise Unavailable("the folder cannot be made read-only for root without setpriv (util-linux)")
        server.program = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
    server.stop()
    server.start()
    folders = [server.project.studies, *(p for p in server.project.studies.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        _expect_refusal(server, labels, ledger, "folder is read-only")
    finally:
        for folder in folders:
            folder.chmod(0o755)
    expect_success(server, labels, ledger)
    check_all(server, ledger)
    server.stop()
    server.program = ()
    server.start()


def damage(what: str) -> Callable[[FaultServer, LabelSource, Ledger], None]:
    """The newest label, model file, or the database is cut in half while the server is down."""

    def run(server: FaultServer, labels: LabelSource, ledger: Ledger) -> None:
        server.kill()
        _cut_in_half(newest(server, what))
        server.start()
        check_all(server, ledger)
        expect_success(server, labels, ledger)

    return run


def move_clock(server: FaultServer, labels: LabelSource, ledger: Ledger) -> None:
    """The server starts with a clock two days behind, then right again: the newest label stays the newest."""
    library = _faketime()
    for moved in ({"LD_PRELOAD": library, "FAKETIME": "-2d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}, {}):
        server.stop()
        server.start(**moved)
        expect_success(server, labels, ledger)
        server.kill()
        server.start(**moved)
        check_all(server, ledger)


def newest(server: FaultServer, what: str) -> Path:
    """The newest `label` in effect, `model` file, or the `database`."""
    project = server.project
    patterns = {
        "label": (project.studies / "labels" / "final", "*.nii.gz"),
        "model": (project.workspace / "models", "*/*.pt"),
        "database": (project.workspace, "catalogue.db"),
    }
    folder, pattern = patterns[what]
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def _cut_in_half(path: Path) -> None:
    kept = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    for beside in path.parent.glob(path.name + "-*"):  # what SQLite keeps beside its file
        beside.unlink()


def _expect_refusal(server: FaultServer, labels: LabelSource, ledger: Ledger, why: str) -> None:
    case = server.project.ids[0]
    content = labels.next(case)
    ledger.attempt(case, content)
    answer = server.put_label(case, content)
    assert answer.status_code >= 500, f"a label was taken although the {why}: {answer.status_code}"
    detail = answer.json()["detail"]
    assert len(detail.split()) > 3, detail
    assert requests.get(server.url + "/health", timeout=10).status_code == 200


def expect_success(server: FaultServer, labels: LabelSource, ledger: Ledger) -> None:
    """Labels of three cases are taken, at the latest after half a minute."""
    for case in server.project.ids[:3]:
        content = labels.next(case)
        digest = ledger.attempt(case, content)
        begun = time.monotonic()
        answer = server.put_label(case, content)
        while answer.status_code != 200 and time.monotonic() - begun < 30:
            time.sleep(0.5)
            answer = server.put_label(case, content)
        assert answer.status_code == 200, answer.text
        ledger.acknowledge(case, digest)


def _faketime() -> str:
    """The library that moves a process' clock; Debian's package, installed if need be."""

    def found() -> list[Path]:
        return sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))

    if not found():
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise Unavailable("faketime is not installed, and installing it needs root and apt-get (Debian)")
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "faketime"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not found():
            raise Unavailable(
                f"faketime is not installed, and apt-get could not: {done.stderr.strip()[-200:]}"
            )
    return str(found()[0])


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
