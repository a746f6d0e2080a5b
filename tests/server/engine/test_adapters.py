"""Loading and unloading by hand on the real engine, while poems are being written."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.server.engine.engine_requests import StartEngine, collect, request, until, write
from verse_server.engine.engine import MlxEngine
from verse_server.engine.errors import (
    AdapterIncompatibleError,
    EngineClosedError,
    InvalidRequestError,
    ModelNotFoundError,
)
from verse_server.engine.types import AdapterInfo

pytestmark = pytest.mark.anyio


def info(engine: MlxEngine, name: str) -> AdapterInfo:
    return next(i for i in engine.adapters.list() if i.id == name)


async def test_loading_brings_an_adapter_into_a_slot_and_reports_what_it_found(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(adapter_slots=2)
    assert [(i.id, i.state) for i in engine.adapters.list()] == [
        ("a", "on_disk"),
        ("b", "on_disk"),
        ("c", "on_disk"),
    ]
    loaded = await engine.adapters.load("a", None)
    assert (loaded.state, loaded.resident[0].pins) == ("resident", 0)
    assert loaded.report is not None
    assert loaded.report.delta_norm
    assert engine.health().resident_adapters == 1
    assert await engine.adapters.load("a", None) == loaded
    await engine.adapters.load("b", None)
    await engine.adapters.load("c", None)
    assert info(engine, "a").state == "on_disk"


async def test_loads_evictions_and_memory_are_counted(start_engine: StartEngine) -> None:
    engine = start_engine(adapter_slots=2)
    before = engine.stats()
    assert (before.adapter_loads, before.adapter_evictions) == (0, 0)
    assert 0 < before.memory_bytes <= before.peak_memory_bytes
    for name in ("a", "b", "a", "c", "a"):
        await write(engine, name, max_tokens=1, prompt=tuple(range(20)))
    after = engine.stats()
    assert (after.adapter_loads, after.adapter_evictions) == (3, 1)
    assert after.prefix_cache_bytes > 0


async def test_what_writes_is_seen_pinned(start_engine: StartEngine) -> None:
    engine = start_engine()
    chunks = engine.generate(request(engine, "a", max_tokens=200))
    await anext(chunks)
    assert [v.pins for v in info(engine, "a").resident] == [1]
    await chunks.aclose()
    await until(lambda: [v.pins for v in info(engine, "a").resident] == [0])


async def test_an_unloaded_adapter_finishes_what_it_writes_and_is_refused_until_loaded(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    alone = await write(engine, "a", max_tokens=60)
    running = asyncio.create_task(collect(engine.generate(request(engine, "a", max_tokens=60))))
    await until(lambda: engine.health().running == 1)
    await engine.adapters.unload("a")
    for name in ("a", "a:0.5", "b:0.5+a:0.5"):
        with pytest.raises(ModelNotFoundError, match="load_lora_adapter"):
            engine.resolve(name)
    assert "a" not in {model.id for model in engine.models()}
    assert info(engine, "a").state == "unloaded"
    with pytest.raises(ModelNotFoundError):
        await engine.adapters.unload("a")
    assert (await running)[0] == alone
    assert (await engine.adapters.load("a", None)).state == "resident"
    assert await write(engine, "a", max_tokens=60) == alone


async def test_unloading_empties_the_slot_and_leaves_the_others(start_engine: StartEngine) -> None:
    engine = start_engine()
    before = [await write(engine, name) for name in ("a", "b")]
    await engine.adapters.unload("a")
    assert info(engine, "a").resident == ()
    assert engine.health().resident_adapters == 1
    assert await write(engine, "b") == before[1]
    await engine.adapters.load("a", None)
    assert [await write(engine, name) for name in ("a", "b")] == before


async def test_a_name_that_is_nobodys_is_not_found(start_engine: StartEngine) -> None:
    engine = start_engine()
    for name in ("nobody", "base", "a@7", "../a", ""):
        with pytest.raises(ModelNotFoundError):
            await engine.adapters.load(name, None)
    for name in ("a:0.5", "a+b"):
        with pytest.raises(InvalidRequestError, match="one by one"):
            await engine.adapters.load(name, None)
    with pytest.raises(InvalidRequestError, match="checkpoint"):
        await engine.adapters.unload("a@7")


async def test_a_path_is_checked_and_never_followed(
    start_engine: StartEngine, adapters: Path, tmp_path: Path
) -> None:
    engine = start_engine()
    for path in (str(adapters / "a"), "a", "./b/../a", f"{adapters}/a/"):
        assert (await engine.adapters.load("a", path)).state == "resident"
    outside = tmp_path / "outside"
    shutil.copytree(adapters / "a", outside)
    (adapters / "link").symlink_to(outside)
    for path in (str(outside), "b", "..", "/", "../outside", "link", "a\0", "x" * 9999):
        with pytest.raises(InvalidRequestError, match="adapters folder") as refused:
            await engine.adapters.load("a", path)
        assert refused.value.param == "lora_path"


async def test_what_cannot_be_served_is_refused_and_listed_so(
    start_engine: StartEngine, adapters: Path
) -> None:
    engine = start_engine()
    (adapters / "c" / "adapters.safetensors").write_bytes(b"no weights")
    with pytest.raises(AdapterIncompatibleError):
        await engine.adapters.load("c", None)
    refused = info(engine, "c")
    assert refused.state == "refused"
    assert "'c'" in (refused.error or "")
    await engine.adapters.unload("c")
    with pytest.raises(AdapterIncompatibleError):
        await engine.adapters.load("c", None)
    assert info(engine, "c").state == "unloaded"


async def test_a_closed_engine_loads_nothing(start_engine: StartEngine) -> None:
    engine = start_engine()
    engine.close()
    with pytest.raises(EngineClosedError):
        await engine.adapters.load("a", None)
