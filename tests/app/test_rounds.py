"""The queue of rounds: what starts one, what it takes in, and that no label is ever left out."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lib.errors import Refusal
from lib.registry import ModelRegistry
from lib.round_record import PUBLIC_KEYS
from lib.round_runner import WorkerFactory
from lib.round_store import RoundStore
from lib.rounds import RoundQueue
from lib.scores import ScoreBoard
from lib.worker_process import Event, WorkerOutcome
from lib.workspace import Workspace
from tests import light_process
from tests.app.round_support import (
    ReadingWorker,
    Studies,
    WorkerHere,
    keep_tiny_config,
    result_event,
    settings,
    work_folder,
)

Opener = Callable[..., RoundQueue]


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path / "studies", count=8)


@pytest.fixture
def open_queue(studies: Studies) -> Iterator[Opener]:
    """Opens the project's queue as a new server would; every queue is stopped at the end of the test."""
    opened: list[RoundQueue] = []

    def open_it(make_worker: WorkerFactory | None = None, start: bool = True, **values: Any) -> RoundQueue:
        workspace = Workspace(studies.folder / ".ugmcl")
        registry, scores = ModelRegistry(workspace), ScoreBoard(workspace)
        queue = RoundQueue(
            studies,
            registry,
            workspace,
            scores,
            settings(**values),
            make_worker=make_worker,
            score_pool=False,
        )
        opened.append(queue)
        if start:
            queue.start()
        return queue

    yield open_it
    for queue in opened:
        queue.stop()
        queue.service._store.database.close()


