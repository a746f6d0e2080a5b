"""The real OpenAI SDK over a real socket: it reads our answers and raises its own exceptions."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from fake_engine import FakeEngine
from live import live_server, wait_until
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from verse_server.config import ServerConfig
from verse_server.engine.errors import EngineClosedError, EngineError, GenerationFailedError

RIVER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "河"}]
POEM = "轻轻的我走了，"


@contextmanager
def sdk(engine: FakeEngine, api_key: str | None = None) -> Generator[OpenAI, None, None]:
    with (
        live_server(engine, ServerConfig(api_key=api_key)) as address,
        OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0) as client,
    ):
        yield client


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[OpenAI]:
    with sdk(engine) as client:
        yield client


def test_it_gets_a_poem(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="xuzhimo", messages=RIVER)
    assert answer.choices[0].message.content == POEM
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5


def test_it_knows_the_id_of_its_request(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="xuzhimo", messages=RIVER)
    assert raw.request_id is not None
    assert raw.request_id.startswith("req_")


def test_it_gets_the_same_poem_as_a_stream(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="xuzhimo", messages=RIVER, stream=True, stream_options={"include_usage": True}
    )
    with stream:
        chunks = list(stream)
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == POEM
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


def test_its_stream_helper_puts_the_poem_together(client: OpenAI) -> None:
    with client.chat.completions.stream(model="xuzhimo", messages=RIVER) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == POEM


def test_it_lists_and_retrieves_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["verse-tiny", "xuzhimo"]
    assert client.models.retrieve("Qwen/Qwen2.5-7B").id == "Qwen/Qwen2.5-7B"
    extra = client.models.retrieve("xuzhimo").model_extra
    assert extra is not None
    assert extra["parent"] == "verse-tiny"


@pytest.mark.parametrize(
    ("fields", "exception"),
    [
        ({"temperature": 9}, openai.BadRequestError),
        ({"n": 17}, openai.BadRequestError),
        ({"extra_body": {"best_of": 2}}, openai.BadRequestError),
        ({"model": "nobody"}, openai.NotFoundError),
        ({"model": "broken"}, openai.ConflictError),
    ],
)
def test_it_raises_its_exception_for_a_bad_request(
    client: OpenAI, fields: dict[str, Any], exception: type[openai.APIStatusError]
) -> None:
    request: dict[str, Any] = {"model": "xuzhimo", "messages": RIVER} | fields
    with pytest.raises(exception) as caught:
        client.chat.completions.create(**request)
    assert caught.value.request_id is not None
    assert isinstance(caught.value.body, dict)  # the envelope was understood


def test_it_reads_param_and_code_of_an_error(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="xuzhimo", messages=RIVER, top_p=7)
    assert (caught.value.param, caught.value.code) == ("top_p", "decimal_above_max_value")


def test_it_is_told_413_for_a_body_too_large(client: OpenAI) -> None:
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "河" * 1_000_000}]
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="xuzhimo", messages=long)
    assert caught.value.status_code == 413


def test_it_raises_authentication_error_without_the_key(engine: FakeEngine) -> None:
    with sdk(engine, api_key="sesame") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
        assert client.with_options(api_key="sesame").models.list().data


@pytest.mark.parametrize("error", [EngineClosedError("Closed."), GenerationFailedError("Broke.")])
@pytest.mark.parametrize("stream", [False, True])
def test_it_raises_internal_server_error_when_the_engine_fails(
    error: EngineError, stream: bool
) -> None:
    with sdk(FakeEngine(first_error=error)) as client, pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="xuzhimo", messages=RIVER, stream=stream)


def test_it_raises_api_error_when_a_stream_breaks(engine: FakeEngine) -> None:
    engine.late_error = GenerationFailedError("The engine broke.")
    with sdk(engine) as client:
        stream = client.chat.completions.create(model="xuzhimo", messages=RIVER, stream=True)
        with stream, pytest.raises(openai.APIError, match="The engine broke"):
            list(stream)


def test_it_does_not_retry_an_adapter_that_cannot_be_served(engine: FakeEngine) -> None:
    with sdk(engine) as client:
        retrying = client.with_options(max_retries=2)
        with pytest.raises(openai.ConflictError) as caught:
            retrying.chat.completions.create(model="broken", messages=RIVER)
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_closing_its_stream_frees_the_row() -> None:
    engine = FakeEngine(["水"] * 1000, seconds_per_chunk=0.05)
    with sdk(engine) as client:
        stream = client.chat.completions.create(model="xuzhimo", messages=RIVER, stream=True)
        next(iter(stream))
        stream.close()
        wait_until(lambda: engine.num_closed_early == 1)


def test_thirty_two_at_once_all_get_their_poem() -> None:
    engine = FakeEngine(seconds_per_chunk=0.01)

    def ask(stream: bool) -> str:
        if not stream:
            answer = client.chat.completions.create(model="xuzhimo", messages=RIVER)
            return answer.choices[0].message.content or ""
        with client.chat.completions.create(model="xuzhimo", messages=RIVER, stream=True) as chunks:
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with sdk(engine) as client, ThreadPoolExecutor(32) as pool:
        assert set(pool.map(ask, [True, False] * 16)) == {POEM}
    assert engine.num_closed_early == 0
