"""A real PostgreSQL for the tests: Debian's packages, installed if need be, in a folder of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.catalogue.database import Database

USER = "postgres"


def programs() -> Path:
    """The folder of `initdb` and `postgres`; skips the test where they are not and cannot be installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        install()
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("apt-get installed postgresql, but /usr/lib/postgresql/*/bin/initdb is not there")
    return found[-1].parent


def install() -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("PostgreSQL is not installed, and installing it needs root and apt-get (Debian)")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "postgresql"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"PostgreSQL is not installed, and apt-get could not: {done.stderr.strip()[-200:]}")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """Serve a fresh cluster below `folder`; yields the URL of its server, without a database's name."""
    bin_folder = programs()
    # PostgreSQL refuses to run as root.
    user = USER if os.geteuid() == 0 else None
    name = user or pwd.getpwuid(os.geteuid()).pw_name
    if user:
        shutil.chown(folder, user)
        for parent in folder.parents:
            if parent.stat().st_uid == 0 and parent != Path("/") and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    data = folder / "data"
    make = [bin_folder / "initdb", "-D", data, "-A", "trust", "-U", name, "-E", "UTF8", "--no-sync"]
    subprocess.run(make, user=user, check=True, capture_output=True, cwd=folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [bin_folder / "postgres", "-D", data, *options], user=user, stdout=log, stderr=log, cwd=folder
        )
    try:
        url = f"postgresql+psycopg://{name}@127.0.0.1:{port}"
        wait_until_up(url, server)
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # at once; SIGTERM would wait for every client to leave
        server.wait(timeout=30)


def new_database(server: str, migrated: bool = True) -> str:
    """The URL of a fresh database on a running server: with the catalogue's tables, or empty.

    The tables are a copy of those that the migrations made once: making them anew takes longer than most
    tests.
    """
    name = f"catalogue_{uuid.uuid4().hex[:8]}"
    _create(server, f"{name} TEMPLATE {_migrated(server)}" if migrated else name)
    return f"{server}/{name}"


@functools.cache
def _migrated(server: str) -> str:
    _create(server, "migrated")
    Database(f"{server}/migrated").close()
    return "migrated"


def _create(server: str, database: str) -> None:
    import psycopg

    with psycopg.connect(server.replace("+psycopg", "") + "/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}")


def wait_until_up(url: str, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        assert server.poll() is None, "PostgreSQL ended while it started"
        try:
            psycopg.connect(url.replace("+psycopg", "") + "/postgres").close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "PostgreSQL did not start within a minute"
            time.sleep(0.2)
