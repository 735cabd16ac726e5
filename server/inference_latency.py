"""How long an inference takes while the server trains, against an idle one:
`python -m server.inference_latency --server URL`.

Asks for one inference after the other, first while nothing trains, then while a round runs. The figure asked
for is a 95th percentile of at most twice the idle one, on a CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import requests

LIMIT = 2.0
SHARE = 0.95
WAIT_S = 600.0


class Latency(NamedTuple):
    """Seconds of inferences.

    Attributes:
        p50_s: Median.
        p95_s: 95th percentile.
        inferences: Their number.
    """

    p50_s: float
    p95_s: float
    inferences: int


def measure(url: str, count: int, pause_s: float = 0.0) -> tuple[Latency, Latency]:
    """Time inferences while the server is idle, and while it trains.

    Args:
        url: The server, as in http://127.0.0.1:8000.
        count: Inferences of each kind.
        pause_s: Seconds between two of them, as a reader takes them.

    Returns:
        Idle and training.

    Raises:
        RuntimeError: the server has no image, no model, no label to train on, or its round ended too early.
    """
    url = url.rstrip("/")
    image = _any_image(url)
    _until(url, lambda rounds: not any(entry["status"] in ("queued", "running") for entry in rounds))
    _infer(url, image)  # loads the model
    idle = _latency(url, image, count, pause_s)
    answer = requests.post(f"{url}/train/ugmcl", json={}, timeout=60)
    if answer.status_code != 200:
        raise RuntimeError(f"The server starts no round: {answer.json()['detail']}")
    wanted = str(answer.json()["id"])

    def running(rounds: list[dict[str, Any]]) -> bool:
        entry = next(entry for entry in rounds if entry["id"] == wanted)
        return bool(entry["status"] == "running" and entry["progress"]["step"] > 0)

    _until(url, running)
    training = _latency(url, image, count, pause_s)
    if not running(_rounds(url)):
        raise RuntimeError(
            "The round ended before the last inference; take fewer, or a longer --conf round_seconds."
        )
    requests.post(f"{url}/rounds/{wanted}/cancel", timeout=60)
    return idle, training


def _latency(url: str, image: str, count: int, pause_s: float) -> Latency:
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        _infer(url, image)
        times.append(time.perf_counter() - begun)
        time.sleep(pause_s)
    ordered = sorted(times)
    return Latency(
        ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(SHARE * len(ordered)))], count
    )


def _infer(url: str, image: str) -> None:
    answer = requests.post(
        f"{url}/infer/ugmcl",
        params={"image": image},
        data={"params": '{"uncertainty": true, "fresh": true}'},
        timeout=600,
    )
    if answer.status_code != 200:
        raise RuntimeError(f"The inference was refused: {answer.json()['detail']}")


def _any_image(url: str) -> str:
    known: dict[str, Any] = requests.get(f"{url}/datastore/?output=all", timeout=60).json()["objects"]
    if not known:
        raise RuntimeError("The server has no image; start it on a folder with scans.")
    return sorted(known)[-1]


def _rounds(url: str) -> list[dict[str, Any]]:
    rounds: list[dict[str, Any]] = requests.get(f"{url}/rounds", timeout=60).json()["rounds"]
    return rounds


def _until(url: str, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition(_rounds(url)):
        if time.monotonic() > end:
            raise RuntimeError(
                f"The server's rounds did not come that far in {WAIT_S:.0f} s; see GET /rounds."
            )
        time.sleep(1.0)


def main() -> int:
    """Measure and print; 1 when the ratio misses the limit."""
    options = argparse.ArgumentParser(prog="python -m server.inference_latency", description=__doc__)
    options.add_argument("--server", default="http://127.0.0.1:8000", metavar="URL")
    options.add_argument("--count", type=int, default=40, metavar="N", help="inferences of each kind")
    options.add_argument(
        "--pause", type=float, default=0.0, metavar="S", help="seconds between two inferences"
    )
    given = options.parse_args()
    try:
        idle, training = measure(given.server, given.count, given.pause)
    except (RuntimeError, requests.RequestException) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    ratio = training.p95_s / idle.p95_s
    for name, found in (("idle", idle), ("while training", training)):
        sys.stdout.write(
            f"{found.inferences} inferences {name}: p50 {found.p50_s:.3f} s, p95 {found.p95_s:.3f} s\n"
        )
    sys.stdout.write(f"p95 while training against idle: {ratio:.2f} times\n")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
