"""Streams: the order of events, the same text and counts as the whole answer, errors."""

import msgspec
import pytest
from fake_engine import FakeEngine
from openai_schemas import CreateChatCompletionStreamResponse, ErrorResponse
from wire import CHAT, Client, Connect, chat_body, content, events, stream

from verse_server.engine.errors import (
    AdapterIncompatibleError,
    EngineClosedError,
    GenerationFailedError,
)

WITH_USAGE = {"include_usage": True}


def test_every_event_has_exactly_the_fields_of_openais_schema(client: Client) -> None:
    for options in (None, {"include_usage": False}, WITH_USAGE):
        chunks = stream(client, stream_options=options)[:-1]
        msgspec.convert(chunks, list[CreateChatCompletionStreamResponse])


def test_a_stream_goes_role_texts_finish_reason_done(client: Client) -> None:
    chunks = stream(client)
    assert chunks.pop() == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "轻轻的"},
        {"content": "我走了"},
        {"content": "，"},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, None, "stop"]
    assert all("usage" not in chunk for chunk in chunks)


def test_all_events_of_a_stream_share_id_time_model_and_version(client: Client) -> None:
    chunks = stream(client, stream_options=WITH_USAGE)[:-1]
    names = ("id", "created", "model", "system_fingerprint")
    assert len({tuple(chunk[name] for name in names) for chunk in chunks}) == 1


def test_a_stream_has_the_text_and_the_usage_of_the_whole_answer(client: Client) -> None:
    whole = client.post(CHAT, json=chat_body()).json()
    chunks = stream(client, stream_options=WITH_USAGE)
    assert content(chunks) == whole["choices"][0]["message"]["content"]
    assert chunks[-2]["usage"] == whole["usage"]


def test_include_usage_adds_a_last_event_without_choices(client: Client) -> None:
    *chunks, last, done = stream(client, stream_options=WITH_USAGE)
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []


def test_an_empty_answer_streams_its_role_and_its_end(connect: Connect) -> None:
    chunks = stream(connect(FakeEngine([""])))
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:-1]] == [
        {"role": "assistant", "content": ""},
        {},
    ]


def test_a_text_with_line_breaks_stays_in_one_event(connect: Connect) -> None:
    text = "一\n\n二\r\u2028三\x00"
    assert content(stream(connect(FakeEngine([text])))) == text


def test_a_stream_is_marked_as_one_that_must_not_be_buffered(client: Client) -> None:
    response = client.post(CHAT, json=chat_body(stream=True))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"].startswith("req_")
    assert "content-length" not in response.headers


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AdapterIncompatibleError("xuzhimo", "it is truncated."), 409),
        (EngineClosedError("The server is shutting down."), 503),
        (GenerationFailedError("The engine broke."), 500),
        (RuntimeError("a bug"), 500),
    ],
)
def test_an_error_before_the_first_token_is_a_plain_http_error(
    connect: Connect, error: Exception, status: int
) -> None:
    client = connect(FakeEngine(first_error=error))
    response = client.post(CHAT, json=chat_body(stream=True))
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    msgspec.json.decode(response.content, type=ErrorResponse)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GenerationFailedError("The engine broke."), "generation_failed"),
        (RuntimeError("a bug"), "internal_error"),
    ],
)
def test_an_error_after_the_first_token_is_the_last_event(
    connect: Connect, error: Exception, code: str
) -> None:
    client = connect(FakeEngine(late_error=error))
    response = client.post(CHAT, json=chat_body(stream=True))
    assert response.status_code == 200
    *chunks, last = events(response.text)
    assert content(chunks) == "轻轻的我走了，"
    assert msgspec.convert(last, ErrorResponse).error.code == code
    assert "a bug" not in response.text


def test_an_engine_that_stops_without_a_reason_is_an_error(connect: Connect) -> None:
    client = connect(FakeEngine(finish_reason=None))
    assert client.post(CHAT, json=chat_body()).status_code == 500
    assert "error" in events(client.post(CHAT, json=chat_body(stream=True)).text)[-1]


def test_stream_options_without_a_stream_are_refused(client: Client) -> None:
    response = client.post(CHAT, json=chat_body(stream_options=WITH_USAGE))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "stream_options"
