"""The engine and its adapters: published, replaced, evicted, broken, blended."""

import asyncio
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.server.engine.engine_requests import (
    StartEngine,
    answers_of,
    collect,
    request,
    until,
    write,
)
from verse_server.engine.adapters import version_reading
from verse_server.engine.adapters.listing import AdapterVersion
from verse_server.engine.adapters.version_reading import read_weights
from verse_server.engine.errors import (
    AdapterChangedError,
    AdapterIncompatibleError,
    GenerationFailedError,
    InvalidRequestError,
    ModelNotFoundError,
)

pytestmark = pytest.mark.anyio


async def test_a_published_adapter_reaches_new_rows_and_leaves_running_ones_alone(
    start_engine: StartEngine, adapters: Path, make_adapter: Any
) -> None:
    engine = start_engine()
    old = await write(engine, "a", max_tokens=120)
    old_digest = engine.resolve("a").parts[0].digest
    running = engine.generate(request(engine, "a", max_tokens=120))
    first = await anext(running)

    make_adapter(adapters / "a", seed=77, rank=8)

    new = await write(engine, "a", max_tokens=120)
    rest, _ = await collect(running)
    assert first.text + rest == old
    assert new != old
    assert engine.resolve("a").parts[0].digest != old_digest
    assert await write(engine, "a", max_tokens=120) == new


async def test_a_request_resolved_before_a_replacement_runs_on_the_new_files(
    start_engine: StartEngine, adapters: Path, make_adapter: Any
) -> None:
    engine = start_engine()
    early = request(engine, "a")
    make_adapter(adapters / "a", seed=78)
    text, _ = await collect(engine.generate(early))
    assert text == await write(engine, "a")


async def test_what_a_trainer_notes_about_older_weights_loads_and_computes_nothing_anew(
    start_engine: StartEngine, adapters: Path
) -> None:
    engine = start_engine()
    prompt = {"prompt": tuple(range(5, 45))}
    early = request(engine, "a", **prompt)
    text, _ = await collect(engine.generate(early))
    file = adapters / "a" / "adapter_config.json"
    noted = {**json.loads(file.read_text()), "best_step": 3, "history": [{"step": 3}]}
    file.write_text(json.dumps(noted, indent=1))
    again = request(engine, "a", **prompt)
    assert again.target == early.target
    for wanted in (early, again):
        repeated, last = await collect(engine.generate(wanted))
        assert (repeated, last.cached_tokens) == (text, 39)
    assert engine.stats().adapter_loads == 1


