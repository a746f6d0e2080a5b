"""Waiting: with a clock that only moves when somebody sleeps."""

import asyncio

import pytest

from verse_clients.errors import (
    BadRequestError,
    BrokenServerError,
    NoCompletionError,
    QuotaError,
    RateLimitedError,
    ServerDownError,
    ServerError,
    ServerTimeoutError,
    UnauthorisedError,
    UnknownModelError,
)
from verse_clients.retries import RetryPolicy, next_step, pause_seconds

pytestmark = pytest.mark.anyio


class World:
    """A server that fails as it is told, and time."""

    def __init__(self, *troubles: ServerError, wait_seconds: float = 100) -> None:
        self.time = 0.0
        self.slept: list[float] = []
        self.told: list[str] = []
        self.troubles = list(troubles)
        self.calls = 0
        self.retries = RetryPolicy(
            wait_seconds, now=lambda: self.time, sleep=self.sleep, report=self.told.append
        )

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        until = self.time + seconds
        await asyncio.sleep(0)
        self.time = max(self.time, until)

    async def request(self) -> str:
        self.calls += 1
        await asyncio.sleep(0)
        if self.troubles:
            raise self.troubles.pop(0)
        return "诗"


@pytest.mark.parametrize(
    ("error", "decided"),
    [
        (ServerDownError("x"), "pause"),
        (RateLimitedError("x"), "pause"),
        (BrokenServerError("x", status=503), "pause"),
        (BrokenServerError("x", status=500, retry_after_seconds=3), "pause"),
        (BrokenServerError("x", status=500), "again"),
        (ServerTimeoutError("x"), "again"),
        (NoCompletionError("x"), "again"),
        (BadRequestError("x"), "give up"),
        (UnauthorisedError("x"), "give up"),
        (UnknownModelError("x"), "give up"),
        (QuotaError("x"), "give up"),
        (ServerError("x"), "give up"),
    ],
)
def test_waiting_is_for_what_time_mends(error: ServerError, decided: str) -> None:
    assert next_step(error, 1) == decided


def test_a_request_is_repeated_twice_at_most_but_pauses_do_not_count() -> None:
    assert next_step(BrokenServerError("x", status=500), 3) == "give up"
    assert next_step(ServerDownError("x"), 99) == "pause"


def test_pauses_grow_up_to_a_limit_unless_the_server_says() -> None:
    down = ServerDownError("x")
    assert [pause_seconds(down, number) for number in range(6)] == [1, 2, 4, 8, 15, 15]
    assert pause_seconds(RateLimitedError("x", retry_after_seconds=600), 0) == 600


async def test_an_outage_is_told_once_and_so_is_its_end() -> None:
    world = World(*[ServerDownError("Nobody there.")] * 4)
    assert await world.retries.ask(world.request) == "诗"
    assert world.time == 1 + 2 + 4 + 8
    assert world.told == [
        "Nobody there. Waiting up to 100 s for it; Ctrl-C stops.",
        "The server answers again.",
    ]


async def test_patience_ends_after_the_time_allowed_and_not_before() -> None:
    world = World(*[ServerDownError("Nobody there.")] * 99, wait_seconds=20)
    with pytest.raises(ServerDownError, match="Nobody there"):
        await world.retries.ask(world.request)
    assert world.time == 20


async def test_no_patience_is_none() -> None:
    world = World(ServerDownError("Nobody there."), wait_seconds=0)
    with pytest.raises(ServerDownError):
        await world.retries.ask(world.request)
    assert (world.calls, world.slept) == (1, [])


async def test_a_long_wait_the_server_asks_for_is_kept_and_shown() -> None:
    world = World(RateLimitedError("Busy.", retry_after_seconds=90))
    assert await world.retries.ask(world.request) == "诗"
    assert (world.calls, world.time) == (2, 90)
    assert world.told[0] == "Busy. Waiting 90 s, as it asks."


async def test_a_longer_wait_than_allowed_ends_at_once() -> None:
    world = World(RateLimitedError("Busy.", retry_after_seconds=101))
    with pytest.raises(RateLimitedError):
        await world.retries.ask(world.request)
    assert (world.calls, world.time) == (1, 0)


async def test_short_waits_are_not_worth_a_line() -> None:
    world = World(*[RateLimitedError("Busy.", retry_after_seconds=2)] * 3)
    assert await world.retries.ask(world.request) == "诗"
    assert world.told == []


async def test_many_requests_share_one_pause_and_one_line() -> None:
    world = World(*[ServerDownError("Nobody there.")] * 8)
    answers = await asyncio.gather(*(world.retries.ask(world.request) for _ in range(8)))
    assert answers == ["诗"] * 8
    assert world.calls == 16
    assert world.time == 1
    assert len(world.told) == 2


async def test_an_outage_that_ended_begins_a_new_allowance() -> None:
    world = World(*[ServerDownError("x")] * 4, wait_seconds=16)
    await world.retries.ask(world.request)
    world.troubles.extend([ServerDownError("x")] * 4)
    await world.retries.ask(world.request)
    assert world.time == 30


@pytest.mark.parametrize(
    ("error", "calls"), [(BrokenServerError("x", status=500), 3), (BadRequestError("x"), 1)]
)
async def test_what_time_does_not_mend_is_handed_on(error: ServerError, calls: int) -> None:
    world = World(error, error, error)
    with pytest.raises(type(error)):
        await world.retries.ask(world.request)
    assert world.calls == calls
