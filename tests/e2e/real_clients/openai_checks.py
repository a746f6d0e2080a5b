"""The openai SDK for Python, asynchronous and raw.

`OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server.
"""

import asyncio
import json
import os
import time
import urllib.request
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field

ADAPTERS = ("xuzhimo", "hushi", "libai", "xuzhimo:0.7+hushi:0.3")
END_TOKEN = "2"
RIVER: Any = [{"role": "user", "content": "河"}]


def poem(model: str = "xuzhimo", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": RIVER, "seed": 3, "max_tokens": 12, **fields}


def with_client(work: Callable[[AsyncOpenAI], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with AsyncOpenAI(max_retries=0) as client:
            await work(client)

    asyncio.run(main())


def test_the_async_client_writes_with_all_adapters_at_once() -> None:
    async def write(client: AsyncOpenAI, model: str) -> str:
        answer = await client.chat.completions.create(**poem(model))
        return answer.choices[0].message.content or ""

    async def work(client: AsyncOpenAI) -> None:
        assert {model.id async for model in client.models.list()} > {"xuzhimo", "hushi"}
        alone = [await write(client, name) for name in ADAPTERS]
        together = await asyncio.gather(*(write(client, name) for name in ADAPTERS * 4))
        assert together == alone * 4
        assert len(set(alone)) == len(ADAPTERS)

    with_client(work)


def test_the_async_client_streams_and_its_helper_puts_the_poem_together() -> None:
    # The helper raises an error of its own for a poem that `max_tokens` cuts off.
    line = poem(max_tokens=100, stop="\n", stream_options={"include_usage": True})

    async def work(client: AsyncOpenAI) -> None:
        chunks = [c async for c in await client.chat.completions.create(**line, stream=True)]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text
        async with client.chat.completions.stream(**line) as events:
            kinds = {event.type async for event in events}
            final = await events.get_final_completion()
        assert {"chunk", "content.delta", "content.done"} <= kinds
        assert final.choices[0].message.content == text
        assert final.usage is not None
        assert chunks[-1].usage is not None
        assert final.usage.completion_tokens == chunks[-1].usage.completion_tokens > 0

    with_client(work)


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mood: Literal["静", "悲", "喜"]
    score: int = Field(ge=0, le=10)


def test_the_async_client_parses_answers_of_several_adapters() -> None:
    async def work(client: AsyncOpenAI) -> None:
        parse = client.beta.chat.completions.parse
        asked = (parse(model=name, messages=RIVER, response_format=Verdict) for name in ADAPTERS)
        for answer in await asyncio.gather(*asked):
            assert isinstance(answer.choices[0].message.parsed, Verdict)

    with_client(work)


def test_raw_and_streamed_responses_show_headers_and_lines() -> None:
    with OpenAI(max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(**poem())
        assert raw.status_code == 200
        assert raw.headers["content-type"] == "application/json"
        text = raw.parse().choices[0].message.content
        chat = client.chat.completions.with_streaming_response
        with chat.create(**poem(), stream=True) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == text
        with chat.create(**poem()) as response:
            assert response.parse().choices[0].message.content == text


def test_a_tool_is_called_whole_and_streamed_and_its_result_goes_back() -> None:
    judge: Any = openai.pydantic_function_tool(Verdict, name="judge")
    asked = poem(max_tokens=60, tools=[judge], tool_choice="required")

    async def work(client: AsyncOpenAI) -> None:
        whole = await client.chat.completions.create(**asked, n=2)
        assert {choice.finish_reason for choice in whole.choices} == {"tool_calls"}
        message = whole.choices[0].message
        (call,) = message.tool_calls or [None]
        assert call is not None
        assert call.type == "function"
        Verdict.model_validate_json(call.function.arguments)
        async with client.chat.completions.stream(**asked) as events:
            final = (await events.get_final_completion()).choices[0].message
        (streamed,) = final.tool_calls or [None]
        assert streamed is not None
        assert isinstance(streamed.function.parsed_arguments, Verdict)
        result = {"role": "tool", "tool_call_id": call.id, "content": "四行"}
        turns = [*RIVER, message.model_dump(exclude_none=True), result]
        answer = await client.chat.completions.create(**poem(messages=turns))
        assert answer.choices[0].message.content

    with_client(work)


def num_running() -> int:
    health = os.environ["OPENAI_BASE_URL"].removesuffix("/v1") + "/health"
    with urllib.request.urlopen(health, timeout=60) as answer:
        return json.load(answer)["running"]


def test_a_stream_closed_early_stops_the_poem() -> None:
    # Without their end token the sixteen poems are as long as they may be.
    endless = partial(poem, n=16, logit_bias={END_TOKEN: -100})
    with OpenAI(max_retries=0) as client:
        started = time.monotonic()
        client.chat.completions.create(**endless(max_tokens=40))
        a_tenth = time.monotonic() - started
        with client.chat.completions.create(**endless(max_tokens=400), stream=True) as stream:
            next(stream)
            assert num_running() > 0
        deadline = time.monotonic() + 5 * a_tenth
        while num_running():
            assert time.monotonic() < deadline, "the row still runs"
            time.sleep(0.02)
        # The connection pool is as good as new.
        assert client.chat.completions.create(**poem()).choices[0].message.content


def test_the_blend_may_stand_in_adapters_and_errors_are_the_async_client_s_too() -> None:
    async def work(client: AsyncOpenAI) -> None:
        create = client.chat.completions.create
        blend = await create(**poem(ADAPTERS[-1]))
        beside = await create(**poem("base"), extra_body={"adapters": ADAPTERS[-1]})
        assert blend.choices[0].message.content == beside.choices[0].message.content
        with pytest.raises(openai.NotFoundError):
            await create(**poem("nobody"), stream=True)
        with pytest.raises(openai.BadRequestError, match="temperature"):
            await create(**poem(temperature=3))
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()

    with_client(work)
