"""One queue for any number of server processes: nothing is forgotten or run twice, whoever is killed."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings as hypothesis_settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy.orm import Session

from lib.catalogue import model_rows
from lib.catalogue.schema import Job
from lib.heartbeat import Heartbeat, Watch
from lib.process_identity import has_ended, this_process
from lib.registry import ModelRegistry
from lib.round_record import Round
from lib.round_store import RoundStore
from lib.rounds import RoundQueue
from lib.score_jobs import ScoreJobs
from lib.workspace import Workspace
from tests.app.round_support import Studies, tiny_checkpoint
from tests.catalogue.postgresql import new_database
from tests.catalogue.queue_support import close, end, open_queue, start_server, statuses, wait_for


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path / "studies", count=4)


@pytest.fixture
def queues(studies: Studies, database_url: str) -> Iterator[list[RoundQueue]]:
    """Two servers of one project, not started."""
    opened = [open_queue(studies.folder, database_url) for _ in range(2)]
    yield opened
    for queue in opened:
        close(queue)


def test_every_server_shows_the_same_and_learns_labels_that_came_by_another(
    studies: Studies, queues: list[RoundQueue]
) -> None:
    one, other = queues
    one.start()  # the only one that runs rounds; labels come by the other
    studies.save_label("case00", 0)
    other.notice_labels()
    wait_for(lambda: statuses(one) == ["done"])
    assert one.list() == other.list()
    assert other.list()[0]["labeled_ids"] == ["case00"]
    version = other.list()[0]["model_version"]
    assert other.service._registry.published() == one.service._registry.published() == version
    assert other.request("more").id == "r0002"
    assert other.wait(other.rounds()[1], 60).status == "done"
    assert one.list() == other.list()
    assert [(job["kind"], job["status"]) for job in other.jobs()] == [("train", "done")] * 2


def test_a_killed_server_loses_no_round_and_the_other_one_goes_on(
    studies: Studies, database_url: str
) -> None:
    studies.save_label("case00", 0)
    process = start_server(studies.folder, database_url, seconds=600)
    survivor = open_queue(studies.folder, database_url)
    try:
        wait_for(lambda: statuses(survivor) == ["running"])
        studies.save_label("case01", 1)
        survivor.start()
        wait_for(lambda: statuses(survivor) == ["running", "queued"])
        time.sleep(1.5)
        assert statuses(survivor) == ["running", "queued"], "it belongs to a server that is alive"
        end(process)
        wait_for(lambda: statuses(survivor) == ["failed", "done"])
        assert survivor.list()[0]["reason"] == "interrupted: the server stopped"
        assert survivor.rounds()[1].read == studies.final_labels()
        assert "Round r0001 was cut off with its server" in survivor.repairs[0]
    finally:
        close(survivor)
        if process.poll() is None:
            end(process)


def test_a_round_cancelled_or_paused_at_one_server_stops_at_the_other(
    studies: Studies, database_url: str
) -> None:
    studies.save_label("case00", 0)
    one, other = (open_queue(studies.folder, database_url, seconds=600) for _ in range(2))
    try:
        one.start()
        wait_for(lambda: statuses(one) == ["running"])
        other.pause("r0001")
        wait_for(lambda: one.service.running is None)
        assert statuses(one) == ["paused"]
        other.resume("r0001")
        wait_for(lambda: statuses(one) == ["running"])
        other.cancel_round("r0001")
        wait_for(lambda: one.service.running is None)
        assert statuses(one) == ["cancelled"]
        assert one.service._registry.list() == []
    finally:
        close(one)
        close(other)


def claimed(queue: RoundQueue) -> Job:
    """The job of a round that this queue's process has begun."""
    store = queue.service._store
    store.request("asked for")
    assert store.claim(store.state().change, {"case00": "1"}, set(), 1) is not None
    job = store.state().running
    assert job is not None
    return job


def test_an_owner_that_is_alive_but_silent_is_taken_over_only_after_a_while(queues: list[RoundQueue]) -> None:
    one, other = queues
    job = claimed(one)
    watch = Watch(stale_s=0.3)
    assert not watch.is_abandoned(job)
    with Heartbeat(one.service._store.database, job.id, one.service._store.owner, dict, lambda: None):
        for _ in range(5):
            time.sleep(0.4)
            running = other.service._store.state().running
            assert running is not None
            if running.heartbeat_at != job.heartbeat_at:
                break
        assert running.heartbeat_at != job.heartbeat_at, "nothing was heard of the owner"
        assert not watch.is_abandoned(running)
        assert other.service._store.interrupt(job) is None, "it beat since it was looked at"
    silent = other.service._store.state().running
    assert silent is not None
    watch.is_abandoned(silent)
    time.sleep(0.4)
    assert watch.is_abandoned(silent)
    assert other.service._store.interrupt(silent) is not None
    assert statuses(other) == ["failed", "queued"]
    assert other.rounds()[1].requested, "somebody asked for the round that was cut off"


