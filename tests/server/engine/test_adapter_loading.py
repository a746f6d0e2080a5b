"""While an adapter is on its way into memory, everybody else writes on."""

import asyncio
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.server.engine.engine_requests import StartEngine, collect, request, until, write
from verse_server.engine import pacing
from verse_server.engine.adapters import version_reading
from verse_server.engine.adapters.listing import AdapterVersion
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.adapters.residency import AdapterLoad
from verse_server.engine.adapters.version_reading import read_weights
from verse_server.engine.batch import Batch
from verse_server.engine.decoding import Drawn
from verse_server.engine.errors import AdapterIncompatibleError, InvalidRequestError

pytestmark = pytest.mark.anyio


class SlowFile:
    """The weights of one adapter are read only once `go_on` is set."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

        def read(version: AdapterVersion) -> memoryview:
            if version.name == name:
                self.begun.set()
                assert self.go_on.wait(60)
            return read_weights(version)

        monkeypatch.setattr(version_reading, "read_weights", read)


async def test_a_file_that_is_read_slowly_delays_only_those_who_ask_for_it(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine(max_batch=2)  # so nobody may be overtaken more than twice
    slow = SlowFile("b", monkeypatch)
    waiting = [asyncio.create_task(write(engine, "b")) for _ in range(3)]
    assert await asyncio.to_thread(slow.begun.wait, 10)
    async with asyncio.timeout(60):
        for name in ("a", "c", "base", "a", "c", "base", "a"):
            assert await write(engine, name)
    assert engine.health().waiting == 3
    assert engine.health().resident_adapters == 2
    slow.go_on.set()
    assert len(set(await asyncio.gather(*waiting))) == 1
    assert engine.stats().adapter_loads == 3


async def test_who_leaves_while_an_adapter_is_read_leaves_nothing_behind(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine(adapter_slots=1)
    slow = SlowFile("b", monkeypatch)
    gone = asyncio.create_task(write(engine, "b"))
    assert await asyncio.to_thread(slow.begun.wait, 10)
    gone.cancel()
    slow.go_on.set()
    assert await write(engine, "a")
    await until(lambda: engine.health().waiting == 0)


async def test_an_adapter_comes_in_pieces_between_the_steps_of_running_rows(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine()
    running = engine.generate(request(engine, "a", max_tokens=200))
    await anext(running)
    events: list[str] = []
    load_step, batch_step = AdapterLoad.step, Batch.step

    def take_module(load: AdapterLoad, bank: LoraBank) -> bool:
        events.append("module")
        time.sleep(0.01)  # longer than loading may take between two steps
        return load_step(load, bank)

    def take_step(batch: Batch) -> list[Drawn]:
        events.append("step")
        return batch_step(batch)

    monkeypatch.setattr(AdapterLoad, "step", take_module)
    monkeypatch.setattr(Batch, "step", take_step)
    monkeypatch.setattr(pacing, "_LOADING_SHARE", 1e-9)
    assert await write(engine, "b")
    await running.aclose()
    assert events.count("module") == 14
    assert ("module", "module") not in set(pairwise(events))


async def test_one_that_fails_is_told_to_all_who_wait_for_it_and_to_nobody_else(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine(max_batch=2)
    slow = SlowFile("b", monkeypatch)
    waiting = [asyncio.create_task(write(engine, "b")) for _ in range(3)]
    other = asyncio.create_task(collect(engine.generate(request(engine, "a", max_tokens=100))))

    def out_of_memory(*_: Any) -> bool:
        raise MemoryError("planted")

    assert await asyncio.to_thread(slow.begun.wait, 10)
    await until(lambda: engine.stats().adapter_loads == 1)
    with monkeypatch.context() as patched:
        patched.setattr(AdapterLoad, "step", out_of_memory)
        slow.go_on.set()
        for failed in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(failed, AdapterIncompatibleError)
            assert "planted" in str(failed)
    assert (await other)[0]
    assert await write(engine, "b")


async def test_adapters_are_evicted_for_their_bytes_and_a_blend_that_never_fits_is_refused(
    start_engine: StartEngine, adapters: Path, make_adapter: Any
) -> None:
    make_adapter(adapters / "d", seed=9, rank=4)
    engine = start_engine()
    small, large = (engine._registry.by_digest(engine.resolve(n).parts[0].digest) for n in "ac")  # pyright: ignore
    assert large.memory_bytes == 2 * small.memory_bytes  # rank 12 is padded to 16, 4 to 8
    tight = start_engine(adapter_bytes=large.memory_bytes)
    alone = {name: await write(tight, name) for name in ("a", "b", "c", "d")}
    assert tight.stats().adapter_evictions == 3
    assert tight.health().resident_adapters == 1
    together = await asyncio.gather(*(write(tight, name) for name in ("a", "b", "c", "d") * 2))
    assert together == list(alone.values()) * 2
    with pytest.raises(
        InvalidRequestError, match=r"take .* MB of memory and all adapters together"
    ):
        await write(tight, "a:0.5+c:0.5")
    assert await write(tight, "a:0.5+d:0.5")


async def test_a_rank_above_the_limit_is_refused_before_a_row_runs(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(max_rank=8)
    with pytest.raises(AdapterIncompatibleError, match="its rank is 12 and this server takes at"):
        await engine.target("c")
    assert await write(engine, "b")
