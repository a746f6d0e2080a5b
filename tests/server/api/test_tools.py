"""`tools`: what the engine is asked for, what its text becomes, and what is refused."""

import json
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from openai_schemas import CreateChatCompletionResponse, CreateChatCompletionStreamResponse
from test_chat_bad_input import refused
from wire import CHAT, Client, Connect, chat_body, stream

from verse.prompt import Message, ToolCallMessage, ToolResultMessage
from verse.tool_calls import ToolCall
from verse_server.api import tools as tools_of_requests

COUNT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "count",
        "description": "Counts lines.",
        "parameters": {"properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"const": 1}}},
    },
}
RHYME: dict[str, Any] = {"type": "function", "function": {"name": "rhyme"}}
NAMED = {"type": "function", "function": {"name": "count"}}
ARGUMENTS = ('{"n"', ": ", "1}")
CHOSEN = ('{"na', 'me": "count", "argu', 'ments": {"n": 1', "}}")
FREE = ("数一数。\n", '<tool_call>\n{"name": "count", ', '"arguments": {"n": 1}}\n</tool_call>')


def asked(client: Client, **fields: Any) -> Any:
    response = client.post(CHAT, json=chat_body(**{"tools": [COUNT, RHYME], **fields}))
    assert response.status_code == 200, response.text
    msgspec.convert(response.json(), CreateChatCompletionResponse)
    return response.json()["choices"]


def streamed(client: Client, **fields: Any) -> list[Any]:
    chunks = stream(client, **{"tools": [COUNT, RHYME], **fields})[:-1]
    msgspec.convert(chunks, list[CreateChatCompletionStreamResponse])
    return [choice for chunk in chunks for choice in chunk["choices"]]


def put_together(choices: list[Any], index: int = 0) -> tuple[str, list[tuple[str, str]], str]:
    """Content, calls and finish reason, the way that OpenAI's clients add deltas up."""
    content, calls, reason = "", list[Any](), ""
    ids = set[str]()
    for choice in (choice for choice in choices if choice["index"] == index):
        content += choice["delta"].get("content") or ""
        reason = choice["finish_reason"] or reason
        for call in choice["delta"].get("tool_calls", ()):
            function = call["function"]
            if call["index"] == len(calls):
                assert call["type"] == "function"
                ids.add(call["id"])
                calls.append([function["name"], function["arguments"]])
            else:
                assert set(call) == {"index", "function"}
                assert set(function) == {"arguments"}
                calls[call["index"]][1] += function["arguments"]
    assert len(ids) == len(calls)
    return content, [(name, arguments) for name, arguments in calls], reason


CASES: list[tuple[Any, tuple[str, ...], tuple[str, list[tuple[str, str]], str]]] = [
    (NAMED, ARGUMENTS, ("", [("count", '{"n": 1}')], "stop")),
    ("required", CHOSEN, ("", [("count", '{"n": 1}')], "tool_calls")),
    (None, FREE, ("数一数。", [("count", '{"n": 1}')], "tool_calls")),
    ("auto", FREE * 2, ("数一数。数一数。", [("count", '{"n": 1}')] * 2, "tool_calls")),
    ("auto", ("河水",), ("河水", [], "stop")),
    ("none", FREE, ("".join(FREE), [], "stop")),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}},
     ARGUMENTS, ("", [("count", '{"n": 1}')], "tool_calls")),
]  # fmt: skip


@pytest.mark.parametrize(("choice", "texts", "expected"), CASES)
def test_an_answer_holds_the_calls_whole_and_streamed(
    connect: Connect, choice: Any, texts: tuple[str, ...], expected: Any
) -> None:
    client = connect(FakeEngine(texts, knows_tools=True))
    (whole,) = asked(client, tool_choice=choice)
    content, calls, reason = expected
    assert (whole["message"]["content"] or "") == content
    assert whole["message"]["content"] is None or content
    assert [c["function"] for c in whole["message"].get("tool_calls", ())] == [
        {"name": name, "arguments": arguments} for name, arguments in calls
    ]
    assert whole["finish_reason"] == reason
    assert put_together(streamed(client, tool_choice=choice)) == expected


