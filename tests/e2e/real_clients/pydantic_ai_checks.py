"""pydantic-ai, whose output type is a tool by default.

`OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server.
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
# The client is not installed with the project; test_clients.py brings it.
import asyncio
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelHTTPError, ModelRetry, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel


class Verdict(BaseModel):
    mood: Literal["静", "悲", "喜"]
    score: int = Field(ge=0, le=10)


class Line(BaseModel):
    line: str = Field(max_length=6)


def agent(output: Any = str, model: str = "xuzhimo", **settings: Any) -> Any:
    return Agent(OpenAIChatModel(model), output_type=output, model_settings=settings or None)


def test_text_is_a_poem() -> None:
    result = agent(max_tokens=12, seed=3).run_sync("河")
    assert result.output
    assert result.usage.output_tokens == 12


def test_the_default_output_type_is_filled_in_and_a_conversation_goes_on() -> None:
    first = agent(Verdict).run_sync("河")
    assert isinstance(first.output, Verdict)
    again = agent(Verdict).run_sync("再写一首", message_history=first.all_messages())
    assert isinstance(again.output, Verdict)
    assert again.usage.input_tokens > first.usage.input_tokens


def test_one_of_several_types_and_the_native_way() -> None:
    assert isinstance(agent([Verdict, Line]).run_sync("河").output, Verdict | Line)
    assert isinstance(agent(NativeOutput(Verdict)).run_sync("河").output, Verdict)


def test_a_stream_of_a_type_ends_with_it() -> None:
    async def last() -> Any:
        async with agent(Verdict).run_stream("河") as stream:
            return [output async for output in stream.stream_output()][-1]

    assert isinstance(asyncio.run(last()), Verdict)


def test_what_is_not_accepted_is_asked_for_again() -> None:
    judge, seen = agent(Verdict), list[Verdict]()

    @judge.output_validator
    def second_thoughts(verdict: Verdict) -> Verdict:
        seen.append(verdict)
        if len(seen) < 2:
            raise ModelRetry("再想想")
        return verdict

    assert judge.run_sync("河").output == seen[-1]


def test_a_tool_beside_the_output_type_is_called_or_not() -> None:
    judge, lines = agent(Verdict), list[str]()

    @judge.tool_plain(retries=5)
    def remember(line: Literal["一", "二"]) -> str:
        lines.append(line)
        return "记下了"

    assert isinstance(judge.run_sync("河").output, Verdict)


def test_an_error_is_the_server_s_own() -> None:
    with pytest.raises(ModelHTTPError, match="nobody"):
        agent(model="nobody").run_sync("河")
