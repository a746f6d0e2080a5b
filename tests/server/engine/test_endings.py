"""When answers end: end tokens ignored or put off, tokens that stop, and what is told of them."""

import asyncio
from typing import Any

import pytest

from tests.server.engine.engine_requests import (
    PROMPT,
    StartEngine,
    answers_of,
    collect,
    request,
    write,
)
from verse_server.engine.engine import MlxEngine
from verse_server.engine.types import GenerationChunk, SamplingParams, TokenLogprob

pytestmark = pytest.mark.anyio

END = 2
SOON = SamplingParams(seed=3, logit_bias={END: 100.0})
"""Draws the end token wherever it may."""


async def chunks_of(engine: MlxEngine, **fields: Any) -> list[GenerationChunk]:
    return [chunk async for chunk in engine.generate(request(engine, "a", **fields))]


async def test_end_tokens_do_not_end_what_ignores_them(start_engine: StartEngine) -> None:
    engine = start_engine()
    text, last = await collect(engine.generate(request(engine, "a", sampling=SOON)))
    assert (text, last.completion_tokens, last.finish_reason) == ("", 1, "stop")
    wanted = request(engine, "a", sampling=SOON, ignore_eos=True, max_tokens=7)
    text, last = await collect(engine.generate(wanted))
    assert (text, last.completion_tokens, last.finish_reason) == ("", 7, "length")


async def test_a_stop_string_still_ends_what_ignores_end_tokens(start_engine: StartEngine) -> None:
    engine = start_engine()
    free = {"sampling": SamplingParams(seed=1), "max_tokens": 40, "ignore_eos": True}
    text = await write(engine, "a", **free)
    stop = text[3:5]
    text, last = await collect(engine.generate(request(engine, "a", stop=(stop,), **free)))
    assert (stop in text, last.finish_reason) == (False, "stop")


@pytest.mark.parametrize("n", [1, 4])
async def test_an_answer_has_its_fewest_tokens_and_then_ends(
    start_engine: StartEngine, n: int
) -> None:
    engine = start_engine()
    beside = asyncio.create_task(write(engine, "b", sampling=SamplingParams(seed=9)))
    wanted = request(engine, "a", sampling=SOON, min_tokens=5, max_tokens=20, n=n)
    ids: list[list[int]] = [[] for _ in range(n)]
    async for chunk in engine.generate(wanted):
        ids[chunk.index] += chunk.token_ids
    for answer in ids:
        assert len(answer) == 6
        assert answer[-1] == END
        assert END not in answer[:-1]
    assert await beside == await write(engine, "b", sampling=SamplingParams(seed=9))


async def test_the_fewest_tokens_hold_for_greedy_answers_and_for_tokens_that_stop(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    sampling = SamplingParams(temperature=0, logit_bias={900: 100.0})
    stopping: dict[str, Any] = {"sampling": sampling, "stop_token_ids": (900,)}
    (only,) = await chunks_of(engine, **stopping)
    assert (only.token_ids, only.text, only.finish_reason) == ((900,), "", "stop")
    chunks = await chunks_of(engine, **stopping, min_tokens=3)
    ids = [token for chunk in chunks for token in chunk.token_ids]
    assert len(ids) == 4
    assert ids.index(900) == 3


async def test_no_stop_string_is_heeded_before_the_fewest_tokens(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    free: dict[str, Any] = {"sampling": SamplingParams(seed=1), "max_tokens": 30}
    whole = await write(engine, "a", **free)
    stop = whole[1]
    assert await write(engine, "a", stop=(stop,), **free) == whole[: whole.index(stop)]
    put_off = await write(engine, "a", stop=(stop,), min_tokens=12, **free)
    assert put_off.startswith(whole[: whole.index(stop) + 1])


@pytest.mark.parametrize("streamed", [True, False])
async def test_chunks_tell_all_tokens_that_were_drawn(
    start_engine: StartEngine, streamed: bool
) -> None:
    engine = start_engine()
    chunks = await chunks_of(engine, streamed=streamed, sampling=SamplingParams(seed=5))
    ids = [token for chunk in chunks for token in chunk.token_ids]
    assert len(ids) == chunks[-1].completion_tokens
    shown = [i for i in ids if i != END]
    assert "".join(c.text for c in chunks) == engine.decode(shown).replace("\ufffd", "")


async def test_a_scored_prompt_tells_ids_and_ranks(start_engine: StartEngine) -> None:
    engine = start_engine()
    first, *_ = await chunks_of(
        engine, score_prompt=True, num_prompt_logprobs=20, max_tokens=1, report_end=False
    )
    assert [token.id for token in first.scored_prompt] == list(PROMPT)
    for token in first.scored_prompt[1:]:
        assert isinstance(token, TokenLogprob)
        assert token.rank is not None
        likelier = [top for top in token.top if top.logprob > token.logprob]
        assert len(likelier) == min(token.rank - 1, 20)
    assert not first.logprobs


async def test_a_begun_answer_goes_on_with_its_own_words(start_engine: StartEngine) -> None:
    engine = start_engine()
    plain: dict[str, Any] = {"sampling": SamplingParams(seed=4), "max_tokens": 12, "n": 2}
    assert await answers_of(engine, request(engine, "a", **plain, continues=True)) == (
        await answers_of(engine, request(engine, "a", **plain))
    )
