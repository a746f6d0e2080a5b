"""The engine whole, on a tiny random base: drawing, stopping, cancelling, dying."""

import asyncio
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.server.engine.engine_requests import (
    StartEngine,
    answers_of,
    collect,
    request,
    until,
    write,
)
from verse.adapter_digest import base_digest
from verse.prompt import Message
from verse_server.config import EngineConfig
from verse_server.engine.batch import Batch
from verse_server.engine.engine import MlxEngine
from verse_server.engine.errors import (
    EngineClosedError,
    GenerationFailedError,
    InvalidRequestError,
    PromptTooLongError,
    StartupError,
)
from verse_server.engine.types import GenerationChunk, SamplingParams

pytestmark = pytest.mark.anyio


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


async def test_a_text_without_a_frame_may_go_on_with_a_blank(start_engine: StartEngine) -> None:
    engine = start_engine()
    (blank,) = engine.encode_text(" ")
    bias = SamplingParams(temperature=0, logit_bias={blank: 1000.0})
    for framed, num_blanks in ((True, 2), (False, 3)):
        text = await write(engine, "base", sampling=bias, framed=framed, max_tokens=3)
        assert text == " " * num_blanks


async def test_the_base_is_as_old_as_its_weights(
    start_engine: StartEngine, tiny_base: Path
) -> None:
    os.utime(tiny_base / "model.safetensors", (0, 1_500_000_000))
    engine = start_engine()
    assert engine.base.created == engine.models()[0].created == 1_500_000_000


async def test_the_base_tells_which_weights_it_has(
    start_engine: StartEngine, tiny_base: Path
) -> None:
    engine = start_engine()
    assert engine.base.digest == engine.model("base").digest == base_digest(tiny_base)


async def test_max_tokens_ends_a_row_with_length(start_engine: StartEngine) -> None:
    engine = start_engine()
    _, last = await collect(engine.generate(request(engine, "base", max_tokens=5)))
    assert (last.finish_reason, last.completion_tokens) == ("length", 5)


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

    def broken(_: Batch) -> None:
        raise MemoryError("planted")

    monkeypatch.setattr(Batch, "step", broken)
    with pytest.raises(GenerationFailedError):
        await collect(running)
    with pytest.raises(GenerationFailedError):
        await waiting
    assert died.wait(60)
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


async def test_an_answer_that_nobody_reads_along_comes_in_two_pieces_and_is_the_same(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    drawn = SamplingParams(temperature=1.0, seed=4)
    wanted = request(engine, "a", sampling=drawn, n=2, num_top_logprobs=1, max_tokens=24)
    pieces: list[list[GenerationChunk]] = [[], []]
    async for chunk in engine.generate(msgspec.structs.replace(wanted, streamed=False)):
        pieces[chunk.index].append(chunk)
    assert ["".join(p.text for p in answer) for answer in pieces] == await answers_of(
        engine, wanted
    )
    for answer in pieces:
        assert [piece.finish_reason for piece in answer] == [None, "length"]
        assert [piece.completion_tokens for piece in answer][-1] == 24
        assert sum(len(piece.logprobs) for piece in answer) == 24


async def test_tokens_of_the_frame_have_no_text_and_may_be_asked_to_stop(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    frame = engine._loaded.hf_tokenizer.get_added_vocab()["<|im_start|>"]  # pyright: ignore[reportPrivateUsage]
    drawn = SamplingParams(temperature=0, logit_bias={frame: 100.0})
    text, last = await collect(engine.generate(request(engine, "a", sampling=drawn, max_tokens=5)))
    assert (text, last.completion_tokens, last.finish_reason) == ("", 5, "length")
    stopping = request(engine, "a", sampling=drawn, max_tokens=5, stop=("<|im_start|>",))
    text, last = await collect(engine.generate(stopping))
    assert (text, last.completion_tokens, last.finish_reason) == ("", 1, "stop")


async def test_a_text_without_a_frame_ignores_the_stops_of_the_format(
    start_engine: StartEngine, adapters: Path
) -> None:
    engine = start_engine()
    whole = await write(engine, "a", framed=False)
    stop = whole[2:4]
    recorded = {"format": "chat", "stop": [stop]}
    (adapters / "a" / "prompt.json").write_text(json.dumps(recorded))
    assert await write(engine, "a") == whole[: whole.index(stop)]
    assert await write(engine, "a", framed=False) == whole


def test_a_text_is_encoded_as_it_is_and_decoded_again(start_engine: StartEngine) -> None:
    engine = start_engine()
    ids = engine.encode_text("<|im_start|>河水龘")
    assert ids[0] == engine.encode_text("<|im_start|>")[0]
    assert engine.decode(ids) == "<|im_start|>河水龘"
    assert engine.encode_text("") == ()


async def test_an_end_is_delivered_though_the_last_other_poem_is_called_off_at_once(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step leaves for the next one to send must not wait for a step that never comes."""
    engine = start_engine()
    worker: Any = engine._worker  # pyright: ignore[reportPrivateUsage]
    step = worker._step

    def step_and_call_off() -> None:
        before = len(worker._state.running)
        step()
        if before == 2 and len(worker._state.running) == 1:
            worker.cancel(next(iter(worker._state.running.values())))

    monkeypatch.setattr(worker, "_step", step_and_call_off)
    endless = engine.generate(request(engine, "a", max_tokens=200))
    await anext(endless)
    async with asyncio.timeout(60):
        _, last = await collect(engine.generate(request(engine, "b", max_tokens=3)))
    assert last.finish_reason is not None
    await endless.aclose()


async def test_a_base_without_a_chat_template_continues_texts_and_says_so_of_chats(
    tiny_base: Path, adapters: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "plain")
    config = json.loads((base / "tokenizer_config.json").read_text("utf-8"))
    del config["chat_template"]
    (base / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    engine = MlxEngine.start(EngineConfig(model=str(base), adapters=adapters))
    try:
        with pytest.raises(InvalidRequestError, match=r"has no chat template: copy .*/v1/compl"):
            engine.encode(engine.resolve("base"), [Message("user", "河")])
        assert await write(engine, "base")
    finally:
        engine.close()
