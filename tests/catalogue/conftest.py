"""Fixtures of the catalogue's tests: a project of three scans, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.catalogue.database import Database
from lib.workspace import Workspace
from tests.app.scan_support import scan, write_nifti
from tests.catalogue import label_support, postgresql


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running PostgreSQL."""
    pytest.importorskip("psycopg", reason="the extra `postgresql` is not installed")
    with postgresql.running(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Where the catalogue is: "" for the file in the workspace, or a fresh PostgreSQL database."""
    on_sqlite = request.param == "sqlite"
    return "" if on_sqlite else postgresql.new_database(request.getfixturevalue("postgresql_server"))


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new.db'}"
    return postgresql.new_database(request.getfixturevalue("postgresql_server"), migrated=False)


@pytest.fixture(autouse=True)
def close_what_was_opened() -> Iterator[None]:
    """PostgreSQL's driver warns of connections that nobody closed."""
    yield
    while label_support.OPENED:
        label_support.OPENED.pop().database.close()


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of three usable scans: a, b, c."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for index, name in enumerate("abc"):
        write_nifti(folder / f"{name}.nii.gz", scan(seed=index))
    return folder


@pytest.fixture
def workspace(scans: Path, database_url: str) -> Iterator[Workspace]:
    """The workspace of `scans`, on both databases in turn."""
    found = Workspace.of(scans, database_url=database_url)
    yield found
    found.database.close()


@pytest.fixture
def project(scans: Path) -> Workspace:
    """The workspace of `scans`, on SQLite."""
    return Workspace.of(scans)


@pytest.fixture
def database(workspace: Workspace) -> Database:
    """The catalogue of `workspace`."""
    return workspace.database
