"""Two server processes on one PostgreSQL and one folder; one is killed in the middle of a round."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.catalogue import postgresql
from tests.faults.disasters import Unavailable
from tests.faults.kills import PROGRESS, Tally
from tests.faults.ledger import Ledger
from tests.faults.scene import (
    FaultServer,
    LabelSource,
    Submitter,
    make_project,
    wait_until_learned,
    workers,
)


def two_servers(folder: Path, total: Ledger, tally: Tally, say: PROGRESS) -> None:
    """Labels go to both in turn; the one that trains is killed; the other takes the round over.

    Raises:
        Unavailable: Where there is no PostgreSQL and none can be installed.
    """
    import psycopg

    folder.mkdir(parents=True)
    (folder / "postgresql").mkdir()
    try:
        cluster = postgresql.running(folder / "postgresql")
        url = cluster.__enter__()
    except pytest.skip.Exception as why:
        raise Unavailable(str(why)) from why
    ledger = Ledger()
    servers: list[FaultServer] = []
    try:
        with psycopg.connect(url.replace("+psycopg", "") + "/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE faults")
        project = make_project(folder / "project", 12)
        labels = LabelSource(project)
        servers += [FaultServer(project, ("--conf", "database", f"{url}/faults")) for _ in range(2)]
        for server in servers:
            server.start()
        say("both servers are up")
        with Submitter(servers, labels, ledger, pause_s=0.3):
            _kill_the_one_that_trains(servers, tally)
            say(f"the server that trained was killed, {ledger.count} labels acknowledged")
        survivor = next(server for server in servers if server.process and server.process.poll() is None)
        wait_until_learned(survivor, ledger)
    finally:
        for server in servers:
            server.stop()
        cluster.__exit__(None, None, None)
        total.lost |= ledger.lost
        total.doubled |= ledger.doubled
        for case, digests in ledger.acknowledged.items():
            total.acknowledged[f"two servers {case}"] = digests


def _kill_the_one_that_trains(servers: list[FaultServer], tally: Tally) -> None:
    first, second = servers
    busy = first.wait_for(
        lambda: next((server for server in servers if workers(server, "train")), None), "a round"
    )
    other = second if busy is first else first
    time.sleep(1.0)
    begun = time.monotonic()
    busy.kill()
    other.wait_for(lambda: workers(other, "train"), "a round of the other server")
    tally.count("server", time.monotonic() - begun)
