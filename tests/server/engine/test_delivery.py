"""Chunks between the engine and a reader who may be slow."""

import asyncio

import msgspec
import pytest

from verse.prompt import PromptFormat
from verse_server.engine.delivery import Mailbox
from verse_server.engine.errors import EngineClosedError, SlowClientError
from verse_server.engine.types import FinishReason, GenerationChunk, Target, TokenLogprob

pytestmark = pytest.mark.anyio
TARGET = Target(model="base", prompt_format=PromptFormat())


def chunk(
    text: str, tokens: int, index: int = 0, reason: FinishReason | None = None
) -> GenerationChunk:
    entry = TokenLogprob(token=text, bytes=tuple(text.encode()), logprob=-1.0)
    return GenerationChunk(
        index=index,
        text=text,
        target=TARGET,
        completion_tokens=tokens,
        logprobs=(entry,),
        finish_reason=reason,
    )


async def next_chunk(mailbox: Mailbox) -> GenerationChunk:
    event = await mailbox.get()
    assert isinstance(event, GenerationChunk)
    return event


async def test_a_reader_who_keeps_up_gets_every_chunk_as_it_is() -> None:
    mailbox = Mailbox()
    for number, text in enumerate("轻轻的", 1):
        sent = chunk(text, number)
        mailbox.put(sent)
        assert await mailbox.get() is sent


async def test_a_reader_who_is_behind_gets_all_of_it_in_one_chunk() -> None:
    mailbox = Mailbox()
    for number, text in enumerate("轻轻的", 1):
        mailbox.put(chunk(text, number))
    mailbox.put(chunk("我", 4, reason="stop"))
    got = await next_chunk(mailbox)
    assert (got.text, got.completion_tokens, got.finish_reason) == ("轻轻的我", 4, "stop")
    assert "".join(entry.token for entry in got.logprobs) == "轻轻的我"


async def test_a_prompts_numbers_are_not_lost_on_a_reader_who_is_behind() -> None:
    mailbox = Mailbox()
    prompt = chunk("", 0).logprobs
    mailbox.put(msgspec.structs.replace(chunk("", 0), logprobs=(), scored_prompt=prompt))
    mailbox.put(chunk("轻", 1))
    got = await next_chunk(mailbox)
    assert (got.text, got.scored_prompt, len(got.logprobs)) == ("轻", prompt, 1)


async def test_answers_are_kept_apart() -> None:
    mailbox = Mailbox()
    for number, (text, index) in enumerate([("甲", 0), ("乙", 1), ("丙", 0)], 1):
        mailbox.put(chunk(text, number, index))
    got = [await next_chunk(mailbox), await next_chunk(mailbox)]
    assert [(c.index, c.text) for c in got] == [(0, "甲丙"), (1, "乙")]


async def test_an_error_comes_after_what_was_written_before_it() -> None:
    mailbox = Mailbox()
    mailbox.put(chunk("轻", 1))
    mailbox.put(EngineClosedError("Closed."))
    assert (await next_chunk(mailbox)).text == "轻"
    assert isinstance(await mailbox.get(), EngineClosedError)


async def test_an_empty_mailbox_waits() -> None:
    mailbox = Mailbox()
    mailbox.put(chunk("轻", 1))
    await mailbox.get()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(mailbox.get(), 0.01)
    mailbox.put(chunk("的", 2))
    assert (await next_chunk(mailbox)).text == "的"


async def test_who_reads_nothing_for_long_while_more_comes_loses_the_answer() -> None:
    told: list[str] = []
    mailbox = Mailbox(0.05, lambda: told.append("slow"))
    mailbox.put(chunk("轻", 1))
    mailbox.put(chunk("轻", 2))
    await asyncio.sleep(0.1)
    assert told == []  # nothing more came
    for number in (3, 4, 5):
        mailbox.put(chunk("的", number))
    mailbox.put(EngineClosedError("Closed."))
    assert told == ["slow"]
    assert (await next_chunk(mailbox)).text == "轻轻"
    assert isinstance(await mailbox.get(), SlowClientError)


async def test_who_reads_now_and_then_is_slow_but_keeps_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mailbox, now = Mailbox(10.0, lambda: pytest.fail("it was read")), 0.0
    monkeypatch.setattr(mailbox.loop, "time", lambda: now)
    for number in range(1, 12, 2):
        mailbox.put(chunk("轻", number))
        now += 9.0
        mailbox.put(chunk("的", number + 1))
        assert (await next_chunk(mailbox)).text == "轻的"
    assert mailbox
