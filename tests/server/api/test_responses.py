"""`/v1/responses`: what is asked for becomes a chat, and its answer a response."""

from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from openai.types.responses import Response
from wire import Client, Connect, chat_body

from verse.prompt import Message, ToolCallMessage, ToolResultMessage
from verse_server.config import ServerConfig
from verse_server.engine.errors import GenerationFailedError, InvalidRequestError

POEM = "轻轻的我走了，"
RESPONSES = "/v1/responses"
MOOD: dict[str, Any] = {
    "type": "object",
    "properties": {"mood": {"type": "string"}},
    "required": ["mood"],
    "additionalProperties": False,
}
JUDGE: dict[str, Any] = {"type": "function", "name": "judge", "parameters": MOOD, "strict": True}


@pytest.fixture
def client(engine: FakeEngine, connect: Connect, tmp_path: Path) -> Client:
    return connect(engine, ServerConfig(state=tmp_path))


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "xuzhimo", "input": "河"} | fields


def ask(client: Client, **fields: Any) -> Any:
    answer = client.post(RESPONSES, json=body(**fields))
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: Client, **fields: Any) -> Any:
    answer = client.post(RESPONSES, json=body(**fields))
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def test_a_text_is_answered(client: Client, engine: FakeEngine) -> None:
    answer = ask(client, metadata={"round": "3"}, temperature=0.5)
    response = Response.model_validate(answer)
    assert response.output_text == POEM
    assert (response.status, response.model) == ("completed", "xuzhimo")
    assert response.metadata == {"round": "3"}
    assert response.temperature == 0.5
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (1, 4)
    assert engine.encoded == [Message("user", "河")]
    assert not engine.requests[0].streamed


def test_it_is_drawn_as_a_chat_is(client: Client, engine: FakeEngine) -> None:
    fields = {"seed": 7, "top_p": 0.9, "temperature": 0.3, "top_k": 5, "min_p": 0.1, "user": "li"}
    ask(client, max_output_tokens=12, stop="\n", **fields)
    client.post("/v1/chat/completions", json=chat_body(max_tokens=12, stop="\n", **fields))
    response, chat = engine.requests
    assert response == chat


def test_instructions_are_the_first_message_and_items_the_others(
    client: Client, engine: FakeEngine
) -> None:
    ask(
        client,
        instructions="写诗",
        input=[
            {"role": "developer", "content": "短"},
            {"role": "user", "content": [{"type": "input_text", "text": "河"}]},
            {"type": "message", "role": "assistant", "content": "水", "phase": "final_answer"},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"role": "user", "content": "再"},
        ],
    )
    assert engine.encoded == [
        Message("system", "写诗"),
        Message("system", "短"),
        Message("user", "河"),
        Message("assistant", "水"),
        Message("user", "再"),
    ]


def test_calls_and_their_results_come_back_as_the_chat_has_them(
    client: Client, engine: FakeEngine
) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "judge", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c1", "output": "静"}
    ask(
        client,
        input=[{"role": "user", "content": "河"}, call, result],
        tools=[JUDGE],
        tool_choice="none",
    )
    asked, called, said = engine.encoded
    assert asked == Message("user", "河")
    assert isinstance(called, ToolCallMessage)
    assert [(c.id, c.name) for c in called.calls] == [("c1", "judge")]
    assert said == ToolResultMessage("user", "静", call_id="c1")


def test_a_schema_is_followed(client: Client, engine: FakeEngine) -> None:
    wanted = {"type": "json_schema", "name": "mood", "schema": MOOD, "strict": True}
    answer = ask(client, text={"format": wanted})
    constraint = engine.requests[0].constraint
    assert constraint is not None
    assert '"mood"' in constraint.text
    assert answer["text"]["format"]["name"] == "mood"


def test_a_tool_that_must_be_called_is_called(connect: Connect, tmp_path: Path) -> None:
    engine = FakeEngine(['{"mood": ', '"静"}'])
    choice = {"type": "function", "name": "judge"}
    client = connect(engine, ServerConfig(state=tmp_path))
    answer = ask(client, tools=[JUDGE], tool_choice=choice)
    call = answer["output"][0]
    assert (call["type"], call["name"]) == ("function_call", "judge")
    assert call["arguments"] == '{"mood": "静"}'
    assert answer["tool_choice"] == choice
    # Sent back as it came, with what the function said.
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "好"}
    ask(
        client,
        input=[{"role": "user", "content": "河"}, call, result],
        tools=[JUDGE],
        tool_choice="none",
    )
    assert isinstance(engine.encoded[1], ToolCallMessage)


def test_tokens_are_reported_if_they_are_asked_for(client: Client) -> None:
    parts = [
        ask(client, **fields)["output"][0]["content"][0]
        for fields in (
            {},
            {"include": ["message.output_text.logprobs"]},
            {"top_logprobs": 2},
        )
    ]
    assert [len(part["logprobs"]) for part in parts] == [0, 3, 3]
    assert [len(part["logprobs"][0]["top_logprobs"]) for part in parts[1:]] == [0, 2]


def test_an_answer_that_is_cut_off_says_so(connect: Connect, tmp_path: Path) -> None:
    client = connect(FakeEngine(finish_reason="length"), ServerConfig(state=tmp_path))
    answer = ask(client)
    assert answer["status"] == answer["output"][0]["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"include": ["everything"]}, "include[0]"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "tool", "content": ""}]}, "input[0].role"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        ({"input": [{"role": "user", "content": "河", "output": "水"}]}, "input[0].output"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"stream_options": {}}, "stream_options"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"n": 2}, "n"),
        ({"input": "河" * 100}, "input"),
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        (
            {
                "tools": [JUDGE],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []},
            },
            "tool_choice.tools",
        ),
    ],
)
def test_what_cannot_be_done_is_named(client: Client, fields: dict[str, Any], param: str) -> None:
    error = refused(client, **fields)
    assert error["param"] is not None
    assert error["param"].startswith(param)
    assert error["type"] == "invalid_request_error"


def test_the_engines_complaints_name_the_fields_of_a_response(
    connect: Connect, tmp_path: Path
) -> None:
    complaint = InvalidRequestError("'response_format' is too much.", "response_format")
    client = connect(FakeEngine(first_error=complaint), ServerConfig(state=tmp_path))
    error = refused(client)
    assert error["message"] == "'text.format' is too much."
    assert error["param"] == "text.format"


def test_the_engines_failure_is_an_http_error(connect: Connect, tmp_path: Path) -> None:
    engine = FakeEngine(late_error=GenerationFailedError("The engine broke."))
    client = connect(engine, ServerConfig(state=tmp_path))
    answer = client.post(RESPONSES, json=body())
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "generation_failed"
