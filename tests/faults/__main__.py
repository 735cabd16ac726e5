"""`python -m tests.faults --kills N`: break a running project in every way we know, and count what was lost.

Prints a line a step and a table; writes `build/test-faults.json`; ends with 1 if an acknowledged label was
lost or doubled, a version does not load, or something needed a person.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import disasters, kills
from tests.faults.ledger import Ledger
from tests.faults.scene import FaultServer, LabelSource, make_project, wait_until_learned
from tests.faults.two_servers import two_servers

Step = Callable[[str, Callable[[], None]], None]
"""Does a named part, and notes how it went."""
MIN_ACKNOWLEDGED_OF_A_FULL_RUN = 500
FULL_RUN = 200


def main() -> int:
    """Run everything; returns the exit status."""
    options = _parser().parse_args()
    random.seed(options.seed)
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    ledger, tally, passed, failed, skipped = Ledger(), kills.Tally(), [], {}, {}

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begun:6.0f} s] {line}", flush=True)

    def step(name: str, run: Callable[[], None]) -> None:
        say(name)
        try:
            run()
            passed.append(name)
        except disasters.Unavailable as why:
            skipped[name] = str(why)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
            say(f"FAILED {name}: {failed[name]}")

    if options.kills:
        _kill_phases(folder / "kills", options.kills, ledger, tally, step, say)
    _disasters(folder, ledger, step)
    step("two servers on one PostgreSQL", lambda: two_servers(folder / "two", ledger, tally, say))
    report = {
        "kills": sum(tally.kills.values()),
        "kills_by_victim": tally.kills,
        "kills_in_publications": tally.publications,
        "acknowledged": ledger.count,
        "lost": len(ledger.lost),
        "doubled": len(ledger.doubled),
        "longest_recovery_s": round(max(tally.recovery_s.values(), default=0.0), 1),
        "recovery_s_by_victim": {name: round(value, 1) for name, value in tally.recovery_s.items()},
        "seconds": round(time.monotonic() - begun),
        "seed": options.seed,
        "failed": failed,
        "skipped": skipped,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))
    for what in (*sorted(ledger.lost), *sorted(ledger.doubled)):
        print(f"lost or doubled: {what}")
    bad = bool(failed or ledger.lost or ledger.doubled or sum(tally.kills.values()) < options.kills)
    is_thin = ledger.count < MIN_ACKNOWLEDGED_OF_A_FULL_RUN or bool(skipped)
    bad |= options.kills >= FULL_RUN and is_thin
    if not bad:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"kept for a look: {folder}")
    print(f"{len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped")
    return int(bad)


def _kill_phases(
    folder: Path, count: int, ledger: Ledger, tally: kills.Tally, step: Step, say: kills.PROGRESS
) -> None:
    project = make_project(folder, 32)
    labels, server = LabelSource(project), FaultServer(project)
    server.start()
    share = max(1, count // 5)  # 20 % each: the server, the trainer
    scorers = max(1, count // 10)
    plan = {
        "server": (kills.kill_servers, share),
        "trainer": (kills.kill_trainers, share),
        "scorer": (kills.kill_scorers, scorers),
        "writer": (kills.kill_writers, count - 2 * share - scorers),
    }
    try:
        for name, (run, number) in plan.items():
            step(
                f"{number} kills of the {name}",
                lambda run=run, number=number: run(server, labels, ledger, tally, number, say),
            )
        step("the queue goes on to its end", lambda: wait_until_learned(server, ledger))
    finally:
        server.stop()


def _disasters(folder: Path, ledger: Ledger, step: Step) -> None:
    """Disasters have a project of their own: its folder is a small file system where one can be mounted."""
    before = Ledger()

    def on_small_disk() -> None:
        with disasters.small_file_system(folder / "disk") as place:
            project = make_project(place / "project", 4)
            server = FaultServer(project)
            server.start()
            try:
                disasters.fill_disk(server, LabelSource(project), before)
            finally:
                server.stop()

    step("a full disk", on_small_disk)
    own = Ledger()
    project = make_project(folder / "damage", 4)
    labels, server = LabelSource(project), FaultServer(project)
    server.start()
    try:
        disasters.expect_success(server, labels, own)
        server.wait_for(lambda: server.get("/models")["models"], "a model")
        step("a folder that cannot be written", lambda: disasters.make_read_only(server, labels, own))
        for what in ("label", "model", "database"):
            step(
                f"the newest {what} is damaged", lambda what=what: disasters.damage(what)(server, labels, own)
            )
        step("the clock jumps", lambda: disasters.move_clock(server, labels, own))
    finally:
        server.stop()
    for part in (before, own):
        ledger.lost |= part.lost
        ledger.doubled |= part.doubled
        for case, digests in part.acknowledged.items():
            ledger.acknowledged[f"disaster {id(part)} {case}"] = digests


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=FULL_RUN, help=f"how many (default: {FULL_RUN}); 0: the disasters alone"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("build/test-faults.json"), help="the report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
