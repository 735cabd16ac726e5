"""Fixtures: a PACS that can fail, and a client without long waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.pacs.cache import SeriesCache
from lib.pacs.connection import PacsConnection
from lib.pacs.dicomweb import DicomWeb
from lib.pacs.settings import PacsSettings
from tests.pacs.small_pacs import SmallPacs, small_pacs


@pytest.fixture
def pacs() -> Iterator[SmallPacs]:
    with small_pacs() as server:
        yield server


@pytest.fixture
def waits() -> list[float]:
    """The waits between attempts, which no test sits out."""
    return []


@pytest.fixture
def web(pacs: SmallPacs, waits: list[float]) -> Iterator[DicomWeb]:
    connection = PacsConnection(PacsSettings(pacs.url, answer_s=5, attempts=3), waits.append)
    yield DicomWeb(connection)
    connection.close()


@pytest.fixture
def cache(tmp_path: Path, web: DicomWeb) -> SeriesCache:
    return SeriesCache(tmp_path / "cache", web)