def test_a_stream_begins_with_the_call_and_brings_its_arguments_as_they_come(
    connect: Connect,
) -> None:
    choices = streamed(connect(FakeEngine(ARGUMENTS)), tool_choice=NAMED)
    first, *others, last = [choice["delta"] for choice in choices]
    (call,) = first["tool_calls"]
    assert call.pop("id").startswith("call_")
    assert call == {
        "index": 0,
        "type": "function",
        "function": {"name": "count", "arguments": ""},
    }
    assert (first["role"], first["content"]) == ("assistant", None)
    assert [delta["tool_calls"][0]["function"]["arguments"] for delta in others] == [*ARGUMENTS]
    assert last == {}


@pytest.mark.parametrize(("choice", "texts", "expected"), CASES)
def test_several_answers_with_logprobs_are_as_many_calls_and_lose_no_token(
    connect: Connect, choice: Any, texts: tuple[str, ...], expected: Any
) -> None:
    client = connect(FakeEngine(texts, knows_tools=True))
    fields: dict[str, Any] = {"tool_choice": choice, "n": 3, "logprobs": True, "top_logprobs": 1}
    whole, choices = asked(client, **fields), streamed(client, **fields)
    ids = [call["id"] for answer in whole for call in answer["message"].get("tool_calls", ())]
    assert len(ids) == len(set(ids)) == 3 * len(expected[1])
    for index in range(3):
        assert put_together(choices, index) == expected
        entries = [
            entry["token"]
            for choice in choices
            if choice["index"] == index
            for entry in (choice["logprobs"] or {"content": []})["content"]
        ]
        assert entries == list(texts)
        assert [entry["token"] for entry in whole[index]["logprobs"]["content"]] == entries


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (('{"na',), ('{"na', [])),
        (CHOSEN[:2], ("".join(CHOSEN[:2]), [])),
        (CHOSEN[:3], ("", [("count", '{"n": 1')])),
        ((*CHOSEN[:3], "}"), ("", [("count", '{"n": 1}')])),
    ],
)
def test_a_call_that_is_cut_short_shows_what_there_is(
    connect: Connect, texts: tuple[str, ...], expected: Any
) -> None:
    client = connect(FakeEngine(texts, finish_reason="length"))
    (whole,) = asked(client, tool_choice="required")
    content, calls = expected
    assert (whole["message"]["content"] or "", whole["finish_reason"]) == (content, "length")
    functions = [call["function"] for call in whole["message"].get("tool_calls", ())]
    assert [(f["name"], f["arguments"]) for f in functions] == calls
    assert put_together(streamed(client, tool_choice="required")) == (content, calls, "length")


def schema_for(client: Client, engine: FakeEngine, **fields: Any) -> Any:
    client.post(CHAT, json=chat_body(**{"tools": [COUNT, RHYME], **fields})).raise_for_status()
    constraint = engine.requests[-1].constraint
    if constraint is None:
        return None
    assert (constraint.kind, constraint.param) == ("json_schema", "tools")
    return json.loads(constraint.text)


def test_a_call_that_must_be_made_is_held_to_its_schema(client: Client, engine: FakeEngine) -> None:
    count = {"additionalProperties": False, "type": "object", **COUNT["function"]["parameters"]}
    assert schema_for(client, engine, tool_choice=NAMED) == count
    assert schema_for(client, engine, tool_choice="required", tools=[COUNT]) == count
    assert schema_for(client, engine, tool_choice="none") is None
    first, second = schema_for(client, engine, tool_choice="required")["anyOf"]
    assert first["properties"]["name"] == {"const": "count"}
    n = first["properties"]["arguments"]["properties"]["n"]
    assert n == {"$ref": "#/anyOf/0/properties/arguments/$defs/n"}
    assert second["properties"]["arguments"] == {
        "additionalProperties": False,
        "type": "object",
        "properties": {},
    }