def test_a_round_that_is_cut_off_does_not_wait_for_the_pause_of_the_one_behind_it(
    queues: list[RoundQueue],
) -> None:
    job = claimed(queues[0])
    behind = queues[1].service._store.request("another one")
    assert queues[1].pause(behind.id).status == "paused"
    assert queues[1].service._store.interrupt(job) is not None
    assert statuses(queues[1]) == ["failed", "queued"]
    assert "r0001 was cut off" in queues[1].list()[1]["reason"]


def killed_once_more(queue: RoundQueue) -> Round:
    """The waiting round begins, and its worker dies."""
    store = queue.service._store
    entry = store.claim(store.state().change, {"case00": "1"}, set(), 1)
    assert entry is not None
    assert store.fail(entry, "The worker was ended by signal SIGKILL.", {}, cut_off=True)
    return entry


def test_a_round_whose_worker_dies_is_followed_until_it_dies_at_the_same_labels_too_often(
    queues: list[RoundQueue],
) -> None:
    one, other = queues
    one.service._store.request("asked for")
    for _ in range(4):
        killed_once_more(one)
    assert statuses(other) == ["failed"] * 4
    assert "goes on where it was" in other.list()[2]["reason"]
    assert "a new label" in other.list()[3]["reason"]
    one.service._store.postpone({"case00": "1", "case01": "2"}, set(), 1)
    killed_once_more(one)
    assert statuses(other) == [*["failed"] * 5, "queued"], "another label is another chance"


def test_a_round_whose_worker_died_is_tried_again_after_growing_pauses(queues: list[RoundQueue]) -> None:
    one = queues[0]
    one.service._store.request("asked for")
    waits = []
    for _ in range(3):
        killed_once_more(one)
        waits.append(one.service._debounce(one.service._store.state()))
    assert waits[0] == pytest.approx(0, abs=0.1)
    assert waits[1:] == pytest.approx([10, 60], abs=1)
    one.service._store.request("now")
    assert one.service._debounce(one.service._store.state()) <= 0


def test_a_job_of_scoring_that_nobody_works_at_ends_when_every_case_is_scored(
    queues: list[RoundQueue],
) -> None:
    database = queues[0].service._store.database
    one, other = ScoreJobs(database), ScoreJobs(queues[1].service._store.database)
    first = one.take("v1")
    other.close("v1")
    assert [job["status"] for job in queues[1].jobs()] == ["running"], "its owner is at it"
    one.leave(int(first or 0), {"scored": 1, "cases": 3}, finished=False)
    other.close("v1")
    one.leave(int(one.take("v1") or 0), {"scored": 1, "cases": 3}, finished=False)
    other.close("v2")
    paused = int(one.take("v2") or 0)
    assert one.pause(paused)
    one.leave(paused, {}, finished=False)
    other.close("v2")
    assert [job["status"] for job in queues[1].jobs()] == ["done", "cancelled", "paused"]


def test_what_the_former_owner_still_does_with_a_round_that_was_taken_over_counts_nothing(
    queues: list[RoundQueue],
) -> None:
    one, other = queues
    store = one.service._store
    job = claimed(one)
    [entry] = one.rounds()
    assert other.service._store.interrupt(job) is not None
    lost: list[bool] = []
    with Heartbeat(store.database, job.id, store.owner, dict, lambda: lost.append(True)):
        wait_for(lambda: lost)
    assert not store.fail(entry, "late", {})
    store.note(entry)
    assert store.database.write(lambda session: store.is_mine(session, entry)) is False
    assert [entry.reason for entry in one.rounds()][:1] == ["interrupted: the server stopped"]


