"""Event streams: what they tell, when they end, and that they hold no thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import anyio.to_thread
import pytest

from server import event_stream

Look = Callable[[], dict[str, Any]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "PERIOD_S", 0.01)
    monkeypatch.setattr(event_stream, "_ending", False)


def look_at(*states: tuple[str, int]) -> Look:
    """Gives one state after the other, then the last one again and again."""
    left: Iterator[tuple[str, int]] = iter(states)
    last = states[-1]

    def look() -> dict[str, Any]:
        status, step = next(left, last)
        return {"status": status, "step": step, "ended": status == "done"}

    return look


async def events(look: Look) -> list[str]:
    return [text async for text in event_stream._events(look(), look)]


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    name, data, *rest = text.split("\n")
    assert rest == ["", ""], "an event ends with an empty line"
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_each_change_is_one_event_and_the_end_is_the_last() -> None:
    states = (("queued", 0), ("running", 0), ("running", 0), ("running", 7), ("done", 9))
    found = [parsed(text) for text in asyncio.run(events(look_at(*states)))]
    assert [(name, data["status"], data["step"]) for name, data in found] == [
        ("status", "queued", 0), ("status", "running", 0), ("progress", "running", 7), ("status", "done", 9),
    ]  # fmt: skip


def test_a_quiet_stream_is_kept_alive_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_S", 0.03)
    found = asyncio.run(events(look_at(*[("running", 1)] * 8, ("done", 1))))
    assert found[1].startswith(":")
    assert len([text for text in found if text.startswith("event: ")]) == 2


def test_more_streams_than_threads_are_served_side_by_side() -> None:
    async def follow_all() -> list[list[str]]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 1
        return await asyncio.gather(
            *(events(look_at(*[("running", n) for n in range(9)], ("done", 9))) for _ in range(20))
        )

    assert [len(found) for found in asyncio.run(follow_all())] == [10] * 20


def test_a_server_that_stops_ends_every_stream() -> None:
    async def follow() -> list[str]:
        stream = asyncio.create_task(events(look_at(("running", 1))))
        await asyncio.sleep(0.05)
        assert not stream.done()
        event_stream.end_all()
        return await asyncio.wait_for(stream, 30)

    assert len(asyncio.run(follow())) == 1
