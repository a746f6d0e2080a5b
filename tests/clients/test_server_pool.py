"""Several servers as one, with a clock that only moves when somebody sleeps."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from verse_clients.answers import ServedModel, ServedPart
from verse_clients.errors import (
    BadRequestError,
    BrokenServerError,
    InputError,
    RateLimitedError,
    SelectionError,
    ServerDownError,
    ServerError,
    UnauthorisedError,
    UnknownModelError,
)
from verse_clients.server_pool import ServerPool

pytestmark = pytest.mark.anyio

Trouble = Callable[[], ServerError | None]


class Clock:
    """Time that passes when nobody has anything else to do."""

    def __init__(self) -> None:
        self.time = 0.0

    async def sleep(self, seconds: float) -> None:
        until = self.time + seconds
        await asyncio.sleep(0.001)
        self.time = max(self.time, until)


class FakeServer:
    """A server in this process: it answers, fails as told, or falls silent."""

    is_local = True

    def __init__(self, name: str, **digests: str) -> None:
        self.base_url = f"http://{name}/v1"
        self.digests = digests or {"hushi": "d-hushi"}
        self.base_digest: str | None = "d-base"
        self.trouble: ServerError | None = None
        self.list_trouble: ServerError | None = None
        self.is_silent = False
        self.answered: list[int] = []
        self.asked = 0
        self.is_closed = False

    async def write(self, number: int) -> tuple[str, int]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_silent:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble
        self.answered.append(number)
        return self.base_url, number

    async def models(self) -> list[ServedModel]:
        self._look()
        return [ServedModel(id="tiny", root="tiny", digest=self.base_digest)]

    async def model(self, name: str) -> ServedModel:
        self._look()
        if name == "tiny":
            return (await self.models())[0]
        if name not in self.digests:
            raise UnknownModelError(f"{self.base_url} has no {name}.", status=404)
        parts = tuple(ServedPart(id="x", digest=d) for d in self.digests[name].split("+")[1:])
        digest = None if parts else self.digests[name]
        return ServedModel(id=name, root="tiny", digest=digest, parts=parts)

    def _look(self) -> None:
        if self.is_silent or self.trouble is not None or self.list_trouble is not None:
            gone = ServerDownError(f"No server answers at {self.base_url}.")
            raise self.list_trouble or self.trouble or gone

    async def close(self) -> None:
        self.is_closed = True


class World:
    """Servers, their pool, and what was told."""

    def __init__(self, *servers: FakeServer, slots: int = 2, wait_seconds: float = 100) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self._telling = asyncio.Event()
        self.pool = ServerPool(
            servers,
            slots=lambda _: slots,
            wait_seconds=wait_seconds,
            now=lambda: self.clock.time,
            sleep=self.clock.sleep,
            report=self.tell,
        )

    def tell(self, line: str) -> None:
        self.told.append(line)
        self._telling.set()

    async def until_told(self, number: int) -> None:
        while len(self.told) < number:
            self._telling.clear()
            await self._telling.wait()

    async def until_ready(self, number: int) -> None:
        """So many servers have a free slot at once."""
        free = number * self.pool.num_slots // len(self.pool.servers)
        gate = asyncio.Event()
        begun: list[int] = []

        async def hold(_: FakeServer) -> None:
            begun.append(1)
            if len(begun) == free:
                gate.set()
            await gate.wait()

        await asyncio.gather(*(self.pool.ask(hold) for _ in range(free)))

    async def write(self, numbers: range) -> list[tuple[str, int]]:
        """All answers, by as many workers as there are slots."""
        queue, answers = iter(numbers), list[tuple[str, int]]()

        async def work() -> None:
            for number in queue:
                answers.append(await self.pool.ask(lambda server, n=number: server.write(n)))

        async with asyncio.TaskGroup() as group:
            for _ in range(self.pool.num_slots):
                group.create_task(work())
        return answers


def down(server: FakeServer) -> ServerError:
    return ServerDownError(f"No server answers at {server.base_url}.")


async def test_all_servers_write_and_nothing_is_written_twice() -> None:
    a, b, c = (FakeServer(name) for name in "abc")
    world = World(a, b, c)
    await world.pool.agree(["hushi"])
    answers = await world.write(range(60))
    assert sorted(number for _, number in answers) == list(range(60))
    assert all(10 <= len(server.answered) <= 30 for server in (a, b, c))
    assert Counter(url for url, _ in answers)[a.base_url] == len(a.answered)
    await world.pool.close()
    assert a.is_closed
    assert b.is_closed


async def test_one_that_dies_gives_its_share_back_and_joins_when_it_answers() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    world = World(a, b)
    await world.pool.agree(["hushi"])
    await world.write(range(10))
    b.trouble = down(b)
    asked = b.asked
    assert sorted(n for _, n in await world.write(range(20))) == list(range(20))
    assert len(b.answered) < 10
    assert b.asked - asked <= 2 * world.pool.num_slots
    assert world.told == [f"{b.trouble} Others do its share; it joins when it answers."]
    b.trouble = None
    await world.until_ready(2)
    before = len(b.answered)
    await world.write(range(20))
    assert len(b.answered) > before + 3
    assert world.told[1:] == ["http://b/v1 answers, and has joined."]
    await world.pool.close()


async def test_one_that_is_down_from_the_start_is_told_of_and_joins_later() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    a.trouble = down(a)
    world = World(a, b)
    assert (await world.pool.ask_first(lambda server: server.models()))[0].id == "tiny"
    await world.pool.agree(["hushi"])
    assert world.told == [f"{a.trouble} Others do its share; it joins when it answers."]
    assert {url for url, _ in await world.write(range(5))} == {b.base_url}
    a.trouble = None
    await world.until_ready(2)
    assert {url for url, _ in await world.write(range(20))} == {a.base_url, b.base_url}
    await world.pool.close()


@pytest.mark.parametrize("wait_seconds", [0.0, 30.0])
async def test_when_all_are_down_for_too_long_one_sentence_names_them(wait_seconds: float) -> None:
    a, b = FakeServer("a"), FakeServer("b")
    a.trouble, b.trouble = down(a), down(b)
    world = World(a, b, wait_seconds=wait_seconds)
    with pytest.raises(ServerDownError) as caught:
        await world.pool.ask_first(lambda server: server.models())
    assert str(caught.value) == "None of the servers answers: http://a/v1, http://b/v1."
    assert world.clock.time >= wait_seconds
    assert len(world.told) == (2 if wait_seconds else 1)
    await world.pool.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"hushi": "other-digest-of-it"},
            "http://b/v1 has another 'hushi' than http://a/v1: their digests are other-digest "
            "and d-hushi. Give all servers the same files.",
        ),
        (
            {"xuzhimo": "d"},
            "http://b/v1 has no model 'hushi', which http://a/v1 has. "
            "Give all servers the same files.",
        ),
    ],
)
async def test_other_weights_under_one_name_are_refused(change: dict[str, str], said: str) -> None:
    world = World(FakeServer("a"), FakeServer("b", **change))
    with pytest.raises(SelectionError) as caught:
        await world.pool.agree(["hushi"])
    assert str(caught.value) == said
    await world.pool.close()


async def test_another_base_and_another_part_of_a_blend_are_refused() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    b.base_digest = "other"
    with pytest.raises(SelectionError, match="another 'base'"):
        await World(a, b).pool.agree(["hushi"])
    c = FakeServer("c", **{"x:0.5": "+one+two"})
    d = FakeServer("d", **{"x:0.5": "+one+three"})
    with pytest.raises(SelectionError, match=r"another 'x:0\.5'"):
        await World(c, d).pool.agree(["x:0.5"])


async def test_servers_that_tell_no_digest_are_held_to_their_names() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    for server in (a, b):
        server.base_digest = None
        server.digests = {"hushi": ""}
    world = World(a, b)
    await world.pool.agree(["hushi"])
    await world.pool.close()


async def test_one_that_comes_back_with_other_weights_gets_no_share() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    b.trouble = down(b)
    world = World(a, b)
    await world.pool.agree(["hushi"])
    b.trouble, b.digests = None, {"hushi": "newer"}
    await world.until_told(2)
    assert world.told[1].endswith("their digests are newer and d-hushi. It gets no share.")
    assert {url for url, _ in await world.write(range(10))} == {a.base_url}
    await world.pool.close()


async def test_one_that_comes_back_and_refuses_the_key_gets_no_share() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    b.trouble = down(b)
    world = World(a, b)
    await world.pool.agree(["hushi"])
    b.trouble, b.list_trouble = None, UnauthorisedError("http://b/v1 wants a key.", status=401)
    await world.until_told(2)
    assert world.told[1] == "http://b/v1 wants a key. It gets no share."
    await world.pool.close()


async def test_one_that_falls_silent_gives_back_what_it_was_asked() -> None:
    """A machine that falls asleep closes no connection."""
    a, b = FakeServer("a"), FakeServer("b")
    world = World(a, b)
    await world.pool.agree(["hushi"])
    b.is_silent = True
    answers = await world.write(range(30))
    assert sorted(number for _, number in answers) == list(range(30))
    assert {url for url, _ in answers} == {a.base_url}
    assert "http://b/v1 does not answer any more. Others do its share" in world.told[0]
    await world.pool.close()


async def test_one_that_is_only_slow_is_waited_for() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    world = World(a, b, slots=1)
    await world.pool.agree(["hushi"])

    async def slow(server: FakeServer) -> str:
        await world.clock.sleep(100)
        return server.base_url

    assert await world.pool.ask(slow) in (a.base_url, b.base_url)
    assert world.told == []
    await world.pool.close()


async def test_what_one_server_breaks_at_another_answers() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    world = World(a, b)
    await world.pool.agree(["hushi"])
    a.trouble = BrokenServerError("a broke", status=500)
    answers = await world.write(range(10))
    assert sorted(number for _, number in answers) == list(range(10))
    assert world.told == []
    await world.pool.close()


async def test_one_that_asks_to_be_left_alone_rests_while_the_other_goes_on() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    world = World(a, b)
    await world.pool.agree(["hushi"])
    b.trouble = RateLimitedError("too many", status=429, retry_after_seconds=1000)
    answers = await world.write(range(20))
    assert {url for url, _ in answers} == {a.base_url}
    assert b.asked <= world.pool.num_slots
    await world.pool.close()


async def test_one_that_lists_its_models_and_never_answers_is_told_of_once() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    world = World(a, b)
    await world.pool.agree(["hushi"])
    busy = BrokenServerError("b is going down.", status=503)

    async def write(server: FakeServer) -> str:
        await world.clock.sleep(5)
        if server is b:
            raise busy
        return server.base_url

    for _ in range(20):
        answers = await asyncio.gather(*(world.pool.ask(write) for _ in range(3)))
        assert set(answers) == {a.base_url}
    assert world.told == [f"{busy} Others do its share; it joins when it answers."]
    await world.pool.close()


async def test_what_no_server_would_take_is_raised_at_once() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    world = World(a, b)
    a.trouble = b.trouble = BadRequestError("no", status=400)
    with pytest.raises(BadRequestError):
        await world.pool.ask(lambda server: server.write(1))
    assert a.asked + b.asked == 1
    await world.pool.close()


async def test_whoever_is_cancelled_while_waiting_passes_the_turn_on() -> None:
    a, b = FakeServer("a"), FakeServer("b")
    world = World(a, b, slots=1)
    await world.pool.agree(["hushi"])
    gate = asyncio.Event()

    async def hold(server: FakeServer) -> str:
        await gate.wait()
        return server.base_url

    holders = [asyncio.create_task(world.pool.ask(hold)) for _ in range(2)]
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(world.pool.ask(hold)) for _ in range(3)]
    await asyncio.sleep(0.01)
    waiting[0].cancel()
    gate.set()
    done = await asyncio.gather(*holders, *waiting, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in done] == [False] * 2 + [
        True,
        False,
        False,
    ]
    await world.pool.close()


@pytest.mark.parametrize("again", ["http://a/v1", "http://A/v1/"])
def test_a_server_given_twice_is_refused(again: str) -> None:
    a, b = FakeServer("a"), FakeServer("a")
    b.base_url = again
    with pytest.raises(InputError, match="is given twice; name each server once"):
        World(a, b)
