"""A server of the demo's own: started on a fresh copy of the sample cohort, ended with the demo."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ugmcl
from server.demo_session import DemoError, DemoSession

START_S = 180.0
"""A cold start imports the whole of MONAI Label, which takes most of a minute on a slow disk."""


@contextlib.contextmanager
def own_server(cohort: Path, build: Path, settings: dict[str, str] | None = None) -> Iterator[str]:
    """A server on a fresh project: the cohort's scans, and only the labels it was made with.

    Args:
        cohort: Folder of a sample cohort; it is copied, so no label of the demo ends up in it.
        build: Folder for the project (removed in the end) and the server's log (`demo-server.log`, kept).
        settings: App settings passed on as `--conf name value`.

    Yields:
        The server's address.

    Raises:
        DemoError: When the server does not come up; the message ends with the last lines of its log.
    """
    build.mkdir(parents=True, exist_ok=True)
    log = build / "demo-server.log"
    project = Path(tempfile.mkdtemp(prefix="demo-", dir=build))
    try:
        copy_studies(cohort, project / "studies")
        port = free_port()
        with log.open("wb") as output:
            server = subprocess.Popen(
                command(project / "studies", port, settings or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": _python_path()},
                # Its own session: Ctrl-C reaches the demo first, which then ends the server in good order.
                start_new_session=True,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(server, url, project, log)
            yield url
        finally:
            _end(server)
    finally:
        shutil.rmtree(project, ignore_errors=True)


def command(studies: Path, port: int, settings: dict[str, str]) -> list[str]:
    """The command line of the demo's server."""
    line = [sys.executable, "-m", "server.cli", "serve", "--studies", str(studies), "--port", str(port)]
    for name, value in settings.items():
        line += ["--conf", name, value]
    return line


def copy_studies(cohort: Path, studies: Path) -> None:
    """Copy a cohort's scans, with the reference labels of the cases it was made with as final labels."""
    labels = studies / "labels" / "final"
    labels.mkdir(parents=True)
    scans = sorted((cohort / "studies").glob("*.nii.gz"))
    for scan in scans:
        shutil.copyfile(scan, studies / scan.name)
    for scan in scans[: json.loads((cohort / "cohort.json").read_text(encoding="utf-8"))["labeled"]]:
        shutil.copyfile(cohort / "reference" / "labels" / scan.name, labels / scan.name)


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _python_path() -> str:
    """The module path for the server, so that the demo also runs from a source tree that is not installed."""
    parts = [str(Path(file).resolve().parents[1]) for file in (__file__, ugmcl.__file__)]
    parts.append(os.environ.get("PYTHONPATH", ""))
    return os.pathsep.join(part for part in parts if part)


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, folder: Path, log: Path) -> None:
    session = DemoSession(url, folder)
    deadline = time.monotonic() + START_S
    while not session.ready():
        if server.poll() is not None:
            raise DemoError(
                f"The demo's server ended at its start (exit status {server.returncode}).{_tail(log)}"
            )
        if time.monotonic() > deadline:
            raise DemoError(f"The demo's server was not ready within {START_S:.0f} s.{_tail(log)}")
        time.sleep(0.5)


def _tail(log: Path, lines: int = 12) -> str:
    """The last lines of the log, for an error message."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    return "".join(f"\n  {line}" for line in [f"Last lines of {log}:", *text])


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end; after 20 s end it, and whatever it started, without asking."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
