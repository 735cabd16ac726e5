"""Fixtures for every folder of tests: where the scans are, how much time a journey may take, which device."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.viewers.journey_record import JourneyRecord

REPOSITORY = Path(__file__).resolve().parents[1]
_journeys = JourneyRecord(REPOSITORY / "build" / "test-viewers.json")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Record the journeys of viewers in `build/test-viewers.json`.

    A test takes part in a journey by the mark `journey("name")`. The journey has passed when each of its
    tests has; its seconds are those of all of them, fixtures included. A journey with a skipped test is left
    out; pytest's summary says why it was skipped.
    """
    report: pytest.TestReport = yield  # type: ignore[assignment,misc]
    for mark in item.iter_markers("journey"):
        _journeys.add(mark.args[0], report.outcome, report.duration)
    return report  # type: ignore[return-value]


def shared_data_root() -> Path:
    """The folder of real scans: `UGMCL_TEST_DATA`, or `../shared/data` beside the checkout."""
    given = os.environ.get("UGMCL_TEST_DATA")
    return Path(given) if given else REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans; skips the test where it is absent."""
    root = shared_data_root()
    if not root.is_dir():
        pytest.skip(f"no real scans at {root}; set UGMCL_TEST_DATA to their folder")
    return root


@pytest.fixture(scope="session")
def hippocampus(shared_data: Path) -> Path:
    """The hippocampus set: `images/`, `labels/`, `split.json`; skips the test where it is absent."""
    folder = shared_data / "hippocampus"
    if not (folder / "split.json").is_file():
        pytest.skip(f"no hippocampus set at {folder}; set UGMCL_TEST_DATA to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def full_budget() -> bool:
    """Whether journeys may use their full budget (`make test-real`) or the small one (`make test`)."""
    return os.environ.get("UGMCL_FULL_BUDGET", "") not in ("", "0")


@pytest.fixture(autouse=True)
def keep_monai_label_settings() -> Iterator[None]:
    """Undo what the stock host writes into the environment, which the next app would otherwise inherit."""
    before = {key: value for key, value in os.environ.items() if key.startswith("MONAI_LABEL_")}
    yield
    for key in [key for key in os.environ if key.startswith("MONAI_LABEL_")]:
        if key not in before:
            del os.environ[key]
    os.environ.update(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests where torch sees no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch sees none"))
