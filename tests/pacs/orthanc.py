"""A real Orthanc, from Debian's packages, on a folder of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """A real Orthanc on a folder of its own, which can be stopped and started again."""

    def __init__(self, folder: Path, password: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"
        self.password = password
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        settings = {
            "Name": "tests",
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "Plugins": [str(DICOMWEB_PLUGIN)],
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(password),
            "RegisteredUsers": {"reader": password} if password else {},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))

    def start(self) -> None:
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["Orthanc", str(self._folder / "orthanc.json")], stdout=log, stderr=log, cwd=self._folder
            )
        for _ in range(200):
            try:
                self.statistics()
                return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise RuntimeError((self._folder / "orthanc.log").read_text()[-2000:])

    def statistics(self) -> dict[str, Any]:
        """What it says it holds: `CountInstances` and the like."""
        auth = ("reader", self.password) if self.password else None
        answer = httpx.get(f"http://127.0.0.1:{self.port}/statistics", auth=auth)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def kill(self) -> None:
        """As a power cut would end it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None


def require_orthanc() -> None:
    """Skip where it is not installed."""
    if shutil.which("Orthanc") is None or not DICOMWEB_PLUGIN.exists():
        pytest.skip("no Orthanc: apt install orthanc orthanc-dicomweb (docs/dicom.md)")
