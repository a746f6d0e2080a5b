"""Answers that follow a schema, in one batch with poems that do not, on the real engine."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from tests.server.engine.engine_requests import (
    StartEngine,
    answers_of,
    collect,
    request,
    until,
    write,
)
from verse_server.engine import engine as engine_module
from verse_server.engine.errors import GenerationFailedError, InvalidRequestError
from verse_server.engine.sampling.grammar import Matcher
from verse_server.engine.types import Constraint, SamplingParams

pytestmark = pytest.mark.anyio

Line = Annotated[str, Meta(max_length=5)]


class Verdict(msgspec.Struct, forbid_unknown_fields=True):
    题: Line
    score: Annotated[int, Meta(ge=0, le=10)]
    mood: Literal["静", "悲", "喜"]
    lines: Annotated[list[Line], Meta(min_length=1, max_length=2)]


SCHEMA = msgspec.json.encode(msgspec.json.schema(Verdict)).decode()
ROOM = 120
"""Tokens; the longest verdict takes fewer."""
EVERYTHING = SamplingParams(
    temperature=1.3,
    top_p=0.95,
    top_k=4000,
    min_p=1e-5,
    repetition_penalty=1.1,
    frequency_penalty=0.2,
    presence_penalty=0.2,
    logit_bias={5: 10.0, 2: 100.0, 900: -100.0},
    seed=5,
)


def of_schema(text: str) -> Constraint:
    return Constraint("json_schema", text)


def follows(text: str) -> Verdict:
    return msgspec.json.decode(text, type=Verdict)


@pytest.mark.parametrize("n", [1, 16])
async def test_every_answer_follows_the_schema_whatever_shapes_the_draw(
    start_engine: StartEngine, n: int
) -> None:
    engine = start_engine()
    for sampling in (EVERYTHING, SamplingParams(temperature=0), SamplingParams(seed=1)):
        wanted = request(
            engine, "a", constraint=of_schema(SCHEMA), sampling=sampling, max_tokens=ROOM, n=n
        )
        answers = await answers_of(engine, wanted)
        assert [bool(follows(answer)) for answer in answers] == [True] * n
        if n > 1 and sampling.temperature:
            assert len(set(answers)) > 1


async def test_poems_in_company_of_json_are_those_written_alone(start_engine: StartEngine) -> None:
    engine = start_engine()
    poems: list[dict[str, Any]] = [
        {"model": "a", "sampling": SamplingParams(seed=3)},
        {"model": "base", "sampling": SamplingParams(temperature=0)},
        {"model": "b", "sampling": SamplingParams(seed=4, top_k=9, frequency_penalty=0.3)},
    ]
    verdicts: list[dict[str, Any]] = [
        {"model": "c", "sampling": SamplingParams(seed=7)},
        {"model": "base", "sampling": EVERYTHING},
    ]
    verdicts = [{**v, "constraint": of_schema(SCHEMA), "max_tokens": ROOM} for v in verdicts]
    asked = [*poems, *verdicts, *poems]
    alone = [await write(engine, **fields) for fields in asked[:5]]
    together = await asyncio.gather(*(write(engine, **fields) for fields in asked))
    assert together == [*alone, *alone[:3]]
    assert all(follows(text) for text in together[3:5])


async def test_the_last_token_of_the_json_ends_the_answer_with_stop(
    start_engine: StartEngine,
) -> None:
    engine = start_engine()
    wanted = request(engine, "a", constraint=of_schema(SCHEMA), max_tokens=ROOM)
    text, last = await collect(engine.generate(wanted))
    assert text.endswith("}")
    assert last.finish_reason == "stop"
    assert last.completion_tokens < ROOM
    exact = msgspec.structs.replace(wanted, max_tokens=last.completion_tokens)
    assert (await collect(engine.generate(exact)))[1].finish_reason == "stop"
    short = msgspec.structs.replace(wanted, max_tokens=last.completion_tokens - 1)
    cut, last = await collect(engine.generate(short))
    assert last.finish_reason == "length"
    assert text.startswith(cut)
    await until(lambda: engine.health().running == 0)


async def test_a_stop_string_and_logprobs_work_inside_json(start_engine: StartEngine) -> None:
    engine = start_engine()
    wanted = request(
        engine,
        "a",
        constraint=of_schema(SCHEMA),
        max_tokens=ROOM,
        stop=("score",),
        num_top_logprobs=2,
    )
    chunks = [chunk async for chunk in engine.generate(wanted)]
    assert chunks[-1].finish_reason == "stop"
    assert "".join(chunk.text for chunk in chunks).endswith(', "')
    entries = [entry for chunk in chunks for entry in chunk.logprobs]
    assert entries[0].token.startswith("{")
    # Of the model, which would rather have written something else.
    assert entries[0].logprob < entries[0].top[0].logprob


async def test_a_schema_that_cannot_be_compiled_is_refused_before_it_is_queued(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine()
    monkeypatch.setattr(engine_module, "EngineRequest", None)
    with pytest.raises(InvalidRequestError, match="strin"):
        await write(engine, "a", constraint=of_schema('{"type": "strin"}'))


async def test_a_grammar_that_fails_takes_its_own_answer_down_and_no_other(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start_engine()
    free = {"sampling": SamplingParams(seed=1), "max_tokens": 60}
    verdict = {
        "sampling": SamplingParams(seed=2),
        "constraint": of_schema(SCHEMA),
        "max_tokens": ROOM,
    }
    alone = [await write(engine, "a", **free), await write(engine, "b", **verdict)]
    taken: list[int] = []
    take = Matcher.take

    def failing(self: Matcher, token: int) -> None:
        taken.append(token)
        take(self, token if len(taken) != 5 else 3)

    monkeypatch.setattr(Matcher, "take", failing)
    doomed = '{"type": "array", "items": {"const": 1}, "minItems": 100}'
    outcomes: Sequence[Any] = await asyncio.gather(
        write(engine, "a", constraint=of_schema(doomed), max_tokens=ROOM),
        write(engine, "a", **free),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], GenerationFailedError)
    assert "schema" in str(outcomes[0])
    assert [outcomes[1], await write(engine, "b", **verdict)] == alone
    await until(lambda: engine.health().running == 0)
