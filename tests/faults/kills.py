"""SIGKILL at random instants: the server, its trainer, its scorer, and writers of the catalogue."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.ledger import Ledger
from tests.faults.scene import (
    LABELED_CASES,
    FaultServer,
    LabelSource,
    Submitter,
    check_all,
    kill_worker,
    workers,
)
from tests.server.conftest import environment

PROGRESS = Callable[[str], None]


@dataclass
class Tally:
    """What was done so far.

    Attributes:
        kills: Kills by victim.
        recovery_s: The longest time from a kill to what goes on again, by victim.
        publications: Kills of the server that came between the last step of a round and its end.
    """

    kills: dict[str, int] = field(default_factory=dict)
    recovery_s: dict[str, float] = field(default_factory=dict)
    publications: int = 0

    def count(self, victim: str, recovery_s: float) -> None:
        """One more kill, and how long the recovery took."""
        self.kills[victim] = self.kills.get(victim, 0) + 1
        self.recovery_s[victim] = max(self.recovery_s.get(victim, 0.0), recovery_s)


def kill_servers(
    server: FaultServer, labels: LabelSource, ledger: Ledger, tally: Tally, kills: int, say: PROGRESS
) -> None:
    """Kill the whole server while labels come in and rounds run; each time at another kind of moment."""
    with Submitter([server], labels, ledger, pause_s=0.2):
        for number in range(kills):
            moment = ("submit", "round", "publication")[number % 3]
            _wait_for_moment(server, ledger, moment)
            begun = time.monotonic()
            server.kill()
            tally.publications += _was_publishing(server)
            server.start()
            server.wait_for(lambda: _is_running(server), "a round that goes on after the start")
            tally.count("server", time.monotonic() - begun)
            check_all(server, ledger)
            say(f"server killed during {moment} ({number + 1}/{kills}), {ledger.count} labels acknowledged")


def kill_trainers(
    server: FaultServer, labels: LabelSource, ledger: Ledger, tally: Tally, kills: int, say: PROGRESS
) -> None:
    """Kill the process that trains, from its first moments to its last: mostly while labels come in, every
    fourth time when there is one label only, and nobody whose next one would start a round."""
    done = 0
    while done < kills:
        is_alone = done % 4 == 3
        if is_alone:
            case = server.project.ids[done % LABELED_CASES]
            _kill_trainer(server, tally, False, lambda case=case: _submit_one(server, labels, ledger, case))
            done += 1
            say(f"trainer killed with nobody at work ({done}/{kills})")
            continue
        with Submitter([server], labels, ledger, pause_s=0.3):
            for _ in range(min(3 - done % 4, kills - done)):
                _kill_trainer(server, tally, wait_for_step=bool(done % 2))
                done += 1
                say(f"trainer killed ({done}/{kills}), {ledger.count} labels acknowledged")
    check_all(server, ledger)


def _kill_trainer(
    server: FaultServer, tally: Tally, wait_for_step: bool, submit: Callable[[], None] | None = None
) -> None:
    while True:
        if submit is not None:
            server.wait_for(lambda: not _is_busy(server), "the end of the rounds")
            submit()
        if wait_for_step:
            server.wait_for(lambda: _step(server) > 0, "a training step")
        victim = server.wait_for(lambda: workers(server, "train"), "a trainer")[0]
        time.sleep(random.uniform(0, 1.5))
        begun = time.monotonic()
        if kill_worker(victim):
            break
    server.wait_for(lambda: set(workers(server, "train")) - {victim}, "a round after the killed one")
    tally.count("trainer", time.monotonic() - begun)


def _submit_one(server: FaultServer, labels: LabelSource, ledger: Ledger, case: str) -> None:
    content = labels.next(case)
    digest = ledger.attempt(case, content)
    assert server.put_label(case, content).status_code == 200
    ledger.acknowledge(case, digest)


def kill_scorers(
    server: FaultServer, labels: LabelSource, ledger: Ledger, tally: Tally, kills: int, say: PROGRESS
) -> None:
    """Kill the process that scores the pool; the scores so far must stay, and the rest must follow."""
    done = 0
    while done < kills:
        _submit_one(server, labels, ledger, server.project.ids[done % LABELED_CASES])
        server.wait_for(lambda: not _is_busy(server), "the end of the round")
        found = server.wait_for(lambda: workers(server, "score") or _all_scored(server), "scoring")
        while isinstance(found, list) and done < kills:
            time.sleep(random.uniform(0, 2.0))
            begun = time.monotonic()
            if kill_worker(found[0]):
                done += 1
                gone = found[0]
                found = server.wait_for(
                    lambda gone=gone: (
                        [pid for pid in workers(server, "score") if pid != gone] or _all_scored(server)
                    ),
                    "scoring that goes on",
                )
                tally.count("scorer", time.monotonic() - begun)
                say(f"scorer killed ({done}/{kills})")
            else:
                found = server.wait_for(
                    lambda: workers(server, "score") or _all_scored(server), "scoring that goes on"
                )
    server.wait_for(lambda: _all_scored(server), "the score of every case")
    check_all(server, ledger)


def kill_writers(
    server: FaultServer, labels: LabelSource, ledger: Ledger, tally: Tally, kills: int, say: PROGRESS
) -> None:
    """Kill processes that save labels beside the running server, within milliseconds of a save's steps."""
    folder = server.project.folder / "writer"
    folder.mkdir(exist_ok=True)
    line = [sys.executable, "-m", "tests.faults.catalogue_writer", str(server.project.studies)]
    done = 0
    while done < kills:
        batch = _batch(folder, labels, server, 12)
        recovery_s, killed = _let_write(
            [*line, str(server.project.workspace), *batch], ledger, random.uniform(0.0, 0.4)
        )
        if not killed:
            continue
        tally.count("writer", recovery_s)
        done += 1
        if done % 10 == 0 or done == kills:
            say(f"writer killed ({done}/{kills}), {ledger.count} labels acknowledged")
    check_all(server, ledger)


