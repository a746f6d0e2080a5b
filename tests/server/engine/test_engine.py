"""The engine whole, on a tiny random base: publishing, evicting, cancelling, dying."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from verse.prompt import Message
from verse_server.config import EngineConfig
from verse_server.engine import residency
from verse_server.engine.adapter_weights import AdapterWeights, load_weights
from verse_server.engine.batch import RowBatch
from verse_server.engine.engine import MlxEngine
from verse_server.engine.errors import (
    AdapterChangedError,
    AdapterIncompatibleError,
    EngineClosedError,
    GenerationFailedError,
    InvalidRequestError,
    ModelNotFoundError,
    PromptTooLongError,
    StartupError,
)
from verse_server.engine.types import GenerationChunk, GenerationRequest, SamplingParams

GREEDY = SamplingParams(temperature=0)
PROMPT = (5, 900, 77, 41)
pytestmark = pytest.mark.anyio
StartEngine = Callable[..., MlxEngine]


@pytest.fixture
def adapters(tmp_path: Path, make_adapter: Any) -> Path:
    root = tmp_path / "adapters"
    for seed, name in enumerate(("a", "b", "c")):
        make_adapter(root / name, seed=seed, rank=4 + 4 * seed)
    return root


@pytest.fixture
def start_engine(tiny_base: Path, adapters: Path) -> Iterator[StartEngine]:
    engines: list[MlxEngine] = []

    def start(**options: Any) -> MlxEngine:
        config = EngineConfig(model=str(tiny_base), adapters=adapters, **options)
        engines.append(MlxEngine.start(config))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def request(engine: MlxEngine, model: str, **fields: Any) -> GenerationRequest:
    defaults: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 16, "sampling": GREEDY}
    return GenerationRequest(target=engine.resolve(model), **(defaults | fields))


async def collect(chunks: AsyncIterator[GenerationChunk]) -> tuple[str, GenerationChunk]:
    text, last = "", None
    async for chunk in chunks:
        text, last = text + chunk.text, chunk
    assert last is not None
    return text, last


async def write(engine: MlxEngine, model: str, **fields: Any) -> str:
    return (await collect(engine.generate(request(engine, model, **fields))))[0]


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)


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


async def test_the_same_seed_repeats_alone_and_in_company(start_engine: StartEngine) -> None:
    engine = start_engine()
    drawn = SamplingParams(temperature=1.0, seed=42)
    alone = await write(engine, "a", sampling=drawn)
    others = [SamplingParams(temperature=0.8, top_k=5, seed=n) for n in range(9)]
    company = await asyncio.gather(
        write(engine, "a", sampling=drawn),
        *(write(engine, "b", sampling=other) for other in others),
        write(engine, "base"),
        write(engine, "a", sampling=drawn),
    )
    assert company[0] == company[-1] == alone


async def test_samples_without_a_seed_differ(start_engine: StartEngine) -> None:
    engine = start_engine()
    drawn = SamplingParams(temperature=1.0)
    texts = await asyncio.gather(*(write(engine, "a", sampling=drawn) for _ in range(8)))
    assert len(set(texts)) == 8


async def test_closing_the_iterator_frees_the_row_and_its_pin(start_engine: StartEngine) -> None:
    engine = start_engine(adapter_slots=1, max_batch=1)
    endless = engine.generate(request(engine, "a", max_tokens=200))
    await anext(endless)
    assert engine.health().running == 1
    blocked = asyncio.create_task(write(engine, "b"))
    await until(lambda: engine.health().waiting == 1)
    await endless.aclose()
    assert await asyncio.wait_for(blocked, 5)
    await until(lambda: engine.health().running == 0)


async def test_a_request_cancelled_while_it_waits_never_runs(start_engine: StartEngine) -> None:
    engine = start_engine(max_batch=1)
    endless = engine.generate(request(engine, "a", max_tokens=200))
    await anext(endless)
    waiting = asyncio.create_task(write(engine, "b"))
    await until(lambda: engine.health().waiting == 1)
    waiting.cancel()
    await until(lambda: engine.health().waiting == 0)
    assert engine.health().resident_adapters == 1
    await endless.aclose()


async def test_a_stop_string_ends_the_row_and_is_not_part_of_the_text(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    whole = await write(engine, "a", max_tokens=40)
    stop = whole[7:9]
    text, last = await collect(
        engine.generate(request(engine, "a", max_tokens=40, stop=("never", stop)))
    )
    assert text == whole[: whole.index(stop)]
    assert last.finish_reason == "stop"
    assert last.completion_tokens < 40
    await until(lambda: engine.health().running == 0)


async def test_max_tokens_ends_a_row_with_length(start_engine: StartEngine) -> None:
    engine = start_engine()
    _, last = await collect(engine.generate(request(engine, "base", max_tokens=5)))
    assert (last.finish_reason, last.completion_tokens) == ("length", 5)


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


async def test_an_engine_that_breaks_fails_everybody_and_says_it_is_dead(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine(max_batch=1)
    died = threading.Event()
    engine.on_death(died.set)
    running = engine.generate(request(engine, "a", max_tokens=200))
    await anext(running)
    waiting = asyncio.create_task(write(engine, "b"))
    await until(lambda: engine.health().waiting == 1)

    def broken(_: RowBatch) -> None:
        raise MemoryError("planted")

    monkeypatch.setattr(RowBatch, "step", broken)
    with pytest.raises(GenerationFailedError):
        await collect(running)
    with pytest.raises(GenerationFailedError):
        await waiting
    assert died.wait(5)
    assert engine.health().status == "dead"
    with pytest.raises(EngineClosedError):
        await write(engine, "a")


async def test_draining_lets_running_rows_finish_and_takes_no_new_ones(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    whole = await write(engine, "a", max_tokens=60)
    running = engine.generate(request(engine, "a", max_tokens=60))
    first = await anext(running)
    engine.drain()
    assert engine.health().status == "draining"
    with pytest.raises(EngineClosedError):
        await write(engine, "b")
    rest, _ = await collect(running)
    assert first.text + rest == whole


async def test_closing_ends_what_runs_with_an_error(start_engine: StartEngine) -> None:
    engine = start_engine()
    running = engine.generate(request(engine, "a", max_tokens=200))
    await anext(running)
    await asyncio.to_thread(engine.close)
    with pytest.raises(EngineClosedError):
        await collect(running)


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


def test_the_system_message_is_the_recorded_one_or_the_poem_prompt(
    start_engine: StartEngine, adapters: Path
) -> None:
    (adapters / "a" / "prompt.json").write_text(json.dumps({"system": "写一首古诗"}))
    (adapters / "b" / "prompt.json").write_text("{}")
    messages = [Message("user", "河")]
    engine, plain = start_engine(), start_engine(poem_prompt=False)

    def prompt(engine: MlxEngine, model: str) -> str:
        ids = engine.encode(engine.resolve(model), messages)
        return engine._loaded.tokenizer.decode(list(ids))  # pyright: ignore[reportPrivateUsage]

    assert "system\n写一首古诗<" in prompt(engine, "a")
    assert "system\n写一首古诗<" in prompt(plain, "a")
    assert "system" not in prompt(engine, "b")
    for model in ("c", "base"):
        assert "写一首现代诗<" in prompt(engine, model)
        assert "system" not in prompt(plain, model)


def test_a_prompt_that_fills_the_context_is_refused(start_engine: StartEngine) -> None:
    engine = start_engine()
    target = engine.resolve("a")
    with pytest.raises(PromptTooLongError):
        engine.encode(target, [Message("user", "河" * 300)])


def test_an_adapters_folder_that_cannot_be_read_stops_the_start(
    tiny_base: Path, tmp_path: Path
) -> None:
    config = EngineConfig(model=str(tiny_base), adapters=tmp_path / "missing")
    with pytest.raises(StartupError, match="--adapters"):
        MlxEngine.start(config)


def test_a_model_that_cannot_be_loaded_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="Hugging Face"):
        MlxEngine.start(EngineConfig(model=str(tmp_path / "missing"), adapters=tmp_path))


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


def test_wrong_sampling_defaults_of_a_base_stop_the_start(
    tiny_base: Path, adapters: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "generation_config.json").write_text('{"temperature": "0.7"}')
    with pytest.raises(StartupError, match="temperature"):
        MlxEngine.start(EngineConfig(model=str(base), adapters=adapters))


async def test_seeds_that_differ_only_in_sign_draw_differently(start_engine: StartEngine) -> None:
    engine = start_engine()
    one, minus_one = (SamplingParams(temperature=1.0, seed=seed) for seed in (1, -1))
    assert await write(engine, "a", sampling=one) != await write(engine, "a", sampling=minus_one)


async def answers_of(engine: MlxEngine, wanted: GenerationRequest) -> list[str]:
    texts = [""] * wanted.n
    async for chunk in engine.generate(wanted):
        texts[chunk.index] += chunk.text
    return texts


async def test_several_answers_differ_repeat_by_seed_and_begin_with_the_single_one(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    drawn = SamplingParams(temperature=1.0, seed=42)
    alone = await write(engine, "a", sampling=drawn)
    four = request(engine, "a", sampling=drawn, n=4)
    first, *_ = together = await answers_of(engine, four)
    assert first == alone
    assert len(set(together)) == 4
    company = await asyncio.gather(answers_of(engine, four), write(engine, "b"))
    assert company[0] == together
    await until(lambda: engine.health().running == 0)


async def test_more_answers_than_the_batch_holds_are_refused_and_others_go_on(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(max_batch=4)
    with pytest.raises(InvalidRequestError) as refused:
        await answers_of(engine, request(engine, "a", n=5))
    assert refused.value.param == "n"
    many = [answers_of(engine, request(engine, name, n=3)) for name in ("a", "b", "a", "c")]
    assert [len(texts) for texts in await asyncio.gather(*many)] == [3] * 4


async def test_cancelling_frees_all_answers_of_a_request(start_engine: StartEngine) -> None:
    engine = start_engine(adapter_slots=1)
    endless = engine.generate(request(engine, "a", max_tokens=200, n=5))
    await anext(endless)
    await endless.aclose()
    assert await asyncio.wait_for(write(engine, "b"), 5)
    await until(lambda: engine.health().running == 0)


async def test_a_prompt_seen_before_is_not_computed_again_and_gives_the_same_tokens(
    start_engine: StartEngine, adapters: Path, make_adapter: Any
) -> None:
    engine, cold = start_engine(), start_engine(prefix_cache_bytes=0)
    prompt = tuple(range(300, 340))
    longer = (*prompt[:30], 17, 18, 19)

    async def ask(engine: MlxEngine, tokens: tuple[int, ...]) -> tuple[str, int]:
        text, last = await collect(engine.generate(request(engine, "a", prompt=tokens)))
        return text, last.cached_tokens

    expected = {tokens: (await ask(cold, tokens))[0] for tokens in (prompt, longer)}
    assert await ask(engine, prompt) == (expected[prompt], 0)
    assert await ask(engine, prompt) == (expected[prompt], 39)
    assert await ask(engine, longer) == (expected[longer], 30)
    assert await ask(cold, prompt) == (expected[prompt], 0)
    make_adapter(adapters / "a", seed=99)
    text, cached = await ask(engine, prompt)
    assert cached == 0
    assert text != expected[prompt]


async def test_logprobs_come_with_the_text_they_belong_to(start_engine: StartEngine) -> None:
    engine = start_engine()
    chunks = [chunk async for chunk in engine.generate(request(engine, "a", num_top_logprobs=3))]
    entries = [entry for chunk in chunks for entry in chunk.logprobs]
    assert len(entries) == chunks[-1].completion_tokens - (chunks[-1].finish_reason == "stop")
    written = b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", "ignore")
    assert written.strip() == "".join(chunk.text for chunk in chunks).strip()
    for entry in entries:
        # Greedy: what was drawn is the likeliest.
        assert entry.logprob == pytest.approx(entry.top[0].logprob, abs=1e-4)
        assert entry.token == entry.top[0].token
        assert [t.logprob for t in entry.top] == sorted(
            (t.logprob for t in entry.top), reverse=True
        )
    assert all(
        chunk.logprobs == () for chunk in [c async for c in engine.generate(request(engine, "a"))]
    )


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
    loading, go_on = threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> AdapterWeights:
        loading.set()
        assert go_on.wait(10)
        return load_weights(*arguments)

    monkeypatch.setattr(residency, "load_weights", slowly)
    task = asyncio.create_task(write(engine, "a"))
    await asyncio.to_thread(loading.wait, 10)
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

    def replaced_first(data: Any, *rest: Any) -> AdapterWeights:
        if (seed := next(seeds, None)) is not None:
            make_adapter(adapters / "a", seed=seed)
            raise AdapterChangedError("a")
        return load_weights(data, *rest)

    monkeypatch.setattr(residency, "load_weights", replaced_first)
    text = await write(engine, "a")
    assert next(seeds, None) is None
    assert text == await write(engine, "a")
