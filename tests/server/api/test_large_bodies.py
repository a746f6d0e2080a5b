"""Large bodies that come together are decoded one after another, with time for others between."""

import asyncio

import pytest

from verse_server.app import LargeBodies

LARGE, SMALL = b"x" * 200_000, b"x" * 1000


def delays_of(monkeypatch: pytest.MonkeyPatch, *bodies: bytes) -> list[float]:
    """How long each of some bodies that come at once is held back."""
    delays: list[float] = []
    large_bodies = LargeBodies()

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    async def let_in(body: bytes) -> None:
        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": body, "more_body": False}

        message = await large_bodies.paced(receive)()  # pyright: ignore[reportArgumentType]
        assert message["type"] == "http.request"
        assert message["body"] == body

    async def all_at_once() -> None:
        for body in bodies:
            await let_in(body)

    monkeypatch.setattr("verse_server.app.asyncio.sleep", sleep)
    asyncio.run(all_at_once())
    return delays


def test_large_bodies_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = delays_of(monkeypatch, LARGE, SMALL, LARGE, LARGE)
    assert first == 0
    assert 0 < second < third


def test_small_ones_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert delays_of(monkeypatch, *[SMALL] * 9) == []
