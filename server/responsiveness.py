"""How fast `/health` answers while the server works: `python -m server.responsiveness --server URL`.

Keeps inference (and, where there are labels, a training round) going for some seconds and measures `/health`
beside it. The figure asked for is a 99th percentile below 100 ms.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from typing import Any, NamedTuple

import requests

PERIOD_S = 0.05
LIMIT_MS = 100.0


class Latency(NamedTuple):
    """Answer times of `/health` in milliseconds, and what went on meanwhile.

    Attributes:
        p50_ms: Median.
        p99_ms: 99th percentile.
        worst_ms: Longest.
        answers: Number of answers.
        inferences: Inferences finished meanwhile.
        training: Whether a round ran for any part of it.
    """

    p50_ms: float
    p99_ms: float
    worst_ms: float
    answers: int
    inferences: int
    training: bool


def measure(url: str, seconds: float, clients: int = 2, train: bool = True) -> Latency:
    """Load the server for `seconds` and time `/health` every `PERIOD_S`.

    Args:
        url: The server, as in http://127.0.0.1:8000.
        seconds: How long.
        clients: Inferences kept in flight at the same time.
        train: Whether to ask for a round first; a server without labels has none, and that is fine.

    Raises:
        RuntimeError: the server has no image to infer on, or no model yet.
    """
    url = url.rstrip("/")
    training = train and requests.post(f"{url}/train/ugmcl", json={}, timeout=60).status_code == 200
    ended = threading.Event()
    finished: list[int] = []
    image = _any_image(url)
    loads = [threading.Thread(target=_infer, args=(url, image, ended, finished)) for _ in range(clients)]
    for load in loads:
        load.start()
    try:
        times = _time_health(url, seconds)
    finally:
        ended.set()
        for load in loads:
            load.join()
    if any(status != 200 for status in finished):
        raise RuntimeError(
            f"An inference was refused with {max(finished)}; submit labels first, until a model is live."
        )
    ordered = sorted(times)
    return Latency(
        _percentile(ordered, 0.5),
        _percentile(ordered, 0.99),
        ordered[-1],
        len(ordered),
        len(finished),
        training,
    )


def _time_health(url: str, seconds: float) -> list[float]:
    times = []
    end = time.monotonic() + seconds
    # A connection for each request, as a monitor makes it: accepting one is the event loop's work too.
    while time.monotonic() < end:
        start = time.perf_counter()
        requests.get(f"{url}/health", timeout=60).raise_for_status()
        times.append(1000 * (time.perf_counter() - start))
        time.sleep(PERIOD_S)
    return times


def _infer(url: str, image: str, ended: threading.Event, finished: list[int]) -> None:
    while not ended.is_set():
        answer = requests.post(
            f"{url}/infer/ugmcl",
            params={"image": image},
            data={"params": '{"uncertainty": true, "fresh": true}'},
            timeout=600,
        )
        finished.append(answer.status_code)
        if answer.status_code != 200:
            return


def _any_image(url: str) -> str:
    known: dict[str, Any] = requests.get(f"{url}/datastore/?output=all", timeout=60).json()["objects"]
    if not known:
        raise RuntimeError("The server has no image; start it on a folder with scans.")
    return next(iter(known))


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> int:
    """Measure and print; 1 when the 99th percentile misses the limit."""
    options = argparse.ArgumentParser(prog="python -m server.responsiveness", description=__doc__)
    options.add_argument("--server", default="http://127.0.0.1:8000", metavar="URL")
    options.add_argument("--seconds", type=float, default=30, metavar="S")
    options.add_argument(
        "--clients", type=int, default=2, metavar="N", help="inferences in flight (default 2)"
    )
    given = options.parse_args()
    try:
        found = measure(given.server, given.seconds, given.clients)
    except (RuntimeError, requests.RequestException) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    training = "with training" if found.training else "without training"
    sys.stdout.write(
        f"/health while {found.inferences} inferences finished, {training}: "
        f"p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms, worst {found.worst_ms:.1f} ms, "
        f"{found.answers} answers\n"
    )
    return 0 if found.p99_ms < LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())
