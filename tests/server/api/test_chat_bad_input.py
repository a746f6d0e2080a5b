"""Requests that are wrong in one place: 400, OpenAI's envelope, and the place in `param`."""

import json
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai_schemas import ErrorResponse
from wire import CHAT, Client, chat_body

from verse_server.protocol.chat import ChatCompletionRequest

JSON = {"content-type": "application/json"}
USER = {"role": "user", "content": "河"}


def refused(client: Client, body: bytes | dict[str, Any], status: int = 400) -> Any:
    """Send it, and return the error it must be answered with."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post(CHAT, content=raw, headers=JSON)
    assert response.status_code == status, response.text
    error = msgspec.json.decode(response.content, type=ErrorResponse).error
    assert error.type == "invalid_request_error"
    assert error.message.endswith((".", "…"))
    return error


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 5),
        ("model", None),
        ("messages", []),
        ("messages", None),
        ("messages", "河"),
        ("adapters", ""),
        ("adapters", ["xuzhimo"]),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", 1.5),
        ("max_completion_tokens", -1),
        ("temperature", "0.7"),
        ("temperature", True),
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 2**31),
        ("min_p", -0.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", 10.5),
        ("frequency_penalty", 2.5),
        ("presence_penalty", -2.5),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", "7"),
        ("stop", 5),
        ("stop", ""),
        ("stop", ["x"] * 17),
        ("stream", "true"),
        ("stream", 1),
        ("stream_options", {}),
        ("user", 5),
        ("metadata", [1]),
        ("metadata", {"a": 1}),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(client: Client, field: str, value: object) -> None:
    assert refused(client, chat_body(**{field: value})).param == field


WRONG_INSIDE: list[tuple[dict[str, Any], str]] = [
    ({"messages": [USER, {"role": "poet", "content": "x"}]}, "messages[1].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [USER | {"name": 5}]}, "messages[0].name"),
    ({"messages": [USER | {"colour": 1}]}, "messages[0].colour"),
    ({"messages": ["河"]}, "messages[0]"),
    ({"stop": ["。", ""]}, "stop[1]"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    (
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
    ),
]


@pytest.mark.parametrize(("fields", "param"), WRONG_INSIDE)
def test_a_wrong_value_inside_is_refused_by_its_path(
    client: Client, fields: dict[str, Any], param: str
) -> None:
    assert refused(client, chat_body(**fields)).param == param


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(client: Client, field: str) -> None:
    body = chat_body()
    del body[field]
    error = refused(client, body)
    assert (error.param, error.code) == (field, "missing_required_parameter")


def test_an_unknown_field_is_named(client: Client) -> None:
    error = refused(client, chat_body(colour=3))
    assert (error.param, error.code) == ("colour", "unknown_parameter")


def test_an_unknown_field_with_an_endless_name_is_cut(client: Client) -> None:
    assert len(refused(client, chat_body(**{"x" * 100_000: 1})).message) < 200


@pytest.mark.parametrize("name", ["", "`", "a` - at `$.b", "\u0000", "诗"])
def test_an_odd_field_name_is_refused_like_any_other(client: Client, name: str) -> None:
    assert refused(client, chat_body(**{name: 1}))


UNSUPPORTED: list[tuple[str, Any]] = [
    ("functions", [{}]),
    ("function_call", {"name": "f"}),
    ("modalities", ["text", "audio"]),
    ("audio", {}),
    ("web_search_options", {}),
    ("best_of", 3),
    ("skip_special_tokens", False),
    ("chat_template", "{{ messages }}"),
]


@pytest.mark.parametrize(("field", "value"), UNSUPPORTED)
def test_a_parameter_not_supported_yet_is_named_and_never_ignored(
    client: Client, engine: FakeEngine, field: str, value: object
) -> None:
    error = refused(client, chat_body(**{field: value}))
    assert error.param == field
    assert error.code == "unsupported_parameter"
    assert "not supported" in error.message
    assert engine.requests == []


def test_every_parameter_that_the_sdk_can_send_is_known() -> None:
    sdk = set(CompletionCreateParamsStreaming.__annotations__)
    for base in CompletionCreateParamsStreaming.__mro__:
        sdk |= set(getattr(base, "__annotations__", {}))
    assert len(sdk) > 30
    assert sdk <= set(ChatCompletionRequest.__struct_fields__)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"model": "\xff", "messages": []}',
        b'{"model": "\\ud800", "messages": []}',
        json.dumps(chat_body()).encode() + b"x",
        json.dumps(chat_body(temperature=float("nan"))).encode(),
        json.dumps(chat_body(temperature=float("inf"))).encode(),
        json.dumps(chat_body(temperature=1)).encode().replace(b": 1}", b": 1e999}"),
        json.dumps(chat_body(n=0)).encode().replace(b": 0}", b": " + b"9" * 5000 + b"}"),
        json.dumps(chat_body(n=0)).encode().replace(b": 0}", b": " + b"[" * 100_000),
        json.dumps(chat_body(tools=0)).encode().replace(b": 0}", b": " + b'{"a":' * 100_000),
    ],
    ids=range(17),
)
def test_a_body_that_is_no_sound_json_is_refused(client: Client, body: bytes) -> None:
    assert refused(client, body)


def test_a_wrong_role_is_told_the_right_ones(client: Client) -> None:
    error = refused(client, chat_body(messages=[{"role": "poet", "content": "x"}]))
    assert "user" in error.message


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_another_content_type_is_refused(client: Client, content_type: str) -> None:
    response = client.post(
        CHAT, content=json.dumps(chat_body()), headers={"content-type": content_type}
    )
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unsupported_content_type"


def test_a_packed_body_is_refused(client: Client) -> None:
    headers = JSON | {"content-encoding": "gzip"}
    response = client.post(CHAT, content=json.dumps(chat_body()), headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unsupported_content_encoding"


@pytest.mark.parametrize("content_type", ["Application/JSON", "application/json; charset=utf-8"])
def test_json_may_be_spelled_otherwise(client: Client, content_type: str) -> None:
    response = client.post(
        CHAT, content=json.dumps(chat_body()), headers={"content-type": content_type}
    )
    assert response.status_code == 200


def test_a_body_of_just_a_megabyte_is_read_and_one_more_byte_is_413(client: Client) -> None:
    body = json.dumps(chat_body(user="")).encode()
    padded = body + b" " * ((1 << 20) - len(body))
    assert client.post(CHAT, content=padded, headers=JSON).status_code == 200
    assert refused(client, padded + b" ", status=413).code == "body_too_large"


def test_a_body_too_large_is_413_without_a_length_in_advance(client: Client) -> None:
    pieces = (b" " * 65536 for _ in range(20))
    response = client.post(CHAT, content=pieces, headers=JSON)
    assert response.status_code == 413


def test_a_prompt_that_fills_the_context_is_refused(client: Client) -> None:
    error = refused(client, chat_body(messages=[USER | {"content": "河" * 64}]))
    assert (error.param, error.code) == ("messages", "context_length_exceeded")


def test_an_unknown_model_is_404_with_the_nearest_names(client: Client) -> None:
    error = refused(client, chat_body(model="xuzimo"), status=404)
    assert (error.param, error.code) == (None, "model_not_found")
    assert "xuzhimo" in error.message


def test_an_adapter_that_cannot_be_served_is_409_with_the_reason(client: Client) -> None:
    error = refused(client, chat_body(model="broken"), status=409)
    assert error.code == "adapter_incompatible"
    assert "truncated" in error.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 17),
        ("n", True),
        ("n", "2"),
        ("logprobs", 1),
        ("top_logprobs", 21),
        ("top_logprobs", 3),
        ("logit_bias", {"8192": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"river": 1}),
        ("logit_bias", [5]),
    ],
)
def test_answers_logprobs_and_biases_out_of_bounds_are_refused(
    client: Client, engine: FakeEngine, field: str, value: object
) -> None:
    error = refused(client, chat_body(**{field: value}))
    assert (error.param or "").startswith(field)
    assert engine.requests == []
