"""Bodies that come together are decoded one after another, with time for others between."""

import asyncio

import pytest

from verse_server import app
from verse_server.app import BodyTurns

LARGE, SMALL = b"x" * 200_000, b"x" * 1000


def delays_of(monkeypatch: pytest.MonkeyPatch, *bodies: bytes) -> list[float]:
    """How long each of some bodies that come at once is held back; those that are not left out."""
    delays: list[float] = []
    turns = BodyTurns()

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    async def let_in(body: bytes) -> None:
        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        message = await turns.paced(receive)()  # pyright: ignore[reportArgumentType]
        assert message["type"] == "http.request"
        assert message["body"] == body

    async def all_at_once() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: 1000.0)
        for body in bodies:
            await let_in(body)

    monkeypatch.setattr(f"{app.__name__}.asyncio.sleep", sleep)
    asyncio.run(all_at_once())
    return delays


def test_large_bodies_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    second, third = delays_of(monkeypatch, LARGE, LARGE, LARGE)
    assert 0.005 < second < third == pytest.approx(2 * second)


def test_as_many_small_ones_as_fill_a_batch_wait_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert delays_of(monkeypatch, *[SMALL] * 30) == []


def test_hundreds_of_small_ones_come_in_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = delays_of(monkeypatch, *[SMALL] * 700)
    assert 650 < len(delays) < 680
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(1.0, abs=0.1)


def test_small_ones_are_let_in_beside_one_large(monkeypatch: pytest.MonkeyPatch) -> None:
    assert delays_of(monkeypatch, LARGE, *[SMALL] * 9) == []
