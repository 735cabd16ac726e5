"""A series is fetched once, whole and checked; faults in the middle lose nothing and leave nothing half."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from lib.dicom.series import read_series
from lib.pacs.cache import SeriesCache
from lib.pacs.connection import PacsAnswerUnusable, PacsRefused, PacsUnavailable
from lib.pacs.dicomweb import DicomWeb
from tests.dicom.phantom_series import PLANS, encoded, phantom_series
from tests.pacs.small_pacs import SmallPacs


def uids(instances: list[Dataset]) -> tuple[str, str]:
    return str(instances[0].StudyInstanceUID), str(instances[0].SeriesInstanceUID)


@pytest.fixture
def instances(pacs: SmallPacs) -> list[Dataset]:
    made = phantom_series(PLANS["oblique"])
    pacs.add(made)
    return made


def downloads(pacs: SmallPacs) -> list[str]:
    return [path for method, path, _ in pacs.requests if method == "GET" and not path.endswith("/instances")]


def test_a_series_arrives_as_the_volume_it_is_and_only_once(
    pacs: SmallPacs, cache: SeriesCache, instances: list[Dataset]
) -> None:
    first, second = cache.get(*uids(instances)), cache.get(*uids(instances))
    assert np.array_equal(read_series(first.files).volume.array, read_series(instances).volume.array)
    assert first == second
    assert len(downloads(pacs)) == 1
    assert cache.cached() == [uids(instances)[1]]


def test_a_restart_and_a_pacs_that_is_down_find_the_series_on_the_disk(
    pacs: SmallPacs, cache: SeriesCache, web: DicomWeb, instances: list[Dataset], tmp_path: Path
) -> None:
    cache.get(*uids(instances))
    pacs.faults = [("/studies", 503)] * 20
    restarted = SeriesCache(tmp_path / "cache", web)
    assert len(restarted.get(*uids(instances)).files) == 7
    assert len(restarted.refresh(*uids(instances)).files) == 7


def test_who_ask_at_once_share_one_download(
    pacs: SmallPacs, cache: SeriesCache, instances: list[Dataset]
) -> None:
    threads = [threading.Thread(target=cache.get, args=uids(instances)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(downloads(pacs)) == 1


@pytest.mark.parametrize("fault", ["cut", "alter", 500, "drop"])
def test_a_fault_in_the_middle_is_mended_by_the_next_attempt(
    pacs: SmallPacs, cache: SeriesCache, instances: list[Dataset], fault: str | int
) -> None:
    path = f"/studies/{uids(instances)[0]}/series/{uids(instances)[1]}"
    pacs.faults = [(path + "x", 500)]  # stays unused: only the download is to fail, not the list before it
    broken = SeriesCacheFault(pacs, path, fault)
    with broken:
        found = cache.get(*uids(instances))
    assert len(read_series(found.files).grid.slices) == 7
    assert broken.met


class SeriesCacheFault:
    """Lets the first download meet a fault, whatever lists are asked for before."""

    def __init__(self, pacs: SmallPacs, path: str, fault: str | int) -> None:
        self.pacs, self.path, self.fault, self.met, self.original = pacs, path, fault, False, pacs.fault

    def __enter__(self) -> None:
        def fault(path: str) -> int | str | None:
            if path == self.path and not self.met:
                self.met = True
                return self.fault
            return None

        self.pacs.fault = fault  # type: ignore[method-assign]

    def __exit__(self, *error: object) -> None:
        self.pacs.fault = self.original  # type: ignore[method-assign]


def test_what_arrived_before_the_pacs_went_down_does_not_travel_again(
    pacs: SmallPacs, web: DicomWeb, cache: SeriesCache, instances: list[Dataset], tmp_path: Path
) -> None:
    study, series = uids(instances)
    kept: list[bytes] = []
    web.fetch_series(study, series, kept.append)
    partial = tmp_path / "cache" / f"{series}.partial"
    partial.mkdir()
    for dataset in instances[:4]:
        (partial / f"{dataset.SOPInstanceUID}.dcm").write_bytes(encoded(dataset))
    pacs.requests.clear()
    assert len(cache.get(study, series).files) == 7
    assert len(downloads(pacs)) == 3
    assert all("/instances/" in path for path in downloads(pacs))


def test_a_series_that_cannot_be_fetched_leaves_no_entry(
    pacs: SmallPacs, cache: SeriesCache, instances: list[Dataset]
) -> None:
    study, series = uids(instances)
    original = pacs.fault
    pacs.fault = lambda path: "alter" if not path.endswith("/instances") else None  # type: ignore[method-assign]
    with pytest.raises(PacsUnavailable, match="truncated or damaged"):
        cache.get(study, series)
    assert cache.cached() == []
    pacs.fault = original  # type: ignore[method-assign]
    assert len(cache.get(study, series).files) == 7


def test_an_instance_of_another_series_is_not_kept(
    pacs: SmallPacs, cache: SeriesCache, instances: list[Dataset]
) -> None:
    pacs.fault = lambda path: "other" if not path.endswith("/instances") else None  # type: ignore[method-assign]
    with pytest.raises(PacsAnswerUnusable, match="another series"):
        cache.get(*uids(instances))
    assert cache.cached() == []


def test_a_series_the_pacs_does_not_have_is_refused(cache: SeriesCache) -> None:
    with pytest.raises(PacsAnswerUnusable, match="no instances"):
        cache.get("1.2", "1.3")


def test_wrong_credentials_are_not_tried_again(
    pacs: SmallPacs, cache: SeriesCache, instances: list[Dataset], waits: list[float]
) -> None:
    pacs.credentials = "Basic other"
    with pytest.raises(PacsRefused, match="check user"):
        cache.get(*uids(instances))
    assert not waits


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_file_damaged_on_the_disk_is_fetched_anew(
    pacs: SmallPacs, cache: SeriesCache, instances: list[Dataset], damage: str
) -> None:
    file = cache.get(*uids(instances)).files[2]
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-9] if damage == "cut" else content[:-9] + b"123456789")
    assert cache.get(*uids(instances)).files[2].read_bytes() == content
    assert len(downloads(pacs)) == 2


def test_a_series_that_grew_in_the_pacs_is_noticed(
    pacs: SmallPacs, cache: SeriesCache, instances: list[Dataset]
) -> None:
    last = max(instances, key=lambda dataset: dataset.InstanceNumber)
    del pacs.objects[str(last.SOPInstanceUID)]
    before = cache.get(*uids(instances))
    pacs.add([last])
    assert len(cache.get(*uids(instances)).files) == 6
    after = cache.refresh(*uids(instances))
    assert len(after.files) == 7
    assert after.fingerprint != before.fingerprint
    assert cache.refresh(*uids(instances)) == after


def test_a_series_that_changes_while_it_travels_is_not_taken_for_whole(
    pacs: SmallPacs, cache: SeriesCache, instances: list[Dataset]
) -> None:
    late = instances[3]
    del pacs.objects[str(late.SOPInstanceUID)]

    def arrive(path: str) -> None:
        if not path.endswith("/instances"):
            pacs.add([late])

    pacs.fault = arrive  # type: ignore[method-assign, assignment]
    with pytest.raises(PacsUnavailable, match="changes in the PACS just now"):
        cache.get(*uids(instances))
    assert len(cache.get(*uids(instances)).files) == 7


def test_the_least_recently_used_series_makes_room(pacs: SmallPacs, web: DicomWeb, tmp_path: Path) -> None:
    series = [phantom_series(PLANS["axial"]) for _ in range(4)]
    for made in series:
        pacs.add(made)
    one = sum(len(encoded(dataset)) for dataset in series[0])
    cache = SeriesCache(tmp_path, web, max_bytes=int(2.6 * one) + 6000)
    for made in (series[0], series[1], series[0], series[2]):
        cache.get(*uids(made))
    assert cache.cached() == sorted(uids(made)[1] for made in (series[0], series[2]))
    assert cache.size() <= int(2.6 * one) + 6000
    tiny = SeriesCache(tmp_path, web, max_bytes=1)
    assert len(tiny.get(*uids(series[3])).files) == 7
    assert tiny.cached() == [uids(series[3])[1]]


def test_many_threads_on_a_small_cache_get_every_series_whole(
    pacs: SmallPacs, web: DicomWeb, tmp_path: Path
) -> None:
    series = [phantom_series(PLANS["axial"]) for _ in range(4)]
    for made in series:
        pacs.add(made)
    cache = SeriesCache(tmp_path, web, max_bytes=15_000)  # holds one
    failures: list[BaseException] = []

    def use() -> None:
        try:
            for made in series * 2:
                assert len(cache.get(*uids(made)).files) == 7
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_only_this_user_may_read_the_cache(cache: SeriesCache, tmp_path: Path) -> None:
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
