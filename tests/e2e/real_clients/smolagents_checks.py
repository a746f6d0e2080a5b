"""smolagents' ToolCallingAgent; `OPENAI_BASE_URL` and `OPENAI_API_KEY` name the server."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUntypedFunctionDecorator=false
# The client is not installed with the project; test_clients.py brings it.
import os
from typing import Any, Literal

from smolagents import ActionStep, OpenAIModel, ToolCallingAgent, tool

COUNTED: list[str] = []


@tool
def count(mood: Literal["静", "悲", "喜"]) -> str:
    """Counts the lines of poems in a mood.

    Args:
        mood: The mood.
    """
    COUNTED.append(mood)
    return "四行"


def model(**settings: Any) -> Any:
    return OpenAIModel(
        "xuzhimo",
        api_base=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        max_tokens=120,
        **settings,
    )


def test_a_model_writes_whole_and_streamed() -> None:
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "河"}]}]
    whole = model(seed=3).generate(asked)
    assert whole.content
    assert whole.token_usage.output_tokens > 0
    pieces = model(seed=3).generate_stream(asked)
    assert "".join(piece.content or "" for piece in pieces) == whole.content


def test_an_agent_calls_a_tool_in_every_step_and_reads_what_it_said() -> None:
    agent = ToolCallingAgent(tools=[count], model=model(seed=7), max_steps=4, verbosity_level=0)
    agent.run("河")
    steps = [
        step for step in agent.memory.steps if isinstance(step, ActionStep) and step.tool_calls
    ]
    called = [call for step in steps for call in step.tool_calls]
    assert called
    assert {call.name for call in called} <= {"count", "final_answer"}
    for step in steps:
        if step.tool_calls[0].name == "count":
            assert step.tool_calls[0].arguments["mood"] in ("静", "悲", "喜")
            assert "四行" in str(step.observations)


def test_a_streaming_agent_does_the_same() -> None:
    agent = ToolCallingAgent(
        tools=[count], model=model(seed=5), max_steps=2, verbosity_level=0, stream_outputs=True
    )
    agent.run("河")
    steps = [step for step in agent.memory.steps if isinstance(step, ActionStep)]
    assert any(step.tool_calls for step in steps)
