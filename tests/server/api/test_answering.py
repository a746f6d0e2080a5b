"""A stream put together is the whole answer, field by field, for every way the chunks may come."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from fake_engine import FakeEngine
from hypothesis import given
from hypothesis import strategies as st

from verse.prompt import PromptFormat
from verse_server.api.answering import ChatAnswers, CompletionAnswers, ContinuedText
from verse_server.engine.types import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Target,
    TokenLogprob,
    TokenText,
)
from verse_server.protocol.shared import ChatCompletionStreamOptions, SamplingRequest

TARGET = Target(model="xuzhimo", prompt_format=PromptFormat())
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Script(FakeEngine):
    """Yields the chunks it was given for a prompt, which is its number."""

    def __init__(self, chunks: Sequence[Sequence[GenerationChunk]]) -> None:
        super().__init__()
        self.chunks = chunks

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        for chunk in self.chunks[request.prompt[0]]:
            await asyncio.sleep(0)
            yield chunk


class Written(NamedTuple):
    """What an engine writes for one prompt."""

    request: GenerationRequest
    chunks: list[GenerationChunk]


def token(text: str, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    return TokenLogprob(token=text, bytes=tuple(text.encode()), logprob=logprob, top=top)


values = st.floats(-9, 0, allow_nan=False)
top = st.tuples(st.builds(token, st.just("了"), values))
frame = st.builds(
    TokenLogprob, token=st.just("<|end|>"), bytes=st.just(()), logprob=values, top=top
)
"""A token that is reported and has no place in the text."""
tokens = st.builds(token, st.sampled_from("轻我走，a\n"), values, top) | frame


def text_of(parts: Sequence[TokenText]) -> str:
    return b"".join(bytes(part.bytes) for part in parts).decode()


def num_drawn(*writings: Written) -> int:
    last = {
        (number, chunk.index): chunk.completion_tokens
        for number, writing in enumerate(writings)
        for chunk in writing.chunks
    }
    return sum(last.values())


@st.composite
def written(
    draw: st.DrawFn, prompt: int, n: int, num_top: int | None, scores: bool, most_texts: int = 4
) -> Written:
    """Answers in pieces of any size, which come in any order that keeps each one's own."""
    request = GenerationRequest(
        target=TARGET,
        prompt=(prompt, 5, 7),
        max_tokens=9,
        n=n,
        num_top_logprobs=num_top,
        score_prompt=scores,
        num_prompt_logprobs=num_top or 0,
        report_end=scores,
    )
    scored = (TokenText(token="月", bytes=tuple("月".encode())), token("亮", -1.5))
    answers: list[list[GenerationChunk]] = []
    for index in range(n):
        reason: FinishReason = draw(st.sampled_from(("stop", "length")))
        pieces = draw(st.lists(st.lists(tokens, max_size=3), max_size=most_texts))
        texts = [*pieces, draw(st.lists(tokens, max_size=2))]
        answers.append(
            [
                GenerationChunk(
                    index=index,
                    text=text_of(piece),
                    target=TARGET,
                    completion_tokens=sum(map(len, texts[: number + 1])) + 1,
                    cached_tokens=2,
                    logprobs=() if num_top is None else tuple(piece),
                    scored_prompt=scored if scores and number == 0 else (),
                    finish_reason=reason if number == len(texts) - 1 else None,
                )
                for number, piece in enumerate(texts)
            ]
        )
    order = draw(st.permutations([i for i, answer in enumerate(answers) for _ in answer]))
    sources = [iter(answer) for answer in answers]
    return Written(request, [next(sources[index]) for index in order])


def sent(answers: ChatAnswers | CompletionAnswers, stream: bool) -> list[Any]:
    request = SamplingRequest(
        model="xuzhimo",
        stream=stream,
        stream_options=ChatCompletionStreamOptions(include_usage=True) if stream else None,
    )

    async def all_of_them() -> list[Any]:
        return [msgspec.to_builtins(record) async for record in answers.records(request)]

    return asyncio.run(all_of_them())


def put_together(events: Sequence[Any], into: dict[str, Any]) -> dict[str, Any]:
    """What a stream says, in the shape of the whole: only `id`, `created` and `object` differ."""
    *pieces, last = events
    assert last["choices"] == ()
    assert {event["id"] for event in events} == {last["id"]}
    assert all(event["usage"] is None for event in pieces)
    choices = {choice["index"]: choice for choice in into["choices"]}
    for event in pieces:
        (piece,) = event["choices"]
        add(choices[piece["index"]], piece)
    return {**into, "usage": last["usage"], "model": last["model"]}


def add(choice: dict[str, Any], piece: dict[str, Any]) -> None:
    """Let a choice grow by a piece of a stream."""
    assert choice["finish_reason"] is None, "something came after the end"
    choice["finish_reason"] = piece["finish_reason"]
    if "delta" in piece:
        delta = piece["delta"]
        assert ("role" in delta) == (not choice["begun"])
        choice["begun"] = True
        choice["message"]["content"] += delta.get("content", "")
    else:
        choice["text"] += piece["text"]
    for name, column in (piece["logprobs"] or {}).items():
        if column is not None:
            choice["logprobs"][name] += column


def whole_and_empty(answers: ChatAnswers | CompletionAnswers) -> tuple[Any, Any]:
    """The whole answer without what differs, and the same with nothing written yet."""
    (whole,) = sent(answers, stream=False)
    whole = {k: v for k, v in whole.items() if k not in ("id", "created", "object")}
    empty = msgspec.json.decode(msgspec.json.encode(whole))
    for choice in empty["choices"]:
        choice["finish_reason"] = None
        if "message" in choice:
            choice["message"]["content"], choice["begun"] = "", False
        else:
            choice["text"] = ""
        if choice["logprobs"] is not None:
            choice["logprobs"] = {
                name: None if column is None else () for name, column in choice["logprobs"].items()
            }
    return whole, empty


