"""The SDK behind our own types: over a real socket on this machine."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.clients.fake_openai import Failure, FakeOpenAI, Raw, Reply, Trouble
from verse import UserError
from verse.prompt import Message
from verse_clients.errors import (
    BadRequestError,
    BrokenServerError,
    NoCompletionError,
    QuotaError,
    RateLimitedError,
    ServerDownError,
    ServerError,
    ServerTimeoutError,
    UnauthorisedError,
    UnknownModelError,
)
from verse_clients.openai_client import AsyncServer, Server

pytestmark = pytest.mark.anyio
ASKED = [Message("user", "河")]


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def client(fake: FakeOpenAI) -> AsyncIterator[AsyncServer]:
    server = AsyncServer(fake.base_url, max_retries=0, timeout_seconds=60)
    yield server
    await server.close()


async def test_an_answer_says_how_it_ended_and_what_it_cost(
    fake: FakeOpenAI, client: AsyncServer
) -> None:
    fake.fail(Reply("河水", "length", prompt_tokens=3, completion_tokens=2))
    answer = await client.complete("hushi", ASKED, seed=5, top_k=3, min_p=0.1)
    assert (answer.text, answer.finish_reason) == ("河水", "length")
    assert (answer.prompt_tokens, answer.completion_tokens) == (3, 2)
    assert (answer.fingerprint, answer.request_id) == ("fp-hushi", "req_1")
    asked = fake.asked[0]
    assert (asked["seed"], asked["top_k"], asked["min_p"]) == (5, 3, 0.1)
    assert asked.keys() == {"model", "messages", "seed", "top_k", "min_p"}


async def test_a_refusal_and_a_format_are_handed_through(
    fake: FakeOpenAI, client: AsyncServer
) -> None:
    fake.fail(Reply("", refusal="我不能"))
    answer = await client.complete("hushi", ASKED, response_format={"type": "json_object"})
    assert answer.refusal == "我不能"
    assert fake.asked[0]["response_format"] == {"type": "json_object"}


async def test_models_are_listed_with_their_checkpoints(client: AsyncServer) -> None:
    listed = {model.id: model for model in await client.models()}
    assert [checkpoint.step for checkpoint in listed["hushi"].checkpoints] == [80, 160]
    assert listed["verse-tiny"].parent is None
    assert (await client.model("hushi@best")).id == "hushi@160"


async def test_a_foreign_list_tells_ids_alone(fake: FakeOpenAI, client: AsyncServer) -> None:
    fake.script.models = [{"id": "gpt", "object": "model", "created": 0, "owned_by": "x"}]
    (listed,) = await client.models()
    assert (listed.id, listed.root, listed.checkpoints) == ("gpt", None, ())


@pytest.mark.parametrize(
    ("trouble", "kind", "said"),
    [
        ("close", ServerDownError, "No server answers at"),
        (Failure(401), UnauthorisedError, "wants an API key; set OPENAI_API_KEY or give --api-key"),
        (Failure(404, code="model_not_found"), UnknownModelError, "answered 404"),
        (Failure(404, raw=b"<html>"), ServerError, "There is no OpenAI API at"),
        (Failure(400), BadRequestError, "answered 400: as the test wishes"),
        (Failure(422), BadRequestError, "answered 422: "),
        (Failure(429), RateLimitedError, "answered 429: "),
        (Failure(429, code="insufficient_quota"), QuotaError, "answered 429: "),
        (Failure(500), BrokenServerError, "answered 500: "),
        (Failure(503, retry_after="4"), BrokenServerError, "answered 503: "),
        (Raw(b"{}"), NoCompletionError, "sent no chat completion"),
        (Raw(b"hello"), NoCompletionError, "sent no chat completion"),
        (Raw(b'{"choices": [{"message": {"content": [1]}}]}'), NoCompletionError, "sent no chat"),
        (Raw(b"hello", "text/html"), NoCompletionError, "sent no chat completion"),
    ],
)
async def test_each_trouble_is_an_error_of_its_own_in_one_sentence(
    fake: FakeOpenAI, client: AsyncServer, trouble: Trouble, kind: type[ServerError], said: str
) -> None:
    fake.fail(trouble)
    with pytest.raises(UserError) as caught:
        await client.complete("hushi", ASKED)
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert fake.base_url in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_slow_server_is_told_from_one_that_is_down(fake: FakeOpenAI) -> None:
    server = AsyncServer(fake.base_url, max_retries=0, timeout_seconds=0.1)
    fake.fail("hang")
    with pytest.raises(ServerTimeoutError, match="did not answer in time"):
        await server.complete("hushi", ASKED)
    await server.close()
    fake.stop()
    server = AsyncServer(fake.base_url, max_retries=0, timeout_seconds=60)
    with pytest.raises(ServerDownError, match="No server answers"):
        await server.complete("hushi", ASKED)
    await server.close()


@pytest.mark.parametrize("wait", ["600", "a date"])
async def test_a_long_wait_the_server_asks_for_is_told(
    fake: FakeOpenAI, client: AsyncServer, wait: str
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    fake.fail(Failure(429, retry_after=date if wait == "a date" else wait))
    with pytest.raises(RateLimitedError) as caught:
        await client.complete("hushi", ASKED)
    assert caught.value.retry_after_seconds == pytest.approx(600, abs=5)


async def test_an_error_without_a_wait_tells_none(fake: FakeOpenAI, client: AsyncServer) -> None:
    fake.fail(Failure(429, retry_after="soon"), Failure(500, code="generation_failed"))
    with pytest.raises(RateLimitedError) as limited:
        await client.complete("hushi", ASKED)
    assert limited.value.retry_after_seconds is None
    with pytest.raises(BrokenServerError) as broken:
        await client.complete("hushi", ASKED)
    assert (broken.value.status, broken.value.code) == (500, "generation_failed")


async def test_the_key_goes_along_and_a_wrong_one_is_told(fake: FakeOpenAI) -> None:
    fake.script.key = "sk-right"
    for key in ("sk-right", "sk-wrong"):
        server = AsyncServer(fake.base_url, key, max_retries=0)
        if key == "sk-right":
            assert (await server.complete("hushi", ASKED)).text
        else:
            with pytest.raises(UnauthorisedError):
                await server.models()
            with pytest.raises(UnauthorisedError):
                await server.complete("hushi", ASKED)
        await server.close()


async def test_a_server_on_this_machine_is_asked_once_more_by_itself(fake: FakeOpenAI) -> None:
    server = AsyncServer(fake.base_url)
    fake.fail(Failure(500, retry_after="0"))
    assert (await server.complete("hushi", ASKED)).text
    assert fake.num_calls == 2
    await server.close()


@pytest.mark.parametrize("body", [b'{"data": [5]}', b'{"data": 5}', b"<html>"])
def test_a_list_that_is_none_of_models_is_one_sentence(fake: FakeOpenAI, body: bytes) -> None:
    fake.script.list_failures.append(Failure(200, raw=body))
    server = Server(fake.base_url)
    with pytest.raises(NoCompletionError, match="sent no list of models"):
        server.models()
    server.close()
