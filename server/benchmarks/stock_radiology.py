"""MONAI Label's own radiology app, served from an environment of its own, to be measured beside ours.

MONAI Label 0.8.5 cannot segment NIfTI files with the MONAI that our method needs, so its side runs with MONAI
1.5.2. That is the only package of its environment; everything else (torch, MONAI Label) is ours, the same
files, so that neither side is faster by a version of another package.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import requests

from server.demo_launch import free_port

MONAI = "1.5.2"
MODEL = "segmentation"
"""A SegResNet that segments a whole scan without clicks and takes one's own class names."""
START_S = 600.0
STOP_S = 30.0


def environment(folder: Path) -> Path:
    """The Python of the stock side, installed on first use.

    Raises:
        RuntimeError: When MONAI 1.5.2 could not be installed.
    """
    python = folder / "bin" / "python"
    finished = folder / ".installed"
    if finished.is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    wanted = f"monai=={MONAI}"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{wanted} could not be installed for the stock side:\n{done.stderr[-1000:]}")
    ours = sysconfig.get_path("purelib")
    (site,) = (folder / "lib").glob("python*/site-packages")
    # Behind its own packages; the alias lets MONAI Label import pydicom 3, which it was not written for.
    (site / "ours.pth").write_text(f"{ours}\nimport pydicom_alias\n")
    finished.touch()
    return python


@contextlib.contextmanager
def serving_stock(python: Path, studies: Path, folder: Path, log: Path) -> Iterator[str]:
    """The radiology app on a folder of scans, with random weights and one class; yields its address.

    Raises:
        RuntimeError: When it does not come up; with the last lines of its log.
    """
    app = folder / "radiology"
    shutil.copytree(_stock_app(), app)
    port = free_port()
    line = [str(python), "-m", "monailabel.main", "start_server", "--app", str(app)]
    line += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    settings = {"models": MODEL, "labels": "foreground", "use_pretrained_model": "false"}
    for name, value in {**settings, "preload": "false", "sam2": "false"}.items():
        line += ["--conf", name, value]
    # Our folders must not show: both apps have a package `lib`.
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            line,
            cwd=folder,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(process, url, log)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _stock_app() -> Path:
    """Where pip puts the app.

    Raises:
        RuntimeError: When it is not there.
    """
    app = Path(sys.prefix) / "monailabel" / "sample-apps" / "radiology"
    if not app.is_dir():
        raise RuntimeError(
            f"This installer of monailabel left its radiology app out of {app}; pip puts it there."
        )
    return app


def _wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/info/", timeout=10).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"The stock server did not start:\n{log.read_text(errors='replace')[-3000:]}")
