"""Input that nobody means: on every path the envelope, a message of some length, no 500."""

import json
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from openai_schemas import ErrorResponse
from wire import CHAT, Client, chat_body

from verse_server.api import decoding, validation
from verse_server.api.errors import RequestError
from verse_server.api.validation import refuse_crowds, refuse_repeated_keys

JSON = {"content-type": "application/json"}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: chat_body(),
    "/v1/completions": {"model": "xuzhimo", "prompt": "河"},
    "/v1/adapters/xuzhimo/probe": {"prompt": "河"},
    "/v1/load_lora_adapter": {"lora_name": "xuzhimo"},
    "/v1/unload_lora_adapter": {"lora_name": "xuzhimo"},
}
ENDLESS = "9" * 4000
"""The longest number that Python would still print."""


def refused(client: Client, path: str, body: bytes, status: int = 400) -> Any:
    response = client.post(path, content=body, headers=JSON)
    assert response.status_code == status, response.text
    error = msgspec.json.decode(response.content, type=ErrorResponse).error
    assert error.type == "invalid_request_error"
    assert len(error.message) < 1100
    return error


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"1e999999",
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'{"model": "\xff", "prompt": "\xff", "lora_name": "\xff"}',
        b'{"model": "\\ud800", "prompt": "\\ud800", "lora_name": "\\ud800"}',
        json.dumps({"prompt": "河"}).encode("utf-16"),
    ],
    ids=range(9),
)
def test_what_is_no_sound_object_is_refused(client: Client, path: str, body: bytes) -> None:
    assert refused(client, path, body)


@pytest.mark.parametrize(("path", "body"), BODIES.items())
@pytest.mark.parametrize("name", ["\0", "x" * 100_000, "河", "__class__"])
def test_an_unknown_field_of_any_name_is_refused(
    client: Client, engine: FakeEngine, path: str, body: dict[str, Any], name: str
) -> None:
    error = refused(client, path, json.dumps(body | {name: 1}).encode())
    assert error.code == "unknown_parameter"
    assert error.param is not None
    assert error.param[:50] == name[:50]
    assert engine.requests == []


@pytest.mark.parametrize("path", BODIES)
def test_a_body_of_two_megabytes_is_413(client: Client, path: str) -> None:
    assert refused(client, path, b" " * (2 << 20), status=413).code == "body_too_large"


@pytest.mark.parametrize("name", ["", "\0", "xu\0zhimo", "\n", "+", "..", "x" * 100_000])
def test_a_model_of_any_name_is_only_not_found(client: Client, name: str) -> None:
    for path in (CHAT, "/v1/completions"):
        body = json.dumps(BODIES[path] | {"model": name}).encode()
        assert refused(client, path, body, status=404).code == "model_not_found"


WRONG_PROMPTS = [
    '""',
    "[]",
    "[[]]",
    '[""]',
    "[[1], []]",
    "[-1]",
    "[[-1]]",
    "[1.5]",
    "[true]",
    "[null]",
    "[8192]",
    '[1, "a"]',
    '["a", [1]]',
    "{}",
    f"[{ENDLESS}]",
    f"[-{ENDLESS}]",
    f"[{ENDLESS}{ENDLESS}]",
    json.dumps(["a"] * 129),
]


@pytest.mark.parametrize("prompt", WRONG_PROMPTS, ids=range(len(WRONG_PROMPTS)))
def test_a_prompt_that_is_none_is_refused(client: Client, engine: FakeEngine, prompt: str) -> None:
    body = f'{{"model": "base", "prompt": {prompt}}}'
    error = refused(client, "/v1/completions", body.encode())
    assert (error.param or "").startswith("prompt")
    assert engine.requests == []


def test_a_bias_of_an_endless_token_is_refused(client: Client) -> None:
    for token in (ENDLESS, ENDLESS + ENDLESS, "-1"):
        body = json.dumps(chat_body(logit_bias={token: 1})).encode()
        assert refused(client, CHAT, body).param == "logit_bias"


def test_an_endless_path_is_cut_in_the_answer(client: Client) -> None:
    response = client.get("/" + "x" * 60_000)
    assert response.status_code == 404
    assert len(response.content) < 1200