def plain(value: Any) -> Any:
    """Lists for tuples, and no notes of the test."""
    decoded = msgspec.json.decode(msgspec.json.encode(value))
    for choice in decoded["choices"]:
        choice.pop("begun", None)
    return decoded


@given(st.data(), st.integers(1, 3), st.sampled_from((None, 0, 1)))
def test_a_chat_stream_put_together_is_the_whole_answer(
    data: st.DataObject, n: int, num_top: int | None
) -> None:
    writing = data.draw(written(0, n, num_top, scores=False))
    request, chunks = writing
    engine = Script([chunks])
    whole, empty = whole_and_empty(ChatAnswers([request], engine))
    events = sent(ChatAnswers([request], engine), stream=True)
    assert plain(put_together(events, empty)) == plain(whole)
    assert whole["usage"]["completion_tokens"] == num_drawn(writing)
    for choice in whole["choices"]:
        own = [chunk for chunk in chunks if chunk.index == choice["index"]]
        assert choice["message"]["content"] == "".join(chunk.text for chunk in own)
        assert choice["finish_reason"] == own[-1].finish_reason


@given(
    st.data(),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from((None, 0, 1)),
    st.booleans(),
)
def test_a_completion_stream_put_together_is_the_whole_answer(
    data: st.DataObject, num_prompts: int, n: int, num_top: int | None, echo: bool
) -> None:
    scores = echo and num_top is not None
    prompts = [data.draw(written(i, n, num_top, scores)) for i in range(num_prompts)]
    engine = Script([prompt.chunks for prompt in prompts])
    rows = [prompt.request for prompt in prompts]
    echoes = ["月亮" if echo else ""] * num_prompts
    whole, empty = whole_and_empty(CompletionAnswers(rows, echoes, engine))
    events = sent(CompletionAnswers(rows, echoes, engine), stream=True)
    assert plain(put_together(events, empty)) == plain(whole)
    usage = whole["usage"]
    assert usage["prompt_tokens"] == 3 * num_prompts
    assert usage["completion_tokens"] == num_drawn(*prompts)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2 * num_prompts
    for choice in whole["choices"]:
        if choice["logprobs"] is None:
            continue
        # Each token stands in the text where its offset says.
        columns = choice["logprobs"]
        for text, offset in zip(columns["tokens"], columns["text_offset"], strict=True):
            assert text == "<|end|>" or choice["text"].startswith(text, offset)


def ends(content: bytes) -> list[tuple[str, int]]:
    """Every character and where its bytes end; what is no character is read as U+FFFD."""
    found: list[tuple[str, int]] = []
    at = 0
    while at < len(content):
        try:
            text, broken = content[at:].decode(), 0
        except UnicodeDecodeError as error:
            text, broken = content[at : at + error.start].decode(), error.end - error.start
        for character in text:
            at += len(character.encode())
            found.append((character, at))
        if broken:
            at += broken
            found.append((REPLACEMENT, at))
    return found


def entry(content: bytes) -> TokenLogprob:
    return TokenLogprob(token="?", bytes=tuple(content), logprob=-1.0)


contents = st.lists(
    st.binary(min_size=1, max_size=3)
    | st.sampled_from([*(bytes([byte]) for byte in "河🌊\ufffd".encode()), "山".encode(), b"a"]),
    max_size=6,
)


@given(contents, contents, st.integers(0, 6))
def test_tokens_stand_where_they_are_said_to_stand_whatever_their_bytes(
    echoed: list[bytes], written: list[bytes], cut: int
) -> None:
    echo = "".join(character for character, _ in ends(b"".join(echoed)))
    assert echo == b"".join(echoed).decode("utf-8", "replace")
    answer = [end for character, end in ends(b"".join(written)) if character != REPLACEMENT]
    parts = [
        GenerationChunk(
            text="",  # what is asked for is where it would stand
            target=TARGET,
            completion_tokens=1,
            scored_prompt=tuple(map(entry, echoed)) if begins else (),
            logprobs=tuple(map(entry, part)),
        )
        for begins, part in ((True, written[:cut]), (False, written[cut:]))
    ]
    text = ContinuedText(0, echo, with_logprobs=True)
    pieces = [text.piece([part]).logprobs for part in parts]
    offsets = [offset for piece in pieces if piece is not None for offset in piece.text_offset]
    before = [len(b"".join(echoed[:n])) for n in range(len(echoed))]
    expected = [sum(end <= at for _, end in ends(b"".join(echoed))) for at in before]
    before = [len(b"".join(written[:n])) for n in range(len(written))]
    expected += [len(echo) + sum(end <= at for end in answer) for at in before]
    assert offsets == expected


@pytest.mark.perf
def test_where_ten_thousand_tokens_stand_is_said_in_half_a_second() -> None:
    tokens = tuple(entry("山".encode()) for _ in range(10_000))
    chunk = GenerationChunk(
        text="", target=TARGET, completion_tokens=1, scored_prompt=tokens, logprobs=tokens
    )
    text = ContinuedText(0, "山" * 10_000, with_logprobs=True)
    start = time.process_time()
    logprobs = text.piece([chunk]).logprobs
    assert time.process_time() - start < 0.5
    assert logprobs is not None
    assert logprobs.text_offset == tuple(range(20_000))