def test_one_process_scores_at_a_time_and_none_while_a_round_runs(queues: list[RoundQueue]) -> None:
    database = queues[0].service._store.database
    one, other = ScoreJobs(database), ScoreJobs(queues[1].service._store.database)
    job_id = one.take("v1")
    assert job_id is not None
    assert other.take("v1") is None
    one.leave(job_id, {"scored": 1, "cases": 3}, finished=False)
    assert other.take("v1") == job_id, "it goes on where the first one left it"
    claimed(queues[0])
    other.leave(job_id, {"scored": 2, "cases": 3}, finished=False)
    assert one.take("v1") is None
    queues[0].cancel()
    newer = one.take("v2")
    assert newer not in (None, job_id)
    one.leave(int(newer or 0), {"scored": 3, "cases": 3}, finished=True)
    found = [
        (job["kind"], job["status"], job["progress"]) for job in queues[1].jobs() if job["kind"] == "score"
    ]
    assert found == [
        ("score", "cancelled", {"scored": 2, "cases": 3}),
        ("score", "done", {"scored": 3, "cases": 3}),
    ]


def test_scoring_that_a_person_paused_rests_until_it_is_resumed_whatever_goes_live(
    queues: list[RoundQueue],
) -> None:
    database = queues[0].service._store.database
    one, other = ScoreJobs(database), ScoreJobs(queues[1].service._store.database)
    job_id = one.take("v1")
    assert job_id is not None
    lost: list[bool] = []
    with Heartbeat(database, job_id, one.owner, dict, lambda: lost.append(True)):
        assert other.pause(job_id)
        wait_for(lambda: lost)
    one.leave(job_id, {"scored": 1, "cases": 3}, finished=False)
    assert (one.take("v1"), other.take("v1"), one.take("v2")) == (None, None, None)
    [before, paused] = queues[1].jobs()
    assert (before["status"], paused["status"], paused["request"]) == (
        "cancelled", "paused", {"model_version": "v2"},
    )  # fmt: skip
    assert not one.resume(job_id), "it has ended"
    assert not one.pause(paused["id"])
    assert one.resume(paused["id"])
    assert other.take("v2") == paused["id"]


def test_a_killed_scoring_process_is_relieved(queues: list[RoundQueue]) -> None:
    database = queues[0].service._store.database
    gone, heir = ScoreJobs(database), ScoreJobs(database)
    parts = this_process().split("|")
    parts[3:5] = ["999999999", "1"]
    gone.owner = "|".join(parts)
    assert has_ended(gone.owner)
    job_id = gone.take("v1")
    assert heir.take("v1") == job_id


def test_only_the_processes_of_this_machine_can_be_known_to_have_ended() -> None:
    assert not has_ended(this_process())
    elsewhere = this_process().split("|")
    elsewhere[0] = "another-machine"
    elsewhere[4] = "1"
    assert not has_ended("|".join(elsewhere))
    assert not has_ended("what is this")


def test_two_servers_of_one_machine_and_file_split_cases_once(queues: list[RoundQueue]) -> None:
    one, other = queues[0].roles, queues[1].roles
    decided = {
        case: role
        for split, case in ((one, "d"), (other, "c"), (one, "b"), (other, "a"))
        for role in [split.assign(case)]
    }
    assert decided == {"d": "train", "c": "train", "b": "train", "a": "validate"}
    assert one.roles() == other.roles() == decided


