"""One envelope on every path."""

import asyncio
import logging
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from openai_schemas import ErrorResponse
from wire import CHAT, Client, Connect, chat_body

from verse_server.api.errors import translate
from verse_server.app import create_app
from verse_server.config import ServerConfig
from verse_server.engine.errors import (
    AdapterChangedError,
    AdapterIncompatibleError,
    DeadlineExceededError,
    EngineClosedError,
    EngineError,
    GenerationFailedError,
    InvalidRequestError,
    ModelNotFoundError,
    PromptTooLongError,
    QueueFullError,
    SlowClientError,
)


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (ModelNotFoundError("x"), 404, "model_not_found", None),
        (AdapterIncompatibleError("x", "why."), 409, "adapter_incompatible", None),
        (AdapterChangedError("x"), 503, "adapter_changing", None),
        (InvalidRequestError("No.", param="model"), 400, "invalid_value", "model"),
        (QueueFullError(512, 7), 429, "queue_full", None),
        (DeadlineExceededError(30), 504, "deadline_exceeded", None),
        (EngineClosedError("Closed."), 503, "engine_closed", None),
        (GenerationFailedError("Broke."), 500, "generation_failed", None),
    ],
)
def test_each_engine_error_has_its_status_and_code(
    error: EngineError, status: int, code: str, param: str | None
) -> None:
    failure = translate(error)
    assert (failure.status, failure.code, failure.param) == (status, code, param)
    assert failure.message == str(error)
    named = {429: "rate_limit_error", 500: "server_error", 503: "server_error", 504: "server_error"}
    assert failure.body.error.type == named.get(status, "invalid_request_error")


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_know() -> None:
    failure = translate(PromptTooLongError(9, 8, param="prompt"))
    assert (failure.status, failure.code) == (400, "context_length_exceeded")
    assert failure.param == "prompt"
    message = failure.message
    assert message.startswith("This model's maximum context length is 8 tokens. However, your ")
    assert "your prompt resulted in 9 tokens" in message
    # litellm looks for the first in small letters, langchain for the second, pydantic-ai for the
    # third or the first half of the first.
    for words in ("this model's maximum context length is", "prompt is too long"):
        assert words in message.lower()
    assert "reduce the length of the messages" in str(PromptTooLongError(9, 8))


def test_a_client_that_leaves_with_half_a_body_is_no_error_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[Any] = [
        {"type": "http.request", "body": b'{"model":', "more_body": True},
        *[{"type": "http.disconnect"}] * 9,
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return events.pop(0)

    async def send(event: Any) -> None:
        sent.append(event)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"900")]
    scope: Any = {"type": "http", "method": "POST", "path": CHAT, "headers": headers}
    scope |= {"query_string": b"", "raw_path": CHAT.encode(), "root_path": "", "scheme": "http"}
    with caplog.at_level(logging.INFO):
        asyncio.run(create_app(FakeEngine(), ServerConfig())(scope, receive, send))
    assert sent[0]["status"] == 499
    assert {record.levelname for record in caplog.records} <= {"INFO", "DEBUG"}


def test_an_error_that_will_not_go_away_is_not_worth_a_retry() -> None:
    assert translate(AdapterIncompatibleError("x", "why.")).headers == {"x-should-retry": "false"}


def test_who_read_nothing_is_told_so_at_the_end_of_the_stream() -> None:
    failure = translate(SlowClientError(30))
    assert (failure.status, failure.code) == (408, "client_too_slow")
    assert "not read for 30 seconds" in failure.body.error.message


def test_a_full_queue_says_when_to_come_back() -> None:
    failure = translate(QueueFullError(512, 7))
    assert failure.headers == {"Retry-After": "7"}
    assert failure.body.error.type == "rate_limit_error"


def test_a_closed_engine_says_when_to_come_back() -> None:
    assert int(translate(EngineClosedError("Closed.")).headers["Retry-After"]) > 0


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/embeddings", "/nope", "/v1/chat"])
def test_an_unknown_path_is_404(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    error = msgspec.json.decode(response.content, type=ErrorResponse).error
    assert error.code == "unknown_url"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "OPTIONS, POST"),
        ("PUT", CHAT, "OPTIONS, POST"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/models/xuzhimo", "GET, HEAD, OPTIONS"),
        ("BREW", "/health", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_is_405_and_told_the_right_ones(
    client: Client, method: str, path: str, allowed: str
) -> None:
    response = client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    msgspec.json.decode(response.content, type=ErrorResponse)


ALLOWED = {
    CHAT: "OPTIONS, POST",
    "/health": "GET, HEAD, OPTIONS",
    "/v1/models/xuzhimo": "GET, HEAD, OPTIONS",
    "/v1/models": "GET, HEAD, OPTIONS",
    "/v1/responses/resp_1": "DELETE, GET, HEAD, OPTIONS",
}


@pytest.mark.parametrize("path", ALLOWED)
def test_options_names_what_another_method_is_told(client: Client, path: str) -> None:
    response = client.options(path)
    assert (response.status_code, response.headers["allow"]) == (204, ALLOWED[path])
    assert client.put(path).headers["allow"] == ALLOWED[path]


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/xuzhimo"])
def test_head_answers_where_get_does(client: Client, path: str) -> None:
    assert client.head(path).status_code == 200


def test_a_bug_is_500_logged_with_its_id_and_not_shown(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(FakeEngine(first_error=ZeroDivisionError("secret detail")))
    response = client.post(CHAT, json=chat_body())
    error = msgspec.json.decode(response.content, type=ErrorResponse).error
    assert (response.status_code, error.type) == (500, "server_error")
    assert "secret detail" not in response.text
    assert response.headers["x-request-id"] in error.message
    record = next(r for r in caplog.records if r.levelno == logging.ERROR)
    assert response.headers["x-request-id"] in record.getMessage()
    assert record.exc_info is not None
