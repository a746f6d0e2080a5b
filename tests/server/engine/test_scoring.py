"""A scored prompt has the log-probabilities that mlx-lm's model gives, and disturbs nobody."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import utils as mlx_lm_utils
from mlx_lm.models import qwen2

from tests.server.engine.conftest import CONFIG
from tests.server.engine.engine_requests import (
    PROMPT,
    StartEngine,
    collect,
    request,
    until,
    write,
)
from verse_server.engine import scoring
from verse_server.engine.engine import MlxEngine
from verse_server.engine.errors import GenerationFailedError, InvalidRequestError
from verse_server.engine.types import (
    GenerationChunk,
    SamplingParams,
    ScoringGroup,
    TokenLogprob,
    TokenText,
)

pytestmark = pytest.mark.anyio

LONG = tuple(int(n) for n in np.random.default_rng(5).integers(3, 8192, 200))


def reference(base: Path, weights: Sequence[tuple[Path, float]], prompt: Sequence[int]) -> Any:
    """(tokens - 1, vocab) in float64, of a base into which the adapters were added by hand."""
    model = cast(Any, mlx_lm_utils.load(str(base))[0])
    for adapter, strength in weights:
        factors = cast(dict[str, mx.array], mx.load(str(adapter / "adapters.safetensors")))
        for name in [name.removesuffix(".lora_a") for name in factors if name.endswith("lora_a")]:
            linear = model
            for part in name.split("."):
                linear = linear[int(part)] if part.isdigit() else getattr(linear, part)
            delta = factors[f"{name}.lora_a"] @ factors[f"{name}.lora_b"]
            linear.weight = linear.weight + (2.0 * strength * delta).T
    logits = np.array(model(mx.array([list(prompt)]))[0, :-1], dtype=np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


async def score(engine: MlxEngine, model: str, **fields: Any) -> list[GenerationChunk]:
    wanted: dict[str, Any] = {"score_prompt": True, "num_top_logprobs": 3, "max_tokens": 0} | fields
    wanted |= {"num_prompt_logprobs": wanted["num_top_logprobs"] or 0, "report_end": True}
    chunks = engine.generate(request(engine, model, **wanted))
    return [chunk async for chunk in chunks]


def values(tokens: Sequence[TokenText]) -> list[float]:
    """All but the first have one."""
    assert not isinstance(tokens[0], TokenLogprob)
    return [cast(TokenLogprob, token).logprob for token in tokens[1:]]


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        ("base", []),
        ("b", [("b", 1.0)]),
        ("b:0.5", [("b", 0.5)]),
        ("a:0.7+c:0.3", [("a", 0.7), ("c", 0.3)]),
    ],
)
@pytest.mark.parametrize("chunk", [7, 256])
async def test_the_numbers_are_those_of_the_model(
    start_engine: StartEngine,
    monkeypatch: pytest.MonkeyPatch,
    tiny_base: Path,
    adapters: Path,
    model: str,
    weights: Sequence[tuple[str, float]],
    chunk: int,
) -> None:
    monkeypatch.setattr(scoring, "_MAX_TOKENS", chunk)
    (only,) = await score(start_engine(), model, prompt=LONG)
    expected = reference(tiny_base, [(adapters / name, s) for name, s in weights], LONG)
    assert (only.text, only.completion_tokens, only.finish_reason) == ("", 0, "length")
    assert len(only.scored_prompt) == len(LONG)
    own = expected[range(len(LONG) - 1), LONG[1:]]
    assert values(only.scored_prompt) == pytest.approx(own, abs=2e-3)
    for token, row in zip(only.scored_prompt[1:], expected, strict=True):
        top = [entry.logprob for entry in cast(TokenLogprob, token).top]
        assert top == pytest.approx(np.sort(row)[:-4:-1], abs=2e-3)


async def test_the_tokens_are_the_prompts_and_the_answer_follows(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    plain = request(engine, "a", prompt=LONG, n=2, sampling=SamplingParams(seed=3))
    texts = ["", ""]
    async for chunk in engine.generate(plain):
        texts[chunk.index] += chunk.text
    fields = {"prompt": LONG, "n": 2, "sampling": SamplingParams(seed=3), "max_tokens": 16}
    scored: dict[int, list[GenerationChunk]] = {0: [], 1: []}
    for chunk in await score(engine, "a", **fields):
        scored[chunk.index].append(chunk)
    for index, (first, *others) in scored.items():
        text = b"".join(bytes(token.bytes) for token in first.scored_prompt)
        assert text.decode("utf-8", "replace") == engine.decode(LONG)
        assert "".join(chunk.text for chunk in (first, *others)) == texts[index]
        assert [chunk.scored_prompt for chunk in others] == [()] * len(others)
        assert {chunk.cached_tokens for chunk in (first, *others)} == {0}
        num_entries = sum(len(chunk.logprobs) for chunk in (first, *others))
        assert num_entries == (first, *others)[-1].completion_tokens


async def test_an_end_token_has_an_entry_too(start_engine: StartEngine) -> None:
    engine = start_engine()
    bias = SamplingParams(temperature=0, logit_bias={CONFIG["eos_token_id"]: 1000.0})
    # One chunk or two: they are put together for a reader who is behind.
    chunks = await score(engine, "base", sampling=bias, max_tokens=1)
    last = chunks[-1]
    assert (last.text, last.finish_reason, last.completion_tokens) == ("", "stop", 1)
    assert [entry.token for entry in last.logprobs] == [engine.decode([CONFIG["eos_token_id"]])]
    assert len(chunks[0].scored_prompt) == len(PROMPT)


async def test_what_is_known_of_a_prompt_is_scored_all_the_same(start_engine: StartEngine) -> None:
    engine = start_engine()
    before = values((await score(engine, "a", prompt=LONG))[0].scored_prompt)
    await write(engine, "a", prompt=LONG)
    after, *_ = await score(engine, "a", prompt=LONG, max_tokens=2)
    assert values(after.scored_prompt) == before


@pytest.mark.parametrize("num_top", [0, 1, 20])
async def test_as_many_of_the_likeliest_as_asked_for(
    start_engine: StartEngine, num_top: int
) -> None:
    engine = start_engine()
    (only,) = await score(engine, "a", num_top_logprobs=num_top)
    (other,) = await score(engine, "a", num_top_logprobs=19)
    for token, known in zip(only.scored_prompt[1:], other.scored_prompt[1:], strict=True):
        top = cast(TokenLogprob, token).top
        assert len(top) == num_top
        assert top[:19] == cast(TokenLogprob, known).top[:num_top]


async def test_one_token_and_no_wish_for_numbers_need_no_computing(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    (only,) = await score(engine, "a", prompt=(77,))
    assert [token.token for token in only.scored_prompt] == [engine.decode([77])]
    (only,) = await score(engine, "a", score_prompt=False)
    assert (only.scored_prompt, only.finish_reason) == ((), "length")
    assert engine.health().running == 0


async def test_poems_that_are_being_written_do_not_notice(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_MAX_TOKENS", 32)
    engine = start_engine(adapter_slots=2)
    poem: dict[str, Any] = {"sampling": SamplingParams(seed=3), "max_tokens": 40}
    alone = [await write(engine, name, **poem) for name in ("a", "base")]
    expected = values((await score(engine, "b:0.5", prompt=LONG))[0].scored_prompt)
    writing = [asyncio.create_task(write(engine, name, **poem)) for name in ("a", "base")]
    num_scored = 0
    while not all(task.done() for task in writing):
        both = await asyncio.gather(*(score(engine, "b:0.5", prompt=LONG) for _ in range(2)))
        assert [values(chunks[0].scored_prompt) for chunks in both] == [expected] * 2
        num_scored += 2
    assert [await task for task in writing] == alone
    assert num_scored


async def test_a_poem_goes_on_between_the_chunks_of_a_long_prompt(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_MAX_TOKENS", 1)
    engine = start_engine()
    poem = engine.generate(request(engine, "a", max_tokens=200))
    await anext(poem)
    scoring_it = asyncio.create_task(score(engine, "b", prompt=LONG))
    num_chunks = 0
    async for _ in poem:
        num_chunks += not scoring_it.done()
        if num_chunks == 20:
            break
    assert num_chunks == 20
    await poem.aclose()
    await scoring_it


async def test_whoever_goes_away_leaves_nothing_behind(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_MAX_TOKENS", 1)
    engine = start_engine(adapter_slots=1)
    tasks = [asyncio.create_task(score(engine, "a", prompt=LONG, n=2)) for _ in range(3)]
    await until(lambda: engine.health().running == 6)
    for task in tasks:
        task.cancel()
    await until(lambda: engine.health().running == 0)
    assert len(await write(engine, "b")) > 0  # the only slot is free
    (only,) = await score(engine, "b", max_tokens=0)
    assert len(only.scored_prompt) == len(PROMPT)


async def test_bounds_hold_for_a_prompt_to_be_scored(start_engine: StartEngine) -> None:
    engine = start_engine(kv_cache_bytes=100_000)
    with pytest.raises(InvalidRequestError, match="memory"):
        await score(engine, "base", prompt=LONG)


async def test_numbers_that_overflow_are_an_error_and_harm_nobody(
    start_engine: StartEngine, adapters: Path, make_adapter: Any
) -> None:
    make_adapter(adapters / "wild", seed=5, strength=1e30)
    engine = start_engine()
    with pytest.raises(GenerationFailedError, match="overflow"):
        await score(engine, "wild", n=2)
    assert engine.health().running == 0
    text, _ = await collect(engine.generate(request(engine, "a")))
    assert text


def together(*prompts: Sequence[int], missing: int = 0) -> list[dict[str, Any]]:
    """What requests for the prompts of one call have beside the rest."""
    group = ScoringGroup(id="call", size=len(prompts) + missing)
    return [{"prompt": tuple(prompt), "scored_with": group} for prompt in prompts]


FRAME = LONG[:70]
THEMES = (
    (*FRAME, 41, 52, *LONG[80:120]),
    (*FRAME, 63, *LONG[80:120]),
    (*FRAME, 41, 74, 85, *LONG[80:160]),
    FRAME,
    (*FRAME, 63, *LONG[80:120]),
    (7,),
)


@pytest.mark.parametrize("prompts", [THEMES[:3], THEMES[:5], THEMES], ids=["3", "5", "6"])
@pytest.mark.parametrize("model", ["base", "b"])
async def test_prompts_of_one_call_have_the_numbers_that_each_has_alone(
    start_engine: StartEngine, prompts: Sequence[Sequence[int]], model: str
) -> None:
    engine = start_engine()
    alone = [(await score(engine, model, prompt=tuple(p)))[0].scored_prompt for p in prompts]
    calls = [score(engine, model, **fields) for fields in together(*prompts)]
    for expected, (only,) in zip(alone, await asyncio.gather(*calls), strict=True):
        assert [token.bytes for token in only.scored_prompt] == [token.bytes for token in expected]
        assert values(only.scored_prompt) == pytest.approx(values(expected), abs=1e-4)
        for one, other in zip(only.scored_prompt[1:], expected[1:], strict=True):
            assert cast(TokenLogprob, one).rank == cast(TokenLogprob, other).rank


async def test_what_all_begin_with_is_computed_once(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine()
    sizes: list[tuple[int, ...]] = []
    call = qwen2.Model.__call__

    def counted(model: Any, inputs: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        sizes.append(inputs.shape)
        return call(model, inputs, *args, **kwargs)

    monkeypatch.setattr(qwen2.Model, "__call__", counted)
    await asyncio.gather(*(score(engine, "a", **fields) for fields in together(*THEMES[:3])))
    # All have the same token behind the first 69; then 42, 41 and 83 have one behind them.
    assert sizes == [(1, 64), (1, 5), (3, 21), (3, 21), (1, 41)]


async def test_calls_at_once_have_the_same_bits_as_one_after_another(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()

    async def call(number: int) -> list[list[float]]:
        group = ScoringGroup(id=str(number), size=3)
        asked = [score(engine, "b", prompt=p, scored_with=group) for p in THEMES[:3]]
        return [values(only.scored_prompt) for (only,) in await asyncio.gather(*asked)]

    first = await call(0)
    poem = asyncio.create_task(write(engine, "a", max_tokens=60))
    assert await asyncio.gather(*map(call, range(1, 6))) == [first] * 5
    assert await poem


async def test_a_prompt_whose_companions_never_come_is_scored_without_them(
    start_engine: StartEngine,
) -> None:
    engine = start_engine(max_batch=2)
    calls = [score(engine, "a", **fields) for fields in together(*THEMES[:3], missing=2)]
    assert [len(only.scored_prompt) for (only,) in await asyncio.gather(*calls)] == [
        len(prompt) for prompt in THEMES[:3]
    ]


async def test_who_leaves_a_group_takes_nothing_from_the_others(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_MAX_TOKENS", 3)
    engine = start_engine()
    expected = [values((await score(engine, "a", prompt=p))[0].scored_prompt) for p in THEMES[:3]]
    tasks = [asyncio.create_task(score(engine, "a", **fields)) for fields in together(*THEMES[:3])]
    scorer = engine._worker._state.scorer  # pyright: ignore[reportPrivateUsage]
    await until(lambda: scorer._group is not None and scorer._group.num_computed > 72)  # pyright: ignore[reportPrivateUsage]
    tasks[1].cancel()
    for number in (0, 2):
        (only,) = await tasks[number]
        assert values(only.scored_prompt) == pytest.approx(expected[number], abs=1e-4)
    await until(lambda: engine.health().running == 0)


async def test_answers_after_prompts_of_one_call_are_those_after_each_alone(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    fields: dict[str, Any] = {"sampling": SamplingParams(temperature=0), "max_tokens": 12}
    prompts = [*THEMES[:3], (7,), (7,)]
    alone = [await write(engine, "a", prompt=p, **fields) for p in prompts]
    calls = [score(engine, "a", **each, **fields) for each in together(*prompts)]
    answers = await asyncio.gather(*calls)
    assert ["".join(chunk.text for chunk in chunks) for chunks in answers] == alone


async def test_two_prompts_of_one_token_have_nothing_to_compute(start_engine: StartEngine) -> None:
    engine = start_engine()
    calls = [score(engine, "a", **each, max_tokens=2) for each in together((7,), (7,))]
    for first, *_ in await asyncio.gather(*calls):
        assert [token.token for token in first.scored_prompt] == [engine.decode([7])]
