"""More work than fits: queues, deadlines, memory, and clients that come and go."""

import asyncio
import random
import resource
import threading

import mlx.core as mx
import pytest

from tests.server.engine.engine_requests import StartEngine, collect, request, until, write
from verse_server.engine import pacing, scheduler, worker
from verse_server.engine.batch import Batch
from verse_server.engine.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    QueueFullError,
    SlowClientError,
)
from verse_server.engine.memory import give_memory_back
from verse_server.engine.pacing import Pacing
from verse_server.engine.prefill import PrefillWork
from verse_server.engine.sequence import EngineRequest

pytestmark = pytest.mark.anyio


async def assert_nothing_is_left(engine: object) -> None:
    worker = engine._worker  # pyright: ignore
    # An adapter that nobody waits for any more is loaded to its end.
    await until(lambda: not worker._state.resources.residency._loads)
    assert not worker._unfinished
    state = worker._state
    assert not state.running
    assert not state.waiting
    assert state.batch.is_empty
    assert not any(state.resources.residency._table._pins.values())


async def test_a_full_queue_turns_requests_away_and_says_when_to_come_back(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(max_batch=1, max_queue=2)
    running = engine.generate(request(engine, "a", max_tokens=200))
    await anext(running)
    waiting = [asyncio.ensure_future(write(engine, "a")) for _ in range(2)]
    await until(lambda: engine.health().waiting == 2)
    with pytest.raises(QueueFullError) as full:
        await write(engine, "a")
    assert full.value.retry_after_seconds >= 1
    await running.aclose()
    assert all(await asyncio.gather(*waiting))


async def test_how_many_wait_is_known_without_counting_them(start_engine: StartEngine) -> None:
    engine = start_engine(max_batch=2, max_queue=9)
    worker = engine._worker  # pyright: ignore[reportPrivateUsage]

    class Uncounted(set[EngineRequest]):
        def copy(self) -> set[EngineRequest]:
            assert threading.current_thread().name == "mlx"
            return super().copy()

    worker._unfinished = Uncounted()  # pyright: ignore[reportPrivateUsage]
    running = engine.generate(request(engine, "a", max_tokens=200, n=2))
    await anext(running)
    assert worker.num_waiting == 0
    waiting = [asyncio.ensure_future(write(engine, "a", n=n)) for n in (1, 2, 1, 1)]
    await until(lambda: worker.num_waiting == 4)
    waiting.pop().cancel()
    await until(lambda: worker.num_waiting == 3)
    await running.aclose()
    assert all(await asyncio.gather(*waiting))
    assert worker.num_waiting == 0
    await assert_nothing_is_left(engine)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_deadline_ends_a_request_wherever_it_is(
    start_engine: StartEngine, waits: bool
) -> None:
    engine = start_engine(max_batch=1 if waits else 2)
    other = engine.generate(request(engine, "a", max_tokens=240))
    await anext(other)
    with pytest.raises(DeadlineExceededError):
        await collect(engine.generate(request(engine, "b", max_tokens=240, max_seconds=0.02)))
    await other.aclose()
    await until(lambda: engine.health().running == 0)
    await assert_nothing_is_left(engine)
    assert await write(engine, "b")


async def test_the_engine_has_a_deadline_of_its_own(start_engine: StartEngine) -> None:
    engine = start_engine(deadline_seconds=0.02)
    with pytest.raises(DeadlineExceededError):
        await collect(engine.generate(request(engine, "a", max_tokens=240, max_seconds=60)))


async def test_a_request_that_memory_can_never_hold_is_refused_with_what_it_could(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(kv_cache_bytes=40_000)
    with pytest.raises(InvalidRequestError, match="holds 39 tokens") as refused:
        await write(engine, "a", max_tokens=100)
    assert refused.value.param == "max_tokens"
    assert await write(engine, "a", max_tokens=30)


async def test_requests_wait_until_memory_has_room_for_them(start_engine: StartEngine) -> None:
    alone = await write(start_engine(), "a", max_tokens=30)
    engine = start_engine(kv_cache_bytes=80_000)  # two rows of 34 tokens
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, engine.health().running)
            await asyncio.sleep(0.0005)

    watcher = asyncio.ensure_future(watch())
    texts = await asyncio.gather(*(write(engine, "a", max_tokens=30) for _ in range(8)))
    watcher.cancel()
    assert texts == [alone] * 8
    assert most == 2


async def test_one_clients_many_poems_do_not_starve_another_client(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(max_batch=4)
    done: list[str] = []

    async def ask(client: str, **fields: object) -> None:
        await write(engine, "a", client=client, max_tokens=10, **fields)
        done.append(client)

    bulk = [asyncio.ensure_future(ask("bulk")) for _ in range(40)]
    await until(lambda: len(done) >= 4)
    await ask("chat")
    assert done.index("chat") < 30
    await asyncio.gather(*bulk)


async def test_what_is_sent_as_a_batch_goes_last(start_engine: StartEngine) -> None:
    engine = start_engine(max_batch=2)
    done: list[str] = []

    async def ask(kind: str) -> None:
        await write(engine, "a", client="me", max_tokens=8, is_batch=kind == "batch")
        done.append(kind)

    batch = [asyncio.ensure_future(ask("batch")) for _ in range(20)]
    await until(lambda: len(done) >= 2)
    await asyncio.gather(*(ask("normal") for _ in range(6)))
    assert done.index("normal") < 8
    assert done[: done.index("normal") + 8].count("normal") >= 5
    await asyncio.gather(*batch)


async def test_a_step_that_breaks_fails_everybody_who_runs_or_waits(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine(max_batch=2)
    running = engine.generate(request(engine, "a", max_tokens=200))
    await anext(running)
    others = [asyncio.ensure_future(write(engine, "b")) for _ in range(4)]
    await until(lambda: engine.health().waiting >= 3)

    def broken(_: Batch) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(Batch, "step", broken)
    outcomes = await asyncio.gather(collect(running), *others, return_exceptions=True)
    assert all(isinstance(outcome, Exception) for outcome in outcomes)
    assert engine.health().status == "dead"


@pytest.mark.slow
async def test_two_hundred_clients_that_leave_at_random_leave_nothing_behind(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(max_batch=16, adapter_slots=2)
    chance = random.Random(7)

    async def client(number: int) -> None:
        fields = {"max_tokens": 60, "n": chance.choice((1, 1, 2)), "client": str(number % 5)}
        chunks = engine.generate(request(engine, chance.choice("abc"), **fields))
        try:
            async with asyncio.timeout(chance.random() * 0.6):
                async for _ in chunks:
                    pass
        except TimeoutError:
            pass
        finally:
            await chunks.aclose()

    await asyncio.gather(*(client(number) for number in range(100)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await asyncio.gather(*(client(number) for number in range(200)))
    await until(lambda: engine.health().running == 0 and engine.health().waiting == 0)
    await assert_nothing_is_left(engine)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 << 10  # kilobytes
    assert await write(engine, "a")


@pytest.mark.slow
async def test_thousands_of_short_requests_leave_memory_as_it_was(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(max_batch=32, max_queue=2000)
    names = ("base", "a", "b", "c")

    async def round_of(number: int) -> None:
        await asyncio.gather(
            *(
                write(engine, names[i % 4], max_tokens=2, prompt=(5, 900, 77, 41 + i % 300))
                for i in range(number)
            )
        )

    await round_of(500)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await round_of(1500)
    await assert_nothing_is_left(engine)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10


async def test_a_client_that_never_reads_keeps_no_row_from_the_others(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(max_batch=1, slow_client_seconds=0.05)
    never_reads = engine.generate(request(engine, "a", max_tokens=250))
    await anext(never_reads)
    assert await write(engine, "b")  # there is but one row
    with pytest.raises(SlowClientError, match=r"not read for 0\.05 seconds and was ended there"):
        await collect(never_reads)
    await assert_nothing_is_left(engine)


async def test_memory_kept_for_reuse_is_given_back_once_after_each_rush(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(worker, "_IDLE_SECONDS", 0.05)
    monkeypatch.setattr(worker, "give_memory_back", lambda: given.append(len(given)))
    engine = start_engine()
    await until(lambda: given == [0])
    assert await write(engine, "a")
    await until(lambda: given == [0, 1])
    await asyncio.sleep(0.2)
    assert given == [0, 1]
    assert await write(engine, "a")


def test_giving_memory_back_leaves_mlx_nothing_to_reuse() -> None:
    mx.eval(mx.zeros((1 << 20,)) + 1)
    give_memory_back()
    assert mx.get_cache_memory() == 0


def groups_begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on, how many prompts begin in each forward, where all wait for whoever comes."""
    num_groups: list[int] = []
    begin = Batch._begin  # pyright: ignore[reportPrivateUsage]

    def noted(batch: Batch, work: PrefillWork) -> object:
        num_groups.append(len(work.groups))
        return begin(batch, work)

    monkeypatch.setattr(Batch, "_begin", noted)
    monkeypatch.setattr(worker, "_GATHER_SECONDS", 2.0)
    monkeypatch.setattr(worker, "_GATHER_LONGEST_SECONDS", 60.0)
    return num_groups


async def test_requests_that_come_together_to_an_idle_engine_begin_in_one_forward(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine()
    for name in "ab":  # what is read from the disk first would be waited for
        assert await write(engine, name)
    num_groups = groups_begun(monkeypatch)
    poems = [asyncio.ensure_future(write(engine, name)) for name in "aabb"]
    assert all(await asyncio.gather(*poems))
    assert num_groups == [4]
    monkeypatch.setattr(worker, "_GATHER_LONGEST_SECONDS", 0.0)
    assert await write(engine, "a")


async def test_requests_that_come_together_begin_together_though_their_adapters_are_on_the_disk(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine()
    num_groups = groups_begun(monkeypatch)
    monkeypatch.setattr(
        pacing, "_IDLE_LOADING_SECONDS", 1e-9
    )  # one adapter comes in before the other
    monkeypatch.setattr(scheduler, "_NEXT_LOAD_SECONDS", 60.0)
    monkeypatch.setattr(scheduler, "_ALL_LOADS_SECONDS", 60.0)
    poems = [asyncio.ensure_future(write(engine, name)) for name in "abab"]
    assert all(await asyncio.gather(*poems))
    assert num_groups == [4]


async def test_a_crowd_is_more_than_would_fill_the_batch_once_more(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded: list[bool] = []
    begin = Pacing.begin

    def noted(pacing: Pacing, num_rows: int, *, is_crowded: bool, has_prompts: bool) -> None:
        crowded.append(is_crowded)
        begin(pacing, num_rows, is_crowded=is_crowded, has_prompts=has_prompts)

    engine = start_engine(max_batch=2)
    assert await write(engine, "a")  # whoever waits for its file does so as well
    monkeypatch.setattr(Pacing, "begin", noted)
    monkeypatch.setattr(worker, "_GATHER_SECONDS", 1.0)  # all are there before the first pass
    monkeypatch.setattr(worker, "_GATHER_LONGEST_SECONDS", 60.0)
    await asyncio.gather(*(write(engine, "a") for _ in range(2)))
    assert crowded
    assert not any(crowded)
    await asyncio.gather(*(write(engine, "a") for _ in range(6)))
    assert any(crowded)
    assert not crowded[-1]