def _batch(folder: Path, labels: LabelSource, server: FaultServer, count: int) -> list[str]:
    batch = []
    for index in range(count):
        case = random.choice(server.project.ids[:LABELED_CASES])
        path = folder / f"{index}.nii.gz"
        path.write_bytes(labels.next(case))
        batch.append(f"{case}={path}")
    return batch


def _let_write(line: list[str], ledger: Ledger, life_s: float) -> tuple[float, bool]:
    """Follow one writer, and kill it `life_s` after it opened the project.

    Returns:
        Seconds until it had opened the project, its start included; and whether the kill came before its end.
    """
    begun = opened = time.monotonic()
    with subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        timer = threading.Timer(120, writer.kill)
        timer.start()
        for said in writer.stdout:
            word, *rest = said.split()
            if word == "open":
                opened = time.monotonic()
                timer.cancel()
                timer = threading.Timer(life_s, writer.kill)
                timer.start()
            elif word == "attempt":
                ledger.attempted[rest[0]].add(rest[1])
            else:
                ledger.acknowledge(rest[0], rest[1])
        code = writer.wait(60)
        timer.cancel()
    assert opened > begun, "a writer did not open the project"
    return opened - begun, code == -signal.SIGKILL


def _wait_for_moment(server: FaultServer, ledger: Ledger, moment: str) -> None:
    if moment == "submit":
        before = ledger.count
        server.wait_for(lambda: ledger.count > before, "an acknowledged label")
    elif moment == "round":
        server.wait_for(lambda: _step(server) > 0, "a training step")
    else:
        server.wait_for(lambda: _step(server) >= 60, "the last step of a round")
    time.sleep(random.uniform(0, 1.0))


def _was_publishing(server: FaultServer) -> bool:
    """Of a killed server: whether its round had made its last step and was not done."""
    with contextlib.closing(sqlite3.connect(server.project.workspace / "catalogue.db")) as database:
        query = "SELECT progress FROM jobs WHERE kind = 'train' AND status = 'running'"
        found = [json.loads(row[0]) for row in database.execute(query)]
    return any(0 < progress.get("steps", 0) == progress.get("step") for progress in found)


def _running(server: FaultServer) -> list[dict[str, object]]:
    return [entry for entry in server.rounds() if entry["status"] == "running"]


def _is_running(server: FaultServer) -> bool:
    return bool(_running(server))


def _is_busy(server: FaultServer) -> bool:
    return any(entry["status"] in ("queued", "running") for entry in server.rounds())


def _step(server: FaultServer) -> int:
    return max((int(entry["progress"]["step"]) for entry in _running(server)), default=0)  # type: ignore[index]


def _all_scored(server: FaultServer) -> bool:
    """Whether every case without a label has a score of the live model."""
    versions = [model["version"] for model in server.get("/models")["models"] if model["published"]]
    if not versions or _is_busy(server):
        return False
    with contextlib.closing(sqlite3.connect(server.project.workspace / "catalogue.db")) as database:
        query = (
            "SELECT count(*) FROM scores JOIN cases ON cases.id = case_id "
            "WHERE model_version = ? AND NOT labeled"
        )
        scored = database.execute(query, versions).fetchone()[0]
        pool = database.execute("SELECT count(*) FROM cases WHERE NOT labeled").fetchone()[0]
    return bool(scored == pool)