@pytest.mark.parametrize(
    "path",
    ["/v1/models/%00", "/v1/models/%FF", "/v1/models/%ED%A0%80", "/v1/models/%2E%2E", "/%00"],
)
def test_a_path_of_odd_bytes_is_only_not_found(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    msgspec.json.decode(response.content, type=ErrorResponse)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(("path", "body"), BODIES.items())
def test_a_byte_order_mark_is_named(
    client: Client, path: str, body: dict[str, Any], encoding: str
) -> None:
    error = refused(client, path, json.dumps(body).encode(encoding))
    assert "byte order mark (BOM)" in error.message


@pytest.mark.parametrize(("path", "body"), BODIES.items())
def test_a_key_that_occurs_twice_is_named(
    client: Client, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    key = next(iter(body))
    text = json.dumps(body)
    twice = f"{text[:-1]}, {text[1:]}" if len(body) == 1 else text[:-1] + f', "{key}": "b"}}'
    error = refused(client, path, twice.encode())
    assert (error.param, error.code) == (key, "duplicate_key")
    assert key in error.message
    assert engine.requests == []


@pytest.mark.parametrize(
    "field",
    [
        '"metadata": {"a": "1", "b": "2", "\\u0061": "3"}',
        '"metadata": {"a:": "1", "a\\u003A": "2"}',
        '"metadata": {"a": "::", "a": "\\u003a"}',
        '"logit_bias": {"1": 1, "2": 1, "1": 2}',
        '"stream": false, "stream": true',
        '"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": '
        '{"type": "object", "type": "array"}}}',
    ],
)
def test_a_key_that_occurs_twice_is_found_at_any_depth(client: Client, field: str) -> None:
    body = json.dumps(chat_body())[:-1] + f", {field}}}"
    assert refused(client, CHAT, body.encode()).code == "duplicate_key"


def test_a_large_body_is_not_read_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps(chat_body(logit_bias={str(token): 1 for token in range(20_000)})).encode()
    monkeypatch.setattr(json, "loads", pytest.fail)
    refuse_repeated_keys(body)


def test_many_keys_of_a_bias_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps(chat_body(logit_bias={str(token): 1 for token in range(20_000)})).encode()
    looked_through: list[bytes] = []
    monkeypatch.setattr(decoding, "refuse_repeated_keys", looked_through.append)
    assert len(decoding.decode_chat_request(body).logit_bias or {}) == 20_000
    assert json.loads(looked_through[0]) == chat_body(logit_bias=None)


@pytest.mark.parametrize("twice", ['"7": 2', '"\\u0037": 2', '"0": 1'])
def test_a_key_that_occurs_twice_in_a_large_bias_is_found(client: Client, twice: str) -> None:
    many = ", ".join(f'"{token}": 1' for token in range(5_000))
    body = json.dumps(chat_body())[:-1] + f', "logit_bias": {{{many}, {twice}}}}}'
    assert refused(client, CHAT, body.encode()).code == "duplicate_key"


def test_a_large_bias_that_occurs_twice_is_found(client: Client) -> None:
    many = json.dumps({str(token): 1 for token in range(5_000)})
    body = json.dumps(chat_body())[:-1] + f', "logit_bias": {many}, "logit_bias": {many}}}'
    assert refused(client, CHAT, body.encode()).code == "duplicate_key"


@pytest.mark.parametrize("thing", ["{}", "[]", '{"a": []}'])
def test_a_body_of_nothing_but_objects_is_refused_before_they_are_made(
    client: Client, monkeypatch: pytest.MonkeyPatch, thing: str
) -> None:
    things = ", ".join([thing] * 33_000)
    body = f'{{"model": "xuzhimo", "chat_template_kwargs": {{"a": [{things}]}}}}'.encode()
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "_decoded", pytest.fail)
        assert refused(client, CHAT, body).code == "too_many_values"


def test_a_text_may_hold_as_many_brackets_as_it_likes(client: Client) -> None:
    turn = {"role": "user", "content": '{[\\"' * 40_000}
    error = refused(client, CHAT, json.dumps(chat_body(messages=[turn])).encode())
    assert error.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "num_containers"),
    [
        (b'{"a": [1, "[[[[", {"b{": []}]}', 4),
        (rb'["\"{", "\\", [], "a\\\"[[[["]', 2),
        (b'"' + b"{[" * 20 + b'"', 0),
    ],
)
def test_objects_and_lists_are_counted_and_brackets_in_texts_are_not(
    monkeypatch: pytest.MonkeyPatch, body: bytes, num_containers: int
) -> None:
    monkeypatch.setattr(validation, "_MAX_CONTAINERS", num_containers)
    refuse_crowds(body)
    monkeypatch.setattr(validation, "_MAX_CONTAINERS", num_containers - 1)
    if num_containers:
        with pytest.raises(RequestError):
            refuse_crowds(body)


def test_a_key_may_occur_in_several_objects(client: Client) -> None:
    turns = [{"role": "user", "content": "河"}, {"role": "assistant", "content": "a"}] * 2
    response = client.post(CHAT, json=chat_body(messages=turns[:3], metadata={"model": "x"}))
    assert response.status_code == 200, response.text


def test_more_messages_than_openai_takes_are_refused(client: Client) -> None:
    messages = [{"role": "user", "content": ""}] * 2049
    assert (
        refused(client, CHAT, json.dumps(chat_body(messages=messages)).encode()).param == "messages"
    )