def name_of_a_dead_process() -> str:
    code = "from lib.process_identity import this_process; print(this_process())"
    done = subprocess.run(
        light_process.command(code),
        env=light_process.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def reading(seconds: float = 0.0, fail: str = "") -> WorkerFactory:
    return lambda job, on_event: ReadingWorker(job, seconds, fail)


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def statuses(queue: RoundQueue) -> list[str]:
    return [entry["status"] for entry in queue.list()]


def idle(queue: RoundQueue) -> bool:
    return not {"queued", "running"} & set(statuses(queue)) and queue.service.running is None


def stored(queue: RoundQueue) -> list[dict[str, Any]]:
    return [entry.to_dict() for entry in queue.rounds()]


def test_a_saved_label_becomes_a_round_after_the_debounce(studies: Studies, open_queue: Opener) -> None:
    queue = open_queue(reading())
    assert queue.list() == []
    studies.save_label("case00", 0)
    assert statuses(queue) == ["queued"]
    assert queue.list()[0]["labeled_ids"] == ["case00"]
    wait_for(lambda: statuses(queue) == ["done"])
    shown = queue.list()[0]
    assert tuple(shown) == PUBLIC_KEYS
    assert (shown["labeled"], shown["unlabeled"], shown["promoted"]) == (1, 7, True)
    assert shown["reason"] == "no validation case yet"
    assert shown["metrics"] is None
    assert shown["model_version"] == queue._runner._registry.published()


def test_the_stored_rounds_keep_label_hashes_only_where_they_are_needed(
    studies: Studies, open_queue: Opener
) -> None:
    queue = open_queue(reading())
    for number in range(2):
        studies.save_label(f"case{number:02d}", number)
        wait_for(lambda number=number: statuses(queue) == ["done"] * (number + 1) and idle(queue))
    first, last = stored(queue)
    assert (first["read"], first["claimed"]) == ({}, {})
    assert first["labeled_ids"] == ["case00"]
    assert last["read"] == studies.final_labels()


def test_labels_saved_within_the_debounce_share_one_round(studies: Studies, open_queue: Opener) -> None:
    queue = open_queue(reading(), debounce_s=0.4)
    for number in range(4):
        studies.save_label(f"case{number:02d}", number)
    wait_for(lambda: idle(queue))
    assert [entry["labeled"] for entry in queue.list()] == [4]


def test_a_round_waits_for_the_configured_number_of_new_labels(studies: Studies, open_queue: Opener) -> None:
    queue = open_queue(reading(), min_labels=2)
    studies.save_label("case00", 0)
    time.sleep(0.2)
    assert queue.list() == []
    studies.save_label("case01", 1)
    wait_for(lambda: statuses(queue) == ["done"])
    studies.save_label("case02", 2)
    time.sleep(0.2)
    assert len(queue.list()) == 1


def test_a_request_while_a_round_runs_gives_the_one_waiting_round(
    studies: Studies, open_queue: Opener
) -> None:
    queue = open_queue(reading(seconds=0.5))
    studies.save_label("case00", 0)
    wait_for(lambda: statuses(queue) == ["running"])
    first = queue.request()
    studies.save_label("case01", 1)
    assert queue.request().id == first.id
    assert statuses(queue) == ["running", "queued"]
    wait_for(lambda: idle(queue))
    assert statuses(queue) == ["done", "done"]
    assert queue.list()[1]["labeled_ids"] == ["case00", "case01"]


def test_a_request_runs_a_round_even_without_new_labels(studies: Studies, open_queue: Opener) -> None:
    queue = open_queue(reading())
    studies.save_label("case00", 0)
    wait_for(lambda: statuses(queue) == ["done"])
    assert queue.wait(queue.request(), 10).status == "done"


def test_a_request_without_any_label_is_refused_with_the_numbers(open_queue: Opener) -> None:
    queue = open_queue(reading(), min_labels=3)
    with pytest.raises(Refusal) as refusal:
        queue.request()
    assert refusal.value.status_code == 409
    assert refusal.value.extra == {"labeled": 0, "labels_needed": 3}
    assert queue.list() == []


def test_cancelled_labels_stay_pending_until_the_next_label_or_request(
    studies: Studies, open_queue: Opener
) -> None:
    queue = open_queue(reading(seconds=20))
    studies.save_label("case00", 0)
    wait_for(lambda: statuses(queue) == ["running"])
    studies.save_label("case01", 1)
    cancelled = queue.cancel()
    assert cancelled is not None
    assert (cancelled.id, cancelled.status) == ("r0001", "cancelled")
    wait_for(lambda: idle(queue))
    time.sleep(0.2)
    assert statuses(queue) == ["cancelled", "cancelled"]
    assert queue.cancel() is None
    queue._runner._make_worker = reading()
    studies.save_label("case02", 2)
    wait_for(lambda: statuses(queue)[-1] == "done")
    assert queue.list()[-1]["labeled_ids"] == ["case00", "case01", "case02"]


def test_a_failed_round_says_why_and_the_next_label_starts_again(
    studies: Studies, open_queue: Opener
) -> None:
    queue = open_queue(reading(fail="The disk is full."))
    studies.save_label("case00", 0)
    wait_for(lambda: statuses(queue) == ["failed"])
    time.sleep(0.2)
    assert [entry["reason"] for entry in queue.list()] == ["The disk is full."]
    queue._runner._make_worker = reading()
    studies.save_label("case01", 1)
    wait_for(lambda: statuses(queue) == ["failed", "done"])
    assert queue.list()[1]["labeled"] == 2


def test_a_label_replaced_while_the_round_runs_is_learned_by_the_next(
    studies: Studies, open_queue: Opener
) -> None:
    queue = open_queue(reading(seconds=0.3))
    studies.save_label("case00", 0)
    wait_for(lambda: statuses(queue) == ["running"])
    time.sleep(0.1)
    studies.save_label("case00", 1)
    wait_for(lambda: idle(queue))
    assert statuses(queue) == ["done", "done"]
    assert stored(queue)[1]["read"] == studies.final_labels()


def test_an_unreadable_label_is_set_aside_and_does_not_start_rounds_forever(
    studies: Studies, open_queue: Opener
) -> None:
    class Rejecting(ReadingWorker):
        def run(self) -> WorkerOutcome:
            outcome = super().run()
            assert outcome.result is not None
            outcome.result["set_aside"] = {"case00": "The label cannot be used."}
            return outcome

    queue = open_queue(lambda job, on_event: Rejecting(job))
    studies.save_bytes("case00", b"junk")
    studies.save_label("case01", 1)
    wait_for(lambda: idle(queue) and queue.list())
    time.sleep(0.3)
    assert statuses(queue)[-1] == "done"
    assert len(queue.list()) <= 2
    assert queue.list()[-1]["labeled_ids"] == ["case01"]
    assert "case00: The label cannot be used." in queue.list()[-1]["reason"]


def test_a_label_that_came_too_late_for_its_round_is_learned_by_another_at_once(
    studies: Studies, open_queue: Opener
) -> None:
    class Late(ReadingWorker):
        def run(self) -> WorkerOutcome:
            outcome = super().run()
            assert outcome.result is not None
            if self.job["round"] == "r0001":
                del outcome.result["read"]["case01"]
                outcome.result |= {"late": ["case01"], "set_aside": {"case01": "it came late"}}
            return outcome

    studies.save_label("case00", 0)
    studies.save_label("case01", 1)
    queue = open_queue(lambda job, on_event: Late(job))
    wait_for(lambda: statuses(queue) == ["done", "done"])
    assert [entry["labeled_ids"] for entry in queue.list()] == [["case00"], ["case00", "case01"]]
    time.sleep(0.2)
    assert len(queue.list()) == 2


def test_a_label_that_cannot_be_read_starts_no_round_until_it_can_be(
    studies: Studies, open_queue: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hash is known from before, so it is among the final labels; no round's worker has read it."""
    gone: set[str] = {"case01"}
    whole = studies.get_label_uri
    monkeypatch.setattr(
        studies,
        "get_label_uri",
        lambda i, tag: f"{studies.folder}/unreadable" if i in gone else whole(i, tag),
    )
    studies.save_label("case00", 0)
    studies.save_label("case01", 1)
    queue = open_queue(reading())
    wait_for(lambda: statuses(queue) == ["done"])
    assert queue.list()[0]["labeled_ids"] == ["case00"]
    assert queue.list()[0]["reason"] == (
        "no validation case yet. Set aside: case01: its label file could not be read"
    )
    for _ in range(2):
        queue.stop()
        queue = open_queue(reading())
        time.sleep(0.2)
        assert statuses(queue) == ["done"], "an unchanged unreadable label started a round again"
    gone.clear()
    queue.stop()
    queue = open_queue(reading())
    wait_for(lambda: statuses(queue) == ["done", "done"])
    assert queue.list()[1]["labeled_ids"] == ["case00", "case01"]


def test_a_round_cancelled_as_its_worker_ends_leaves_its_labels_pending(
    studies: Studies, open_queue: Opener
) -> None:
    class Ending(ReadingWorker):
        """Its result is on the way when the cancellation comes."""

        def run(self) -> WorkerOutcome:
            outcome = super().run()
            if self.job["round"] == "r0001":
                assert queue.cancel() is not None
            return outcome

    queue = open_queue(lambda job, on_event: Ending(job))
    studies.save_label("case00", 0)
    wait_for(lambda: statuses(queue) == ["cancelled"] and idle(queue))
    assert queue._runner._registry.list() == []
    assert "its labels stay pending" in queue.list()[0]["reason"]
    done = queue.wait(queue.request(), 30)
    assert (done.status, done.labeled_ids, done.promoted) == ("done", ["case00"], True)


def test_a_round_cancelled_while_its_candidate_is_published_is_kept(
    studies: Studies, open_queue: Opener
) -> None:
    queue = open_queue(reading())
    registry = queue._runner._registry
    answers: list[Any] = []
    registry.on_published.append(lambda version: answers.append(queue.cancel()))
    studies.save_label("case00", 0)
    wait_for(lambda: statuses(queue) == ["done"] and idle(queue))
    assert answers == [None], "there was nothing left to cancel"
    assert registry.published() == queue.list()[0]["model_version"]
    assert stored(queue)[0]["read"] == studies.final_labels()


def test_a_round_whose_end_is_written_twice_keeps_its_model(
    studies: Studies, open_queue: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the connection breaks while the first commit is answered."""
    queue = open_queue(reading(), start=False)
    database = queue.service._store.database
    write, repeated = database.write, []

    def write_twice(work: Callable[..., Any]) -> Any:
        result = write(work)
        if getattr(work, "func", None) == queue.service._settle:
            repeated.append(result)
            result = write(work)
        return result

    monkeypatch.setattr(database, "write", write_twice)
    studies.save_label("case00", 0)
    queue.start()
    wait_for(lambda: statuses(queue) == ["done"] and idle(queue))
    registry = queue._runner._registry
    version = registry.published()
    assert len(repeated) == 1
    assert version == queue.list()[0]["model_version"]
    assert registry.path(str(version)).exists()


def test_a_full_disk_at_the_end_of_a_round_lets_it_be_tried_again(
    studies: Studies, open_queue: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue(reading(), start=False)
    stage, tries = queue._runner._registry.stage, []

    def stage_at_the_second_try(*given: Any, **named: Any) -> Any:
        tries.append(given)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")
        return stage(*given, **named)

    monkeypatch.setattr(queue._runner._registry, "stage", stage_at_the_second_try)
    studies.save_label("case00", 0)
    queue.start()
    wait_for(lambda: statuses(queue) == ["failed", "done"])
    assert "No space left" in queue.list()[0]["reason"]


def test_labels_found_at_start_start_a_round_and_known_ones_do_not(
    studies: Studies, open_queue: Opener
) -> None:
    studies.save_label("case00", 0)
    queue = open_queue(reading())
    wait_for(lambda: statuses(queue) == ["done"])
    queue.stop()
    queue = open_queue(reading())
    time.sleep(0.2)
    assert statuses(queue) == ["done"]
    queue.stop()
    studies.save_label("case01", 1)
    queue = open_queue(reading())
    wait_for(lambda: statuses(queue) == ["done", "done"])


def test_a_round_cut_off_by_the_server_is_reported_and_made_up_for(
    studies: Studies, open_queue: Opener
) -> None:
    queue = open_queue(reading(seconds=20))
    studies.save_label("case00", 0)
    wait_for(lambda: statuses(queue) == ["running"])
    queue.stop()
    assert statuses(queue) == ["failed", "queued"], "another server may take it up at once"
    assert queue.list()[0]["reason"] == "interrupted: the server stopped"
    # As a killed server leaves it: the round is said to run, in a process that is no more.
    store = RoundStore(Workspace(studies.folder / ".ugmcl"))
    store.owner = name_of_a_dead_process()
    assert store.claim(store.state().change, studies.final_labels(), set(), 1) is not None
    store.database.close()
    assert statuses(queue) == ["failed", "running"]
    queue = open_queue(reading())
    wait_for(lambda: statuses(queue) == ["failed", "failed", "done"])
    assert queue.list()[1]["reason"] == "interrupted: the server stopped"
    assert queue.repairs == ["Round r0002 was cut off with its server; the next one resumes its state."]


def test_a_round_that_was_asked_for_and_cut_off_runs_again_though_nothing_is_new(
    studies: Studies, open_queue: Opener
) -> None:
    queue = open_queue(reading())
    studies.save_label("case00", 0)
    wait_for(lambda: statuses(queue) == ["done"] and idle(queue))
    queue._runner._make_worker = reading(seconds=20)
    queue.request("Asked for.")
    wait_for(lambda: statuses(queue) == ["done", "running"])
    queue.stop()
    queue = open_queue(reading())
    wait_for(lambda: statuses(queue) == ["done", "failed", "done"])


def test_a_paused_round_takes_in_the_labels_of_its_resumption(studies: Studies, open_queue: Opener) -> None:
    queue = open_queue(reading(seconds=20))
    studies.save_label("case00", 0)
    wait_for(lambda: statuses(queue) == ["running"])
    studies.save_label("case01", 1)
    assert statuses(queue) == ["running", "queued"]
    assert queue.pause("r0001").status == "paused"
    assert statuses(queue) == ["paused", "cancelled"]
    assert queue.list()[1]["reason"].startswith("Withdrawn: the paused round r0001 takes its labels in")
    studies.save_label("case02", 2)
    assert queue.request().id == "r0001", "a request does not end the pause"
    queue._runner._make_worker = reading()
    wait_for(lambda: idle(queue) or queue.service.running is None)
    queue.stop()
    queue = open_queue(reading())
    time.sleep(0.3)
    assert statuses(queue) == ["paused", "cancelled"], "a restart does not end it either"
    queue.resume("r0001")
    wait_for(lambda: statuses(queue) == ["done", "cancelled"])
    assert queue.list()[0]["labeled_ids"] == ["case00", "case01", "case02"]


def test_steps_that_the_state_of_a_round_does_not_allow_are_refused(
    studies: Studies, open_queue: Opener
) -> None:
    queue = open_queue(reading())
    for act in (queue.cancel_round, queue.pause, queue.resume):
        with pytest.raises(Refusal, match="There is no round 'r0001' here") as refusal:
            act("r0001")
        assert refusal.value.status_code == 404
    studies.save_label("case00", 0)
    wait_for(lambda: statuses(queue) == ["done"])
    for act, word in ((queue.cancel_round, "cancelled"), (queue.pause, "paused"), (queue.resume, "resumed")):
        with pytest.raises(Refusal, match=f"Round r0001 is done and cannot be {word}") as refusal:
            act("r0001")
        assert refusal.value.status_code == 409


def test_a_worse_candidate_is_kept_but_not_published(studies: Studies, open_queue: Opener) -> None:
    dice = {"r0001": (0.8, 0.0), "r0002": (0.75, 0.8), "r0003": (0.79, 0.8)}

    class Measured(ReadingWorker):
        def run(self) -> WorkerOutcome:
            outcome = super().run()
            assert outcome.result is not None
            checkpoint = Path(outcome.result["checkpoint"])
            read = outcome.result["read"]
            return WorkerOutcome(result=result_event(self.job, checkpoint, read, {}, dice[self.job["round"]]))

    queue = open_queue(lambda job, on_event: Measured(job), publish_margin=0.02)
    for number in range(3):
        studies.save_label(f"case{number:02d}", number)
        wait_for(lambda: idle(queue) and statuses(queue).count("done") == number + 1)  # noqa: B023
    rounds = queue.list()
    assert [entry["promoted"] for entry in rounds] == [True, False, True]
    assert "0.7500" in rounds[1]["reason"]
    assert "0.8000" in rounds[1]["reason"]
    assert rounds[1]["metrics"]["published_before"]["dice"] == 0.8
    versions = queue._runner._registry.list()
    assert [version["published"] for version in versions] == [False, False, True]


def rolling_back(
    studies: Studies, open_queue: Opener, comparison: WorkerOutcome
) -> tuple[RoundQueue, list[dict[str, Any]]]:
    """Four rounds, each with one label more; the first version is made live again while the last one runs."""
    dice = {"r0001": (0.5, 0.0), "r0002": (0.8, 0.5), "r0003": (0.9, 0.8), "r0004": (0.7, 0.9)}
    compared: list[dict[str, Any]] = []

    class Measured(ReadingWorker):
        def run(self) -> WorkerOutcome:
            if self.job["command"] == "compare":
                compared.append(self.job)
                return comparison
            outcome = super().run()
            assert outcome.result is not None
            checkpoint, read = Path(outcome.result["checkpoint"]), outcome.result["read"]
            registry = queue._runner._registry
            if self.job["round"] == "r0004":
                registry.publish(registry.list()[0]["version"])
            return WorkerOutcome(result=result_event(self.job, checkpoint, read, {}, dice[self.job["round"]]))

    queue = open_queue(lambda job, on_event: Measured(job))
    for number in range(4):
        studies.save_label(f"case{number:02d}", number)
        wait_for(lambda: idle(queue) and statuses(queue).count("done") == number + 1)  # noqa: B023
    return queue, compared


def test_a_candidate_is_compared_with_the_version_that_is_live_at_the_end_of_its_round(
    studies: Studies, open_queue: Opener
) -> None:
    before = {"dice": 0.5, "hd95_mm": 2.0}
    comparison = WorkerOutcome(result={"event": "result", "published_before": before})
    queue, compared = rolling_back(studies, open_queue, comparison)
    versions = [entry["version"] for entry in queue._runner._registry.list()]
    assert [Path(job["published"]).parent.name for job in compared] == [versions[0]]
    assert [case["id"] for case in compared[0]["cases"]] == ["case03"]
    last = queue.rounds()[-1]
    assert last.metrics is not None
    assert last.metrics["published_before"] == before
    assert last.compared_with == versions[0]
    assert last.promoted, "0.7 is more than the 0.5 of the version that is live again"
    assert f"against 0.5000 of the published model {versions[0]}" in last.reason
    assert queue._runner._registry.published() == versions[3]
    assert queue._runner._registry.record(versions[3])["compared_with"] == versions[0]
    assert [entry.compared_with for entry in queue.rounds()[:3]] == [None, *versions[:2]]


def test_a_candidate_that_cannot_be_compared_is_kept_but_not_published(
    studies: Studies, open_queue: Opener
) -> None:
    queue, _ = rolling_back(studies, open_queue, WorkerOutcome(error="The worker was ended by SIGKILL."))
    last, registry = queue.rounds()[-1], queue._runner._registry
    versions = [entry["version"] for entry in registry.list()]
    assert (last.status, last.model_version, last.promoted) == ("done", versions[3], False)
    assert registry.published() == versions[0]
    assert "ended by SIGKILL" in last.reason
    assert "start a round" in last.reason


def test_a_candidate_goes_live_when_the_model_before_it_was_lost_during_its_round(
    studies: Studies, open_queue: Opener
) -> None:
    class Losing(ReadingWorker):
        def run(self) -> WorkerOutcome:
            outcome = super().run()
            assert outcome.result is not None
            checkpoint, read = Path(outcome.result["checkpoint"]), outcome.result["read"]
            registry = queue._runner._registry
            live = registry.published()
            if live is not None:
                registry.path(live).write_bytes(b"damaged")
                assert registry.give_up(live)
            return WorkerOutcome(result=result_event(self.job, checkpoint, read, {}, (0.8, 0.7)))

    queue = open_queue(lambda job, on_event: Losing(job))
    for number in range(2):
        studies.save_label(f"case{number:02d}", number)
        wait_for(lambda: idle(queue) and len(queue.rounds()) == number + 1)  # noqa: B023
    last = queue.rounds()[-1]
    assert (last.status, last.promoted, last.compared_with) == ("done", True, None)
    assert "no model to compare with" in last.reason
    assert queue._runner._registry.published() == last.model_version


def test_a_server_stops_its_worker_though_the_database_is_away(
    studies: Studies, open_queue: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_queue(reading(600))
    studies.save_label("case00", 0)
    wait_for(lambda: queue.service.worker is not None)
    worker = queue.service.worker

    def away(job: Any) -> None:
        raise OSError("no connection")

    with monkeypatch.context() as patch:
        patch.setattr(queue.service._store, "interrupt", away)
        queue.stop()
    assert worker._stop.is_set()  # type: ignore[union-attr]
    assert statuses(queue) == ["running"], "the next start finds that its process is gone"
    queue.start()
    wait_for(lambda: statuses(queue)[0] == "failed")


def test_a_process_that_does_not_serve_runs_a_round_itself(studies: Studies, open_queue: Opener) -> None:
    studies.save_label("case00", 0)
    queue = open_queue(reading(), start=False)
    assert queue.run_now().status == "done"
    assert stored(queue)[0]["status"] == "done"


@pytest.mark.parametrize("seed", range(6))
def test_no_label_is_ever_lost_whatever_the_timing(studies: Studies, open_queue: Opener, seed: int) -> None:
    chance = random.Random(seed)

    def any_worker(job: dict[str, Any], on_event: Callable[[Event], None]) -> ReadingWorker:
        fail = "It failed." if chance.random() < 0.2 else ""
        return ReadingWorker(job, chance.choice([0.0, 0.002, 0.01, 0.05]), fail)

    queue = open_queue(any_worker, debounce_s=0.005)
    most_at_once: list[int] = []

    def annotate(name: int) -> None:
        dice = random.Random(100 * seed + name)
        for _ in range(25):
            image_id = f"case{dice.randrange(8):02d}"
            action = dice.random()
            try:
                if action < 0.6:
                    studies.save_label(image_id, dice.randrange(5))
                elif action < 0.75:
                    queue.request()
                elif action < 0.9:
                    queue.cancel()
                else:
                    studies.remove_label(image_id)
            except (Refusal, FileNotFoundError):
                pass
            shown = statuses(queue)
            most_at_once.append(max(shown.count("queued"), shown.count("running")))
            time.sleep(dice.choice([0, 0.001, 0.01]))

    annotators = [threading.Thread(target=annotate, args=(name,)) for name in range(3)]
    for thread in annotators:
        thread.start()
    for thread in annotators:
        thread.join()
    chance = random.Random(1)  # from here on, and with the last label, rounds can only succeed
    queue._runner._make_worker = reading()
    wait_for(lambda: idle(queue))
    studies.save_label("case07", 99)
    wait_for(lambda: idle(queue) and queue.list()[-1]["status"] == "done")
    rounds = stored(queue)
    assert rounds[-1]["read"] == studies.final_labels()
    assert max(most_at_once) <= 1
    assert len({entry["id"] for entry in rounds}) == len(rounds)
    first_roles = queue.roles.roles()
    assert list(first_roles.values()).count("validate") == len(first_roles) // 4


@pytest.mark.parametrize("seed", range(4))
def test_labels_saved_before_a_quiet_end_are_all_learned_without_a_further_event(
    studies: Studies, open_queue: Opener, seed: int
) -> None:
    dice = random.Random(seed)
    queue = open_queue(
        lambda job, on_event: ReadingWorker(job, dice.choice([0, 0.003, 0.02])), debounce_s=0.004
    )
    for _ in range(40):
        studies.save_label(f"case{dice.randrange(8):02d}", dice.randrange(5))
        if dice.random() < 0.2:
            queue.request()
        time.sleep(dice.choice([0, 0.003, 0.01]))
    wait_for(lambda: idle(queue))
    assert [r for r in stored(queue) if r["status"] == "done"][-1]["read"] == studies.final_labels()


def test_after_a_rollback_the_next_round_is_compared_with_the_version_rolled_back_to(
    studies: Studies, open_queue: Opener
) -> None:
    """Real rounds; the labels stay the same, so a version's figures are those of the round that made it."""
    keep_tiny_config(Workspace(studies.folder / ".ugmcl"))
    for number in range(4):
        studies.save_label(f"case{number:02d}", number)
    queue = open_queue(lambda job, on_event: WorkerHere(job), publish_margin=1.0)  # every candidate goes live
    registry = queue._runner._registry
    wait_for(lambda: idle(queue) and statuses(queue) == ["done"], 90)
    assert queue.wait(queue.request(), 90).promoted
    first, second = queue.rounds()
    assert second.compared_with == first.model_version
    registry.publish(str(first.model_version))
    third = queue.wait(queue.request(), 90)
    assert third.compared_with == first.model_version != second.model_version
    assert first.metrics is not None
    assert third.metrics is not None
    chosen = registry.record(str(first.model_version))["candidate"]
    again, then = third.metrics["published_before"], first.metrics[chosen]
    # Another number of threads may round a voxel of the boundary otherwise.
    assert again["dice"] == pytest.approx(then["dice"], abs=2e-3)
    assert again["hd95_mm"] == pytest.approx(then["hd95_mm"], abs=0.1)


def test_a_real_worker_trains_is_killed_resumes_and_publishes(studies: Studies, open_queue: Opener) -> None:
    workspace = Workspace(studies.folder / ".ugmcl")
    keep_tiny_config(workspace, steps=400)  # seconds, as progress is told once a second
    for number in range(4):
        studies.save_label(f"case{number:02d}", number)
    queue = open_queue()
    wait_for(lambda: queue.list()[0]["progress"]["step"] >= 2, 120)
    assert queue.service.worker is not None
    os.kill(queue.service.worker._child.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    wait_for(lambda: statuses(queue)[0] == "failed", 20)
    assert "SIGKILL" in queue.list()[0]["reason"]
    wait_for(lambda: idle(queue), 150)
    _, done = queue.rounds()  # nobody had to ask for it
    assert done.status == "done", done.reason
    assert done.promoted
    assert done.metrics is not None
    assert 0 <= done.metrics["teacher"]["dice"] <= 1
    assert done.metrics["published_before"] is None
    assert done.progress["step"] == done.progress["steps"] > 0
    assert done.read == studies.final_labels()
    assert not (work_folder(workspace) / "state.pt").exists()
    record = queue._runner._registry.record(str(done.model_version))
    assert [entry["role"] for entry in record["data"]] == ["train", "train", "train", "validate"]