class Queue(RuleBasedStateMachine):
    """Three processes in any order of steps and deaths, against a model: what waits, runs, and must come."""

    url = ""
    places = st.integers(0, 2)

    def make_url(self) -> str:
        return ""

    @initialize()
    def begin(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.url = self.make_url()
        workspace = Workspace(self._temporary.name, self.url)
        self.stores = [RoundStore(workspace) for _ in range(3)]
        self.labels: dict[str, str] = {}
        self.saved = 0
        self.owed = False  # the last word on the labels was not a cancellation: a round must come
        self.runner: int | None = None
        self.entry: Round | None = None
        self.looked: list[tuple[int, dict[str, str]] | None] = [None, None, None]

    @rule(place=places, case=st.sampled_from("ab"))
    def save_a_label(self, place: int, case: str) -> None:
        self.saved += 1
        self.labels = {**self.labels, case: str(self.saved)}
        self.stores[place].postpone(self.labels, set(), 1)
        self.owed = True

    @rule(place=places)
    def request(self, place: int) -> None:
        if self.labels:
            assert self.stores[place].request("asked for").requested
            self.owed = True

    @rule(place=places)
    def look(self, place: int) -> None:
        self.looked[place] = (self.stores[place].state().change, dict(self.labels))

    @rule(place=places)
    def claim(self, place: int) -> None:
        if self.looked[place] is None:
            return
        change, labels = self.looked[place] or (0, {})
        entry = self.stores[place].claim(change, labels, set(), 1)
        if entry is not None:
            assert self.runner is None, "two rounds run"
            assert labels == self.labels, "a label that came since was left out"
            self.runner, self.entry = place, entry

    @rule(failed=st.booleans())
    def finish(self, failed: bool) -> None:
        if self.runner is None or self.entry is None:
            return
        store, entry = self.stores[self.runner], self.entry
        if failed:
            assert store.fail(entry, "failed", {})
            self.owed = self.owed and bool(store.state().waiting)
        else:
            entry.read = dict(entry.claimed)

            def end_it(session: object) -> None:
                assert store.is_mine(session, entry)  # type: ignore[arg-type]
                store.finish(session, entry, "done", "", {})  # type: ignore[arg-type]

            store.database.write(end_it)
            assert store.learned() == entry.read
        self.runner = self.entry = None

    @rule(place=places)
    def kill_the_runner(self, place: int) -> None:
        job = self.stores[place].state().running
        if job is None:
            return
        assert self.stores[place].interrupt(job) is not None
        assert self.stores[place].interrupt(job) is None, "taken over twice"
        self.runner = self.entry = None
        assert self.stores[place].state().waiting is not None, "forgotten"

    @rule(place=places)
    def cancel(self, place: int) -> None:
        self.stores[place].cancel()
        self.runner = self.entry = None
        self.owed = False

    @rule(place=places, resume=st.booleans())
    def pause_or_resume(self, place: int, resume: bool) -> None:
        store = self.stores[place]
        current = store.current()
        if current is None:
            return
        if resume:
            store.resume(current.id)
        elif store.pause(current.id) is not None and self.runner is not None:
            self.runner = self.entry = None

    @invariant()
    def at_most_one_runs_and_one_waits_and_what_is_owed_comes(self) -> None:
        if not hasattr(self, "stores"):
            return
        rounds = self.stores[0].rounds()
        found = [entry.status for entry in rounds]
        assert found.count("running") == (self.runner is not None)
        assert found.count("queued") + found.count("paused") <= 1
        assert len({entry.id for entry in rounds}) == len(rounds)
        waits = set(found) & {"queued", "paused"}
        takes_in = self.entry is not None and self.entry.claimed == self.labels
        if self.owed and self.stores[0].learned() != self.labels:
            assert waits or takes_in, "a label is neither learned nor waited for"

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            self.stores[0].database.close()
            self._temporary.cleanup()


FEW = hypothesis_settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_any_order_of_steps_and_deaths_keeps_the_queue_whole() -> None:
    run_state_machine_as_test(Queue, settings=FEW)  # type: ignore[no-untyped-call]


def test_any_order_of_steps_and_deaths_keeps_the_queue_whole_on_postgresql(postgresql_server: str) -> None:
    class OnPostgresql(Queue):
        def make_url(self) -> str:
            return new_database(postgresql_server)

    run_state_machine_as_test(OnPostgresql, settings=FEW)  # type: ignore[no-untyped-call]


def test_a_version_published_by_another_process_is_the_one_that_the_next_inference_loads(
    studies: Studies, database_url: str
) -> None:
    from lib.infers import PublishedModel
    from tests.app.round_support import settings

    registries = [ModelRegistry(Workspace.of(studies.folder, database_url=database_url)) for _ in range(2)]
    model = PublishedModel(registries[1], settings())
    versions = [registries[0].add(tiny_checkpoint(seed), "r0001", None, {}) for seed in (1, 2)]
    for version in (*versions, versions[0]):
        registries[0].publish(version)
        live = model.get()
        assert live is not None
        assert live[0] == version
    (studies.folder / ".ugmcl" / "models" / versions[1] / "model.pt").write_bytes(b"damaged")
    registries[0].publish(versions[1])
    fallen_back = model.get()
    assert fallen_back is not None
    assert fallen_back[0] == versions[0] == registries[0].published()
    for registry in registries:
        registry._database.close()


def test_the_live_version_stays_what_it_was_compared_with_until_the_candidate_is_in(
    studies: Studies, database_url: str
) -> None:
    registries = [ModelRegistry(Workspace.of(studies.folder, database_url=database_url)) for _ in range(2)]
    first, second, candidate = (registries[0].add(tiny_checkpoint(s), "r0001", None, {}) for s in (1, 2, 3))
    registries[0].publish(second)
    rollback = threading.Thread(target=registries[1].publish, args=(first,))

    def settle(session: Session) -> bool:
        assert registries[0].hold_live(session) == second
        rollback.start()
        rollback.join(0.5)
        model_rows.publish(session, candidate)
        return rollback.is_alive()

    assert registries[0]._database.write(settle), "the rollback waits, and is the later one"
    rollback.join()
    assert registries[0].published() == first
    for registry in registries:
        registry._database.close()