def test_schemas_longer_than_any_engine_follows_are_not_gone_through(
    client: Client, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools_of_requests, "arguments_schema", pytest.fail)
    properties = {f"p{number}": {"type": "string"} for number in range(4000)}
    long = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    tools = [{"type": "function", "function": long}]
    (schema,) = schema_for(client, engine, tool_choice="required", tools=tools)["anyOf"]
    assert schema == long["parameters"]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"type": "object"}, {"type": "object"}),
        (
            {"properties": {"a": {"properties": {}, "additionalProperties": True}}},
            {
                "additionalProperties": False,
                "type": "object",
                "properties": {"a": {"properties": {}, "additionalProperties": True}},
            },
        ),
        (
            {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
            {"type": "object", "allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        ),
        (
            {"properties": {"properties": {"enum": [{"properties": {}}]}}},
            {
                "additionalProperties": False,
                "type": "object",
                "properties": {"properties": {"enum": [{"properties": {}}]}},
            },
        ),
    ],
)
def test_objects_whose_fields_are_listed_get_no_others(
    client: Client, engine: FakeEngine, parameters: Any, expected: Any
) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    assert schema_for(client, engine, tools=tools, tool_choice="required") == expected


def test_a_template_that_knows_tools_is_shown_those_that_may_be_called(connect: Connect) -> None:
    engine = FakeEngine(knows_tools=True)
    client = connect(engine)
    asked(client)
    assert engine.shown_tools == [
        COUNT,
        {"type": "function", "function": {"name": "rhyme"}},
    ]
    asked(client, tool_choice="none")
    assert engine.shown_tools == []
    client.post(CHAT, json=chat_body())
    assert engine.shown_tools == []


def test_a_template_that_knows_none_is_shown_none(client: Client, engine: FakeEngine) -> None:
    assert schema_for(client, engine, tool_choice=NAMED) is not None
    assert engine.shown_tools is None


def test_without_parallel_calls_the_first_one_ends_the_answer(connect: Connect) -> None:
    engine = FakeEngine([part.removesuffix("</tool_call>") for part in FREE], knows_tools=True)
    (answer,) = asked(connect(engine), parallel_tool_calls=False, stop="河")
    assert engine.requests[0].stop == ("河", "</tool_call>")
    assert answer["finish_reason"] == "tool_calls"


def test_calls_and_results_of_earlier_turns_reach_the_prompt(
    client: Client, engine: FakeEngine
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns: list[Any] = [
        {"role": "user", "content": "河"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "四行"}]},
    ]
    assert client.post(CHAT, json=chat_body(messages=turns)).status_code == 200
    assert engine.encoded == [
        Message("user", "河"),
        ToolCallMessage("assistant", "", calls=(ToolCall(id="call_1", name="f", arguments="{}"),)),
        ToolResultMessage("user", "四行", call_id="call_1"),
    ]


USER = {"role": "user", "content": "河"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [COUNT]}, "tools", "json_schema"),
    ({"tools": [COUNT], "tool_choice": "auto"}, "tool_choice", "json_schema"),
    ({"tool_choice": "required"}, "tool_choice", "tools"),
    ({"tools": [], "tool_choice": NAMED}, "tool_choice", "tools"),
    ({"tools": [RHYME], "tool_choice": NAMED}, "tool_choice", "rhyme"),
    ({"tools": [RHYME], "tool_choice": "any"}, "tool_choice", ""),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", "function"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", ""),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", ""),
    (
        {
            "tools": [{**RHYME, "function": {"name": "f", "parameters": {"type": "string"}}}],
            "tool_choice": "required",
        },
        "tools",
        "'f'",
    ),
    ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id", ""),
    ({"messages": [{**USER, "tool_call_id": "1"}]}, "messages[0].tool_call_id", ""),
    ({"messages": [{**USER, "tool_calls": [CALL]}]}, "messages[0].tool_calls", "assistant"),
    ({"messages": [{"role": "tool", "tool_call_id": "1"}]}, "messages[0].content", ""),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "named"), REFUSED)
def test_what_cannot_be_done_is_refused_by_its_name(
    client: Client, engine: FakeEngine, fields: dict[str, Any], param: str, named: str
) -> None:
    error = refused(client, chat_body(**fields))
    assert error.param == param
    assert named in error.message
    assert engine.requests == []


def test_a_schema_for_the_answer_does_not_go_with_calls_the_model_may_make(
    connect: Connect,
) -> None:
    engine = FakeEngine(knows_tools=True)
    client = connect(engine)
    body = chat_body(tools=[COUNT], response_format={"type": "json_object"})
    assert refused(client, body).param == "response_format"
    for choice in ("none", "required"):
        assert client.post(CHAT, json=body | {"tool_choice": choice}).status_code == 200
    assert engine.requests[-1].constraint != engine.requests[-2].constraint
    body = chat_body(tools=[COUNT], guided_regex="a", tool_choice="required")
    assert refused(client, body).param == "guided_regex"
