"""Exports asked for, taken, killed, paused and cancelled in any order: none is doubled, none forgotten."""

from __future__ import annotations

import tempfile
import uuid

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import update

from lib.catalogue.schema import Job
from lib.export_jobs import ExportJobs, Taken
from lib.export_request import ExportRequest
from lib.workspace import Workspace

PLACES = st.integers(0, 2)
WHICH = st.integers(0, 5)
ENDED = ("done", "failed", "cancelled")


class ExportQueue(RuleBasedStateMachine):
    """Three processes and a model of what they should see: the status of each export, and who runs one."""

    url = ""

    def make_url(self) -> str:
        return ""

    @initialize()
    def begin(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.url = self.make_url()
        self.database = Workspace(self._temporary.name, self.url).database
        self.places = [ExportJobs(self.database) for _ in range(3)]
        self.status: dict[str, str] = {}
        self.asked: dict[str, bool] = {}
        self.attempts: dict[str, int] = {}
        self.running: tuple[int, Taken] | None = None
        self.former: list[tuple[int, Taken]] = []  # who once ran one, and may not know that it does no more

    def waiting(self) -> list[str]:
        return [export_id for export_id, status in self.status.items() if status == "queued"]

    def one(self, which: int) -> str | None:
        return list(self.status)[which % len(self.status)] if self.status else None

    def lose(self) -> None:
        assert self.running is not None
        self.former.append(self.running)
        self.running = None

    @rule(place=PLACES, maps=st.booleans())
    def request(self, place: int, maps: bool) -> None:
        job = self.places[place].request(ExportRequest(maps=maps))
        export_id = job.request["export"]
        same = [known for known in self.waiting() if self.asked[known] == maps]
        if same:
            assert export_id == same[0], "the same request waits twice"
            return
        assert export_id not in self.status
        self.status[export_id], self.asked[export_id], self.attempts[export_id] = "queued", maps, 0

    @rule(place=PLACES)
    def take(self, place: int) -> None:
        taken = self.places[place].take()
        if self.running is not None and self.running[0] != place:
            assert taken is None, "two exports run"
            return
        if self.running is not None:  # a process goes on with its own
            assert taken is not None
            assert taken.id == self.running[1].id
        elif not self.waiting():
            assert taken is None
            return
        else:
            assert taken is not None
            assert taken.id == self.waiting()[0], "the one that waits longest comes first"
        self.attempts[taken.id] += 1
        assert taken.attempt == self.attempts[taken.id]
        assert taken.request.maps == self.asked[taken.id]
        self.status[taken.id], self.running = "running", (place, taken)

    @rule(status=st.sampled_from(["done", "failed"]))
    def end(self, status: str) -> None:
        if self.running is not None:
            place, taken = self.running
            assert self.places[place].end(taken.job_id, status, "", {"written": 1})
            self.status[taken.id] = status
            self.lose()

    @rule()
    def stop_in_order(self) -> None:
        if self.running is not None:
            place, taken = self.running
            self.places[place].put_back(taken.job_id)
            self.status[taken.id] = "queued"
            self.lose()

    @rule(place=PLACES)
    def kill(self, place: int) -> None:
        parts = self.places[place].owner.split("|")
        parts[3:5] = ["999999999", "1"]  # a process that there is not
        dead = update(Job).where(Job.owner == self.places[place].owner).values(owner="|".join(parts))
        self.database.write(lambda session: session.execute(dead))
        self.places[place] = ExportJobs(self.database)
        self.former = [found for found in self.former if found[0] != place]
        if self.running is not None and self.running[0] == place:
            export_id = self.running[1].id
            self.running = None
            heir = (place + 1) % 3
            taken = self.places[heir].take()
            assert taken is not None, "forgotten"
            assert taken.id == export_id, "another one came before the one that was cut off"
            self.attempts[export_id] += 1
            self.running = (heir, taken)

    @rule(which=WHICH)
    def the_former_owner_is_late(self, which: int) -> None:
        if self.former:
            place, taken = self.former[which % len(self.former)]
            if self.running is None or (self.running[0], self.running[1].id) != (place, taken.id):
                assert not self.places[place].end(taken.job_id, "failed", "late", {})
                self.places[place].put_back(taken.job_id)

    @rule(place=PLACES, which=WHICH, step=st.sampled_from(["cancel", "pause", "resume"]))
    def people(self, place: int, which: int, step: str) -> None:
        export_id = self.one(which)
        if export_id is None:
            assert not getattr(self.places[place], step)("20260131-093000-000000")
            return
        becomes, allowed = {
            "cancel": ("cancelled", ("queued", "running", "paused")),
            "pause": ("paused", ("queued", "running")),
            "resume": ("queued", ("paused",)),
        }[step]
        before = self.status[export_id]
        assert getattr(self.places[place], step)(export_id) == (before in allowed)
        if before in allowed:
            self.status[export_id] = becomes
            if before == "running":
                self.lose()

    @invariant()
    def every_process_sees_each_export_once_and_as_it_is(self) -> None:
        for place in getattr(self, "places", []):
            found = [(job.request["export"], job.status) for job in place.every()]
            assert found == list(self.status.items())
            assert [status for _, status in found].count("running") == (self.running is not None)

    @invariant()
    def what_has_ended_stays_so(self) -> None:
        if hasattr(self, "places"):
            for job in self.places[0].every():
                assert (job.finished_at is not None) == (job.status in ENDED)
                assert (job.owner is not None) == (job.status == "running")

    def teardown(self) -> None:
        if hasattr(self, "_temporary"):
            self.database.close()
            self._temporary.cleanup()


FEW = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_any_order_of_steps_and_deaths_runs_each_export_once() -> None:
    run_state_machine_as_test(ExportQueue, settings=FEW)  # type: ignore[no-untyped-call]


def test_any_order_of_steps_and_deaths_runs_each_export_once_on_postgresql(postgresql_server: str) -> None:
    import psycopg

    class OnPostgresql(ExportQueue):
        def make_url(self) -> str:
            name = f"exports_{uuid.uuid4().hex[:8]}"
            plain = postgresql_server.replace("+psycopg", "") + "/postgres"
            with psycopg.connect(plain, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            return f"{postgresql_server}/{name}"

    run_state_machine_as_test(OnPostgresql, settings=FEW)  # type: ignore[no-untyped-call]
