"""openai-agents with its default class of model; it asks the Responses API.

`OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server.
"""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUntypedFunctionDecorator=false
# The client is not installed with the project; test_real_clients.py brings it.
import asyncio
from typing import Any, Literal

import pytest
from agents import (
    Agent,
    ModelSettings,
    Runner,
    SQLiteSession,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

set_tracing_disabled(True)
SETTINGS: dict[str, Any] = {"extra_body": {"seed": 3, "stop": "\n"}}
CALLED: list[str] = []


class Verdict(BaseModel):
    mood: Literal["静", "悲", "喜"]
    score: int = Field(ge=0, le=10)


@function_tool
def count(mood: Literal["静", "悲", "喜"]) -> str:
    """Counts the lines of poems in a mood."""
    CALLED.append(mood)
    return "四行"


@pytest.fixture(autouse=True)
def client() -> None:
    """One for each test: connections belong to the event loop that opened them."""
    set_default_openai_client(AsyncOpenAI(), use_for_tracing=False)


def poet(**fields: Any) -> Any:
    settings = ModelSettings(**SETTINGS, **fields.pop("settings", {}))
    return Agent(**{"name": "poet", "model": "xuzhimo", "model_settings": settings, **fields})


def test_a_run_writes_a_poem() -> None:
    result = Runner.run_sync(poet(instructions="写一首短诗"), "河")
    assert result.final_output
    assert result.context_wrapper.usage.output_tokens > 0


def test_a_conversation_goes_on_by_items_by_id_and_by_session() -> None:
    first = Runner.run_sync(poet(), "河")
    items: Any = [*first.to_input_list(), {"role": "user", "content": "再写一首"}]
    assert Runner.run_sync(poet(), items).final_output
    by_id = Runner.run_sync(poet(), "再写一首", previous_response_id=first.last_response_id)
    assert by_id.final_output
    session = SQLiteSession("poems")
    for theme in ("河", "月"):
        assert Runner.run_sync(poet(), theme, session=session).final_output


def test_a_stream_ends_with_the_poem() -> None:
    async def work() -> None:
        result = Runner.run_streamed(poet(), "河")
        deltas = [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event"
            and event.data.type == "response.output_text.delta"
        ]
        assert "".join(deltas) == result.final_output

    asyncio.run(work())


def test_an_output_type_is_filled_in() -> None:
    assert isinstance(Runner.run_sync(poet(output_type=Verdict), "河").final_output, Verdict)


def test_a_function_is_called_and_its_result_read() -> None:
    agent = poet(tools=[count], settings={"tool_choice": "required"})
    assert Runner.run_sync(agent, "河", max_turns=3).final_output
    assert CALLED