async def test_an_evicted_adapter_comes_back_with_the_same_tokens(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(adapter_slots=1)
    before = {name: await write(engine, name) for name in ("a", "b", "c")}
    after = {name: await write(engine, name) for name in ("c", "a", "b")}
    assert before == after
    assert len(set(before.values())) == 3
    assert engine.health().resident_adapters == 1


async def test_more_adapters_than_slots_at_once_all_finish_as_they_would_alone(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(adapter_slots=2, max_batch=4)
    names = ["a", "b", "c", "base"] * 4
    alone = {name: await write(engine, name) for name in set(names)}
    together = await asyncio.gather(*(write(engine, name) for name in names))
    assert together == [alone[name] for name in names]


async def test_new_changed_and_removed_folders_count_from_the_next_request(
    start_engine: StartEngine, adapters: Path, make_adapter: Any, tmp_path: Path
) -> None:
    engine = start_engine()
    with pytest.raises(ModelNotFoundError):
        engine.resolve("fresh")
    shutil.move(make_adapter(tmp_path / "elsewhere", seed=9), adapters / "fresh")
    published = await write(engine, "fresh")
    shutil.copy(
        adapters / "b" / "adapters.safetensors", adapters / "b" / "0000200_adapters.safetensors"
    )
    assert await write(engine, "b@200") == await write(engine, "b") != published
    assert [c.step for c in engine.model("b").checkpoints] == [200]
    shutil.rmtree(adapters / "fresh")
    with pytest.raises(ModelNotFoundError):
        engine.resolve("fresh")
    assert "fresh" not in {model.id for model in engine.models()}


async def test_a_broken_folder_is_refused_with_its_reason_and_serves_once_mended(
    start_engine: StartEngine, adapters: Path
) -> None:
    whole = (adapters / "a" / "adapters.safetensors").read_bytes()
    (adapters / "a" / "adapters.safetensors").write_bytes(whole[: len(whole) // 2])
    engine = start_engine()
    assert len(engine.warnings) == 1
    assert "copy it again" in engine.warnings[0]
    with pytest.raises(AdapterIncompatibleError, match="copy it again"):
        engine.resolve("a")
    assert await write(engine, "b")
    (adapters / "a" / "adapters.safetensors").write_bytes(whole)
    assert await write(engine, "a")
    assert engine.warnings == []


async def test_the_report_has_the_norm_of_the_update_once_it_was_loaded(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    before = engine.model("a").report
    await write(engine, "a")
    after = engine.model("a").report
    assert before is not None
    assert after is not None
    assert before.delta_norm is None
    assert after.delta_norm is not None
    assert after.delta_norm > 0
    assert (after.matched, after.rank, after.scale) == (14, 4, 2.0)


def test_a_dora_adapter_cannot_be_scaled_or_blended(
    start_engine: StartEngine, adapters: Path, make_adapter: Any
) -> None:
    make_adapter(adapters / "d", seed=4, kind="dora")
    engine = start_engine()
    assert engine.resolve("d").parts[0].strength == 1
    for spelling in ("d:0.5", "a:0.5+d:0.5"):
        with pytest.raises(InvalidRequestError, match="DoRA"):
            engine.resolve(spelling)


async def test_a_blend_needs_no_more_slots_than_there_are(start_engine: StartEngine) -> None:
    engine = start_engine(adapter_slots=2)
    assert await write(engine, "a:0.5+b:0.5") != await write(engine, "a")
    with pytest.raises(InvalidRequestError, match="slots"):
        await write(engine, "a:0.3+b:0.3+c:0.4")
    assert await write(engine, "c")


async def test_an_adapter_that_has_only_checkpoints_yet_is_listed_by_them(
    start_engine: StartEngine, adapters: Path
) -> None:
    weights = adapters / "a" / "adapters.safetensors"
    weights.rename(adapters / "a" / "0000100_adapters.safetensors")
    engine = start_engine()
    assert [model.id for model in engine.models()] == ["tiny", "a@100", "b", "c"]
    assert engine.warnings == []
    assert await write(engine, "a@last") == await write(engine, "a@100")
    with pytest.raises(AdapterIncompatibleError, match="a@last"):
        engine.resolve("a")


async def test_an_adapter_whose_numbers_overflow_fails_its_own_requests_only(
    start_engine: StartEngine, adapters: Path
) -> None:
    config = adapters / "b" / "adapter_config.json"
    loud = json.loads(config.read_text())
    loud["lora_parameters"]["scale"] = 1e30
    config.write_text(json.dumps(loud))
    engine = start_engine()
    alone = await write(engine, "a")
    texts = await asyncio.gather(
        write(engine, "a"),
        answers_of(engine, request(engine, "b", n=2)),
        write(engine, "a"),
        return_exceptions=True,
    )
    assert texts[0] == texts[2] == alone
    assert isinstance(texts[1], GenerationFailedError)
    assert "overflow" in str(texts[1])
    assert engine.health().status == "ok"
    await until(lambda: engine.health().running == engine.health().waiting == 0)


async def test_an_adapter_that_failed_to_load_is_refused_from_then_on(
    start_engine: StartEngine, adapters: Path
) -> None:
    file = adapters / "b" / "adapters.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    save_file({**weights, name: np.full_like(weights[name], np.nan)}, file)
    engine = start_engine()
    with pytest.raises(AdapterIncompatibleError):
        await write(engine, "b")
    with pytest.raises(AdapterIncompatibleError):
        engine.resolve("b")
    assert "b" not in {model.id for model in engine.models()}
    assert len(engine.warnings) == 1
    save_file(weights, file)
    assert await write(engine, "b")


async def test_a_request_whose_adapter_is_being_loaded_counts_as_waiting(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine()
    begun, go_on = threading.Event(), threading.Event()

    def slowly(version: AdapterVersion) -> memoryview:
        begun.set()
        assert go_on.wait(60)
        return read_weights(version)

    monkeypatch.setattr(version_reading, "read_weights", slowly)
    task = asyncio.create_task(write(engine, "a"))
    await asyncio.to_thread(begun.wait, 10)
    health = engine.health()
    engine.drain()
    go_on.set()
    assert (health.running, health.waiting) == (0, 1)
    assert await task
    await until(lambda: engine.health().waiting == 0)


async def test_a_request_follows_an_adapter_that_is_replaced_again_and_again(
    start_engine: StartEngine, adapters: Path, make_adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine()
    seeds = iter(range(500, 505))

    def replaced_first(version: AdapterVersion) -> memoryview:
        if (seed := next(seeds, None)) is not None:
            make_adapter(adapters / "a", seed=seed)
            raise AdapterChangedError("a")
        return read_weights(version)

    monkeypatch.setattr(version_reading, "read_weights", replaced_first)
    text = await write(engine, "a")
    assert next(seeds, None) is None
    assert text == await write(engine, "a")


async def test_every_load_is_logged_and_one_that_changes_nothing_is_a_warning(
    start_engine: StartEngine,
    adapters: Path,
    make_adapter: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_adapter(adapters / "b", seed=1, strength=0.0)
    engine = start_engine()
    with caplog.at_level("INFO", logger="verse_server"):
        await write(engine, "a")
        await write(engine, "b")
    levels = {record.message.split()[1]: record.levelname for record in caplog.records}
    assert levels == {"a": "INFO", "b": "WARNING"}
    assert "14 modules, rank 4, scale 2, norm" in caplog.text


async def test_a_failure_that_may_pass_is_not_remembered(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(_: AdapterVersion) -> memoryview:
        raise MemoryError("planted")

    engine = start_engine()
    with monkeypatch.context() as patched:
        patched.setattr(version_reading, "read_weights", out_of_memory)
        with pytest.raises(AdapterIncompatibleError, match="planted"):
            await write(engine, "a")
    assert await write(engine, "a")


async def test_a_blend_is_shown_as_asked_for_with_all_its_parts(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    blend = engine.model("a:0.5+b:-0.25")
    assert (blend.id, blend.parent, blend.digest, blend.report) == (
        "a:0.5+b:-0.25",
        engine.base.id,
        None,
        None,
    )
    parts = [(part.id, part.strength, part.digest) for part in blend.parts]
    assert parts == [
        ("a", 0.5, engine.model("a").digest),
        ("b", -0.25, engine.model("b").digest),
    ]
    ranks = [part.report.rank for part in blend.parts if part.report is not None]
    assert ranks == [4, 8]
    alone = engine.model("a:0.5")
    assert (alone.id, alone.digest) == ("a:0.5", engine.model("a").digest)
    assert alone.report == engine.model("a").report
    for unknown in ("a:0.5+nobody:0.5", "nobody:0.5", "a+b@999"):
        with pytest.raises(ModelNotFoundError):
            engine.model(unknown)
