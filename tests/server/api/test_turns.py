"""Requests that come together are answered one after another, with time for others between."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from verse_server.turns import RequestTurns

LARGE, SMALL = b"x" * 200_000, b"x" * 1000


def delays_of(
    monkeypatch: pytest.MonkeyPatch, *works: Callable[[RequestTurns], Awaitable[None]]
) -> list[float]:
    """How long each of some pieces of work that come at once is held back; 0 is left out."""
    delays: list[float] = []

    async def sleep(seconds: float) -> None:
        delays.extend([seconds] if seconds else [])

    async def all_at_once() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 1000.0)
        turns = RequestTurns()
        for work in works:
            await work(turns)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(all_at_once())
    return delays


async def request(turns: RequestTurns) -> None:
    await turns.begin()


def body(content: bytes) -> Callable[[RequestTurns], Awaitable[None]]:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def let_in(turns: RequestTurns) -> None:
        message = await turns.paced(receive)()
        assert message["type"] == "http.request"
        assert message["body"] == content

    return let_in


def test_large_bodies_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    second, third = delays_of(monkeypatch, *[body(LARGE)] * 3)
    assert 0.005 < second < third == pytest.approx(2 * second)


def test_as_many_requests_as_fill_a_batch_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert delays_of(monkeypatch, *[request, body(SMALL)] * 32) == []


def test_hundreds_of_requests_begin_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = delays_of(monkeypatch, *[request] * 700)
    assert 650 < len(delays) < 680
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(2.0, abs=0.1)


def test_requests_begin_beside_one_large_body(monkeypatch: pytest.MonkeyPatch) -> None:
    assert delays_of(monkeypatch, body(LARGE), *[request] * 9) == []


def test_when_the_loop_is_late_others_still_come_between_two_requests() -> None:
    order: list[str] = []

    async def late(turns: RequestTurns) -> None:
        await turns.begin()
        order.append("request")

    async def all_late() -> None:
        turns, loop = RequestTurns(), asyncio.get_running_loop()
        tasks = [loop.create_task(late(turns)) for _ in range(100)]
        await asyncio.sleep(0.01)
        time.sleep(0.2)  # noqa: ASYNC251  (the loop stands still)
        while not all(task.done() for task in tasks):
            order.append("other")
            await asyncio.sleep(0)

    asyncio.run(all_late())
    waited = "".join(name[0] for name in order[order.index("other") :])
    assert waited.count("r") > 20
    assert "rrr" not in waited
