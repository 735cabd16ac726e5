"""Which reader gets which case: no two the same one, nobody waits, and nothing is offered only at the end."""

from __future__ import annotations

import itertools
import threading
import time as real_time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from lib import offers
from lib.catalogue import batch_rows
from lib.datastore import FolderDatastore
from lib.errors import Refusal
from lib.offers import CaseOffers, reader_of
from lib.scores import ScoreBoard
from lib.workspace import Workspace
from tests.app.scan_support import block, write_nifti
from tests.catalogue.label_support import label_file, open_store


class Clock:
    """Stands in for the clock of `offers`, so that an hour passes at once."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    @staticmethod
    def sleep(seconds: float) -> None:
        real_time.sleep(seconds)

    def time(self) -> float:
        self.now += 1e-3
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(offers, "time", found)
    return found


@pytest.fixture
def store(scans: Path, workspace: Workspace, clock: Clock) -> FolderDatastore:
    found = open_store(scans, workspace)
    scores = ScoreBoard(found._workspace)
    for image_id, score in (("a", 0.2), ("b", 0.7), ("c", 0.5)):
        scores.put(image_id, score, "v1")
    return found


@pytest.fixture
def desk(store: FolderDatastore) -> CaseOffers:
    return CaseOffers(store, store._database, lease_s=3600.0)


def ask(desk: CaseOffers, reader: str = "", order: str = "rank") -> str | None:
    found = desk.next(reader, "most_uncertain", order)
    return None if found is None else found.id


def test_every_reader_gets_another_case_and_the_same_one_again(desk: CaseOffers) -> None:
    assert [ask(desk, reader) for reader in ("ann", "bob", "cleo")] == ["b", "c", "a"]
    assert [ask(desk, reader) for reader in ("cleo", "ann", "bob", "ann")] == ["a", "b", "c", "b"]
    assert [(lease["reader"], lease["case_id"]) for lease in desk.current()] == [
        ("ann", "b"),
        ("bob", "c"),
        ("cleo", "a"),
    ]


def test_a_saved_label_ends_the_lease_whoever_saved_it(
    desk: CaseOffers, store: FolderDatastore, tmp_path: Path
) -> None:
    assert ask(desk, "ann") == "b"
    store.save_label("b", str(label_file(tmp_path)), "final", {"client_id": "bob"})
    assert desk.current() == []
    assert ask(desk, "ann") == "c"


def test_a_proposal_ends_no_lease(desk: CaseOffers, store: FolderDatastore, tmp_path: Path) -> None:
    assert ask(desk, "ann") == "b"
    store.save_label("b", str(label_file(tmp_path)), "original", {})
    assert ask(desk, "ann") == "b"
    assert ask(desk, "bob") == "c"


def test_after_its_time_a_case_is_free_again_but_not_while_the_reader_lives(
    desk: CaseOffers, clock: Clock
) -> None:
    assert ask(desk, "ann") == "b"
    clock.now += 3000
    assert desk.heartbeat("b", "ann").expires_at == pytest.approx(clock.now + 3600, abs=1)
    clock.now += 3000
    assert ask(desk, "bob") == "c"
    clock.now += 3700
    assert ask(desk, "cleo") == "b"
    assert ask(desk, "ann") == "c", "bob's time is over too"
    with pytest.raises(Refusal, match="'b' is not leased to 'ann'") as refusal:
        desk.heartbeat("b", "ann")
    assert refusal.value.status_code == 409


def test_a_case_given_back_is_free_and_a_skipped_one_goes_to_others(desk: CaseOffers) -> None:
    assert ask(desk, "ann") == "b"
    desk.give_back("b", "ann")
    assert ask(desk, "ann") == "b"
    desk.give_back("b", "ann", skipped=True, reason="motion artifact")
    assert ask(desk, "ann") == "c"
    assert ask(desk, "bob") == "b"


def test_nothing_is_offered_only_when_every_case_is_labeled(
    desk: CaseOffers, store: FolderDatastore, tmp_path: Path
) -> None:
    for reader in ("ann", "bob", "cleo"):
        ask(desk, reader)
    shared = desk.next("dora", "most_uncertain", "rank")
    assert shared == ("b", None), "given out longest ago, and not hers alone"
    assert ask(desk) == "b"
    for image_id in "abc":
        store.save_label(image_id, str(label_file(tmp_path)), "final", {})
    assert [ask(desk, reader) for reader in ("ann", "dora", "")] == [None, None, None]


def test_a_reader_who_skipped_all_that_is_left_gets_it_nevertheless(desk: CaseOffers) -> None:
    for expected in ("b", "c", "a"):
        assert ask(desk, "ann") == expected
        desk.give_back(expected, "ann", skipped=True)
    assert ask(desk, "ann") in {"a", "b", "c"}


def test_anonymous_requests_get_the_free_case_given_out_longest_ago(desk: CaseOffers) -> None:
    assert ask(desk, "ann") == "b"
    assert [ask(desk) for _ in range(4)] == ["c", "a", "c", "a"]
    desk.give_back("b", "ann")
    assert ask(desk) == "b"
    assert {ask(desk, order="random") for _ in range(6)} == {"a", "b", "c"}
    assert desk.current() == []


def test_priority_and_assignment_by_hand_come_before_the_score(desk: CaseOffers) -> None:
    desk.plan("a", priority=1, assigned_to=None)
    desk.plan("b", priority=None, assigned_to="cleo")
    assert ask(desk, "ann") == "a"
    assert ask(desk, "bob") == "c"
    assert ask(desk, "cleo") == "b"
    unassigned = {"id": "b", "priority": 0, "assigned_to": None, "readers_wanted": 1}
    assert desk.plan("b", None, "") == unassigned
    with pytest.raises(Refusal, match="no image 'nobody'"):
        desk.plan("nobody", 1, None)


def test_a_reader_is_a_client_id_that_is_not_empty() -> None:
    assert [reader_of({"client_id": name}) for name in (" ann ", "", "  ", None, 3, {})] == [
        "ann",
        *[""] * 5,
    ]
    assert reader_of({"user": "admin"}) == "", "what a request says of itself is no proof"


def test_readers_that_ask_at_the_same_moment_get_different_cases(
    desk: CaseOffers, scans: Path, workspace: Workspace
) -> None:
    other = open_store(scans, workspace)
    desks = [desk, CaseOffers(other, other._database, 3600.0)]
    given: dict[str, set[Any]] = {reader: set() for reader in ("ann", "bob", "cleo")}
    failures: list[BaseException] = []

    def work(number: int, reader: str) -> None:
        try:
            for _ in range(5):
                given[reader].add(desks[number % 2].next(reader, "first", "id"))
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(number, reader)) for number in range(2) for reader in given
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    ids = [{offer.id for offer in offered} for offered in given.values()]
    assert all(len(own) == 1 for own in ids), given
    assert set().union(*ids) == {"a", "b", "c"}


@pytest.mark.parametrize("order", ["rank", "random"])
def test_anonymous_requests_at_the_same_moment_all_get_a_case_while_there_is_one(
    desk: CaseOffers, scans: Path, workspace: Workspace, order: str
) -> None:
    for reader in ("ann", "bob"):
        ask(desk, reader)  # one case is left free
    other = open_store(scans, workspace)
    desks = [desk, CaseOffers(other, other._database, 3600.0)]
    given: list[str | None] = []

    def work(number: int) -> None:
        for _ in range(8):
            given.append(ask(desks[number % 2], order=order))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given == ["a"] * 48


def test_a_case_is_not_taken_while_its_reader_gives_a_sign_of_life(
    desk: CaseOffers, scans: Path, workspace: Workspace, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reader in ("cleo", "dora", "ann"):
        ask(desk, reader)
    clock.now += 3000
    for case_id, reader in (("b", "cleo"), ("c", "dora")):
        desk.heartbeat(case_id, reader)
    clock.now += 1000  # ann's time is over, and nobody came for her case
    other = open_store(scans, workspace)
    at_it, asked = threading.Event(), threading.Event()
    renew = offers.leases.renew

    def slowly(*given: Any) -> None:
        at_it.set()
        asked.wait(1)  # bob's request waits for the database meanwhile, or passes by
        renew(*given)

    monkeypatch.setattr(offers.leases, "renew", slowly)
    answers: dict[str, Any] = {}
    alive = threading.Thread(target=lambda: answers.update(ann=desk.heartbeat("a", "ann")))
    alive.start()
    assert at_it.wait(10)
    answers["bob"] = CaseOffers(other, other._database, 3600.0).next("bob", "most_uncertain", "rank")
    asked.set()
    alive.join()
    assert answers["ann"].id == "a"
    assert answers["bob"].expires_at is None, "to share, for all are in work"
    assert {lease["reader"]: lease["case_id"] for lease in desk.current()} == {
        "cleo": "b",
        "dora": "c",
        "ann": "a",
    }


def test_a_folder_in_the_place_of_a_scan_ends_its_lease(desk: CaseOffers, scans: Path) -> None:
    assert ask(desk, "ann") == "b"
    (scans / "b.nii.gz").unlink()
    (scans / "b.nii.gz").mkdir()
    assert ask(desk, "ann") == "c"
    assert [lease["case_id"] for lease in desk.current()] == ["c"]


CASES = ("a", "b", "c")
READERS = st.integers(0, 3)
SERVERS = st.integers(0, 1)
RUNS = itertools.count()


class Reading(RuleBasedStateMachine):
    """Readers who come and go, on two servers, at cases for one, two or three of them. No case has more
    readers than it wants, nobody gets one twice, and it is decided by its readings or waits."""

    scans: Path
    workspace: Workspace

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        offers.time = self.clock  # type: ignore[assignment]
        self.stores = [open_store(self.scans, self.workspace) for _ in range(2)]
        # One server offers batches, the other one does not: that changes the order, and nothing else.
        self.desks = [CaseOffers(self.stores[i], self.stores[i]._database, 100.0, 2 * i) for i in range(2)]
        other = write_nifti(self.scans.parent / "other.nii.gz", np.roll(block(), 4, axis=0))
        self.files = [label_file(self.scans.parent), other]
        for case in CASES:  # whatever the run before has left
            told = {"client_id": "nobody", "adjudicate": True}
            self.stores[0].save_label(case, str(self.files[0]), "final", told)
            self.stores[0].remove_label(case, "final")
            self.desks[0].plan(case, readers_wanted=1)
        # Others in each run: what a reader has skipped stays skipped.
        self.readers = [f"reader {next(RUNS)}-{number}" for number in range(4)]
        self.own: dict[str, tuple[str, float]] = {}
        self.labeled: set[str] = set()
        self.wanted = dict.fromkeys(CASES, 1)
        self.given: dict[str, dict[str, int]] = {case: {} for case in CASES}

    def complete(self) -> set[str]:
        return {case for case in CASES if len(self.given[case]) >= self.wanted[case]} - self.labeled

    def full(self) -> set[str]:
        """Cases without a place for one more reader."""
        held = [case for case, until in self.own.values() if until > self.clock.now]
        return {case for case in CASES if held.count(case) + len(self.given[case]) >= self.wanted[case]}

    def read_by(self, reader: str) -> set[str]:
        return {case for case in CASES if reader in self.given[case]}

    def skipped(self, reader: str) -> set[str]:
        with self.stores[0]._database.read() as session:
            return offers.leases.skipped_by(session, reader, CASES)

    def decide(self, case: str) -> None:
        if case in self.complete() and len(set(self.given[case].values())) == 1:
            self.label(case)

    def label(self, case: str) -> None:
        self.labeled.add(case)
        self.given[case] = {}
        self.own = {who: own for who, own in self.own.items() if own[0] != case}

    @rule(server=SERVERS, number=READERS, order=st.sampled_from(["rank", "id", "random"]))
    def ask(self, server: int, number: int, order: str) -> None:
        reader = self.readers[number]
        full = self.full()
        offer = self.desks[server].next(reader, "any", order)
        if offer is None:
            assert self.labeled | self.read_by(reader) | self.complete() == set(CASES)
            return
        assert offer.id not in self.labeled | self.read_by(reader)
        before = self.own.get(reader)
        if before is not None and before[1] > self.clock.now:
            assert offer.id == before[0], "the same reader gets the same case"
        elif offer.expires_at is None:
            assert full | self.labeled | self.read_by(reader) | self.skipped(reader) == set(CASES)
            assert offer.id not in self.complete()
            return
        elif before is None or before[0] != offer.id:
            assert offer.id not in full, "more readers than the case wants"
        assert offer.expires_at is not None
        self.own[reader] = (offer.id, offer.expires_at)

    @rule(batch=st.permutations(CASES))
    def choose_a_batch(self, batch: list[str]) -> None:
        self.stores[0]._database.write(lambda session: batch_rows.choose(session, batch[:2], "v1"))

    @rule(server=SERVERS, number=READERS)
    def heartbeat(self, server: int, number: int) -> None:
        reader = self.readers[number]
        held = self.own.get(reader)
        if held is None:
            with pytest.raises(Refusal, match="is not leased to"):
                self.desks[server].heartbeat("no case", reader)
        elif held[1] > self.clock.now:
            self.own[reader] = (held[0], self.desks[server].heartbeat(held[0], reader).expires_at or 0.0)

    @rule(server=SERVERS, number=READERS, skipped=st.booleans())
    def give_back(self, server: int, number: int, skipped: bool) -> None:
        reader = self.readers[number]
        held = self.own.pop(reader, None)
        if held is not None and held[1] > self.clock.now:
            self.desks[server].give_back(held[0], reader, skipped=skipped)

    @rule(server=SERVERS, number=READERS, variant=st.integers(0, 1))
    def save_own(self, server: int, number: int, variant: int) -> None:
        held = self.own.get(self.readers[number])
        if held is not None:
            self.save(server, held[0], number, variant)

    @rule(server=SERVERS, case=st.sampled_from(CASES), number=READERS, variant=st.integers(0, 1))
    def save(self, server: int, case: str, number: int, variant: int) -> None:
        reader, given = self.readers[number], self.given[case]
        if case in self.labeled:
            return
        with self.stores[0]._database.read() as session:
            lease = offers.leases.of_reader(session, reader)
            stays = reader in given or (lease is not None and lease.case_id == case)
        settles = (self.wanted[case] == 1 and not given) or (case in self.complete() and not stays)
        self.stores[server].save_label(case, str(self.files[variant]), "final", {"client_id": reader})
        if settles:
            self.label(case)
            return
        given[reader] = variant
        if self.own.get(reader, ("", 0))[0] == case:
            del self.own[reader]
        self.decide(case)

    @rule(server=SERVERS, case=st.sampled_from(CASES), readers=st.integers(1, 3))
    def plan(self, server: int, case: str, readers: int) -> None:
        if case not in self.labeled:
            self.desks[server].plan(case, readers_wanted=readers)
            self.wanted[case] = readers
            self.decide(case)

    @rule(server=SERVERS)
    def adjudicate(self, server: int) -> None:
        store = self.stores[server]
        for waiting in store.readings.queue(1)["adjudications"]:
            store.readings.settle(waiting["id"], waiting["readings"][-1]["label"], "chief")
            self.label(waiting["id"])

    @rule(seconds=st.sampled_from([30.0, 101.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def anonymous(self) -> None:
        offer = self.desks[0].next("", "any", "rank")
        assert (offer is None) == (self.labeled | self.complete() == set(CASES))

    @invariant()
    def what_is_decided_and_what_waits_is_what_the_readers_gave(self) -> None:
        if not hasattr(self, "desks"):
            return
        assert set(self.stores[1].final_labels()) == self.labeled
        assert not {lease["case_id"] for lease in self.desks[1].current()} & self.labeled
        queue = self.stores[1].readings.queue(5)["adjudications"]
        assert {entry["id"] for entry in queue} == self.complete()
        with self.stores[1]._database.read() as session:
            for case in CASES:
                given = {found.reader for found in offers.readings.open_of(session, case)}
                assert given == set(self.given[case])


@pytest.fixture
def own_clock() -> Iterator[None]:
    real = offers.time
    yield
    offers.time = real  # type: ignore[misc]


def test_any_order_of_readers_keeps_places_and_readings_true(
    scans: Path, workspace: Workspace, own_clock: None
) -> None:
    class Here(Reading):
        pass

    Here.scans, Here.workspace = scans, workspace
    few = settings(
        max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Here, settings=few)  # type: ignore[no-untyped-call]
