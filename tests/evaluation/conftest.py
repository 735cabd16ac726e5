"""A small comparison, written and evaluated once for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.evaluation.evaluate import evaluate
from tests.evaluation.synthetic_experiment import write_experiment


@pytest.fixture(scope="package")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Pack, run folders and evaluated CSV files."""
    folder = tmp_path_factory.mktemp("experiment")
    pack, work = write_experiment(folder, shape=(14, 16, 12))
    evaluate([pack], work, folder / "csv", lambda line: None)
    return pack, work, folder / "csv"
