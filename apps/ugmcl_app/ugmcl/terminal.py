"""terminal: what long commands do in a terminal: show a line of progress, stop where they can go on."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator

from .trainer import Progress


def progress_line(name: str) -> Callable[[Progress], None]:
    """Rewrites a line of standard error on a terminal, at most once a second; elsewhere adds one a minute."""
    on_terminal = sys.stderr.isatty()
    last = 0.0 if on_terminal else time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= (1 if on_terminal else 60):
            last = now
            text = f"{name}: step {progress.step}/{progress.steps}, {progress.eta_s:.0f} s left"
            print(f"\r{text}   " if on_terminal else text,
                  end="" if on_terminal else "\n", file=sys.stderr, flush=True)  # fmt: skip

    return report


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """A question that is true after Ctrl-C or SIGTERM; a second Ctrl-C ends at once."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, action in before.items():
            signal.signal(number, action)
