"""`response_format`: what the engine is asked for, and what is refused."""

import json
from typing import Any

import pytest
from fake_engine import FakeEngine
from test_chat_bad_input import refused
from wire import CHAT, Client, Connect, chat_body, stream

from verse_server.engine.errors import InvalidRequestError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"题": {"type": "string"}, "a": {"$ref": "#/$defs/a"}},
    "$defs": {"a": {"const": 1}},
}


def json_schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, **fields}}


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        (json_schema(), SCHEMA),
        (json_schema(strict=True, description="What a judge says."), SCHEMA),
        (json_schema(strict=None), SCHEMA),
    ],
)
def test_the_engine_is_given_the_schema_with_its_order(
    client: Client, engine: FakeEngine, response_format: Any, schema: Any
) -> None:
    assert client.post(CHAT, json=chat_body(response_format=response_format)).status_code == 200
    given = engine.requests[0].constraint
    pairs = None if given is None else list(json.loads(given.text).items())
    assert pairs == (None if schema is None else list(schema.items()))


@pytest.mark.parametrize(
    ("response_format", "param"),
    [
        ("json", "response_format"),
        ({}, "response_format.type"),
        ({"type": "xml"}, "response_format.type"),
        ({"type": "text", "json_schema": {}}, "response_format.json_schema"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        (json_schema(name="a b"), "response_format.json_schema.name"),
        (json_schema(name="x" * 65), "response_format.json_schema.name"),
        (json_schema(schema=None), "response_format.json_schema.schema"),
        (json_schema(schema=True), "response_format.json_schema.schema"),
        (json_schema(strict="yes"), "response_format.json_schema.strict"),
        (json_schema(colour=1), "response_format.json_schema.colour"),
        (
            {"type": "json_schema", "json_schema": {"name": "a"}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_a_wrong_format_is_refused_by_its_path(
    client: Client, engine: FakeEngine, response_format: Any, param: str
) -> None:
    assert refused(client, chat_body(response_format=response_format)).param == param
    assert engine.requests == []


@pytest.mark.parametrize("streamed", [True, False])
def test_a_schema_the_engine_cannot_compile_is_a_plain_400(
    connect: Connect, streamed: bool
) -> None:
    error = InvalidRequestError("No such type.", param="response_format")
    client = connect(FakeEngine(first_error=error))
    body = chat_body(response_format=json_schema(), stream=streamed)
    assert refused(client, body).param == "response_format"


def test_a_stream_asks_for_the_same(client: Client, engine: FakeEngine) -> None:
    stream(client, response_format={"type": "json_object"})
    assert engine.requests[0].constraint is not None
