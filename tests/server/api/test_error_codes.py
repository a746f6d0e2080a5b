"""Refusals carry the codes that api.openai.com gives them, and say what was expected and sent."""

import json
from typing import Any

import pytest
from fake_engine import FakeEngine
from test_chat_bad_input import refused
from wire import CHAT, Client, chat_body

USER = {"role": "user", "content": "河"}
SCHEMA: dict[str, Any] = {"type": "object"}

PROBES: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": "warm"}, "invalid_type", "expected a decimal, but got a string instead"),
    ({"temperature": True}, "invalid_type", "expected a decimal, but got a boolean instead"),
    ({"temperature": 3}, "decimal_above_max_value", "Expected a value <= 2, but got 3 instead"),
    ({"temperature": -0.5}, "decimal_below_min_value", "Expected a value >= 0, but got -0.5 inst"),
    ({"top_p": 1.5}, "decimal_above_max_value", "Expected a value <= 1, but got 1.5 instead"),
    ({"n": 0}, "integer_below_min_value", "Expected a value >= 1, but got 0 instead"),
    ({"n": 17}, "integer_above_max_value", "Expected a value <= 16, but got 17 instead"),
    ({"n": "2"}, "invalid_type", "expected an integer, but got a string instead"),
    ({"n": True}, "invalid_type", "expected an integer, but got a boolean instead"),
    ({"n": 1.5}, "invalid_type", "expected an integer, but got a decimal number instead"),
    ({"n": 10**30}, "integer_above_max_value", "Expected a value <= 16"),
    ({"max_tokens": 0}, "integer_below_min_value", "Expected a value >= 1, but got 0 instead"),
    ({"top_logprobs": 21}, "integer_above_max_value", "Expected a value <= 20, but got 21 inst"),
    ({"seed": 2**63}, "integer_above_max_value", "integer above maximum value"),
    ({"frequency_penalty": 2.5}, "decimal_above_max_value", "Expected a value <= 2"),
    ({"stream": "true"}, "invalid_type", "expected a boolean, but got a string instead"),
    ({"stop": 5}, "invalid_type", "expected one of a string or an array, but got an integer"),
    ({"stop": ["x"] * 17}, "array_above_max_length", "maximum length 16, but got an array with"),
    ({"stop": ""}, "string_below_min_length", "minimum length 1, but got an empty string"),
    ({"model": 5}, "invalid_type", "expected a string, but got an integer instead"),
    ({"model": None}, "invalid_type", "expected a string, but got null instead"),
    ({"messages": []}, "empty_array", "minimum length 1, but got an empty array instead"),
    ({"messages": "河"}, "invalid_type", "expected an array, but got a string instead"),
    ({"logit_bias": {"5": 101}}, "decimal_above_max_value", "Expected a value <= 100"),
    ({"logit_bias": [5]}, "invalid_type", "expected an object, but got an array instead"),
    ({"logit_bias": {"river": 1}}, "invalid_type", "they must be integers"),
    ({"metadata": {"a": 1}}, "invalid_type", "expected a string, but got an integer instead"),
    ({"reasoning_effort": "huge"}, "invalid_value", "Supported values are: 'none', 'minimal'"),
    ({"colour": 1}, "unknown_parameter", "Unknown parameter: 'colour'"),
    ({"response_format": {"type": "xml"}}, "invalid_value", "Supported values are: 'text', 'json"),
]


@pytest.mark.parametrize(("fields", "code", "words"), PROBES)
def test_a_wrong_value_has_openais_code(
    client: Client, engine: FakeEngine, fields: dict[str, Any], code: str, words: str
) -> None:
    error = refused(client, chat_body(**fields))
    assert (error.code, error.param) == (code, next(iter(fields)) + _inside(fields))
    assert words in error.message
    assert engine.requests == []


def _inside(fields: dict[str, Any]) -> str:
    return ".type" if "response_format" in fields else ""


INSIDE: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": [{"role": "poet", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role", "invalid_type"),
    ({"messages": [USER, {"role": "user"}]}, "messages[1].content", "missing_required_parameter"),
    ({"messages": [USER, {"content": "x"}]}, "messages[1].role", "missing_required_parameter"),
    ({"messages": [USER | {"content": None}]}, "messages[0].content", "invalid_type"),
    ({"messages": [USER | {"content": []}]}, "messages[0].content", "empty_array"),
    ({"messages": [USER | {"colour": 1}]}, "messages[0].colour", "unknown_parameter"),
    ({"stop": ["。", ""]}, "stop[1]", "string_below_min_length"),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a b", "schema": SCHEMA},
            }
        },
        "response_format.json_schema.name",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(("fields", "param", "code"), INSIDE)
def test_so_has_one_inside(client: Client, fields: dict[str, Any], param: str, code: str) -> None:
    error = refused(client, chat_body(**fields))
    assert (error.param, error.code) == (param, code)


def test_a_body_that_is_no_object_has_the_wrong_type(client: Client) -> None:
    error = refused(client, b"[]")
    assert (error.param, error.code) == (None, "invalid_type")
    assert error.message == (
        "Invalid type for the body: expected an object, but got an array instead."
    )


@pytest.mark.parametrize(
    "numbers",
    [
        {"max_tokens": 5.0},
        {"n": 1.0, "seed": 7.0, "top_k": 3.0},
        {"logprobs": True, "top_logprobs": 2.0},
    ],
)
def test_an_integer_may_be_written_as_a_decimal(
    client: Client, engine: FakeEngine, numbers: dict[str, Any]
) -> None:
    assert client.post(CHAT, json=chat_body(**numbers)).status_code == 200
    plain = {
        name: int(value) if isinstance(value, float) else value for name, value in numbers.items()
    }
    assert client.post(CHAT, json=chat_body(**plain)).status_code == 200
    assert engine.requests[0] == engine.requests[1]


def test_token_ids_may_be_written_as_decimals(client: Client, engine: FakeEngine) -> None:
    prompt = [float(number) for number in range(5, 45)]
    response = client.post("/v1/completions", json={"model": "base", "prompt": prompt})
    assert response.status_code == 200
    assert engine.requests[0].prompt == tuple(range(5, 45))


def test_endless_decimals_are_refused_soon(client: Client) -> None:
    bias = json.dumps({"model": "base", "prompt": [[float(i)] for i in range(100)]}).encode()
    response = client.post(
        "/v1/completions", content=bias, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
