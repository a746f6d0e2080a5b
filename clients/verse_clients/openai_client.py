"""The one place that knows the OpenAI SDK: clients for any compatible server, poems out of it.

`Server` waits for each answer, `AsyncServer` asks many at a time. Both raise what `errors` lists.
"""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import openai
from openai.types import Completion
from openai.types.model import Model

from verse.prompt import Message
from verse_clients.answers import (
    Answer,
    AnswerPart,
    ReadCompletion,
    ScoredPrompt,
    ScoredPrompts,
    ServedModel,
    Tokenized,
)
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
    retry_after_seconds,
)

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
_NO_KEY = "unused"  # the SDK insists on one, our own server does not
BATCH = {"x-verse-priority": "batch"}
"""For bulk work: our own server does everything else first, others pass it over."""
_CONNECT_SECONDS = 5.0
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_CHAT = "/chat/completions"
_completion = msgspec.json.Decoder(ReadCompletion)
_NO_COMPLETION = (AttributeError, IndexError, TypeError, ValueError)
"""What reading a body that is no chat completion, or no JSON at all, ends in."""


class Server:
    """A server that writes."""

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, timeout_seconds: float = 120
    ) -> None:
        """Nothing is sent yet.

        Args:
            base_url: Where the API is; OPENAI_BASE_URL or our own server if None.
            api_key: OPENAI_API_KEY if None; a server without keys needs none.
            timeout_seconds: For one whole answer.
        """
        self.base_url = _base_url(base_url)
        self._client = openai.OpenAI(
            base_url=self.base_url,
            api_key=_api_key(api_key),
            max_retries=1,
            timeout=openai.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
        )

    def models(self) -> list[str]:
        """Names of the models that can be asked.

        Raises:
            ServerError: see there.
        """
        return [model.id for model in self.served()]

    def served(self) -> list[ServedModel]:
        """The models that can be asked, as the server lists them.

        Raises:
            ServerError: see there.
        """
        with _translating(self.base_url, "list of models"):
            return [_served(model) for model in self._client.models.list()]

    def model(self, name: str) -> ServedModel:
        """One model by any spelling the server takes: `xuzhimo@best`.

        Raises:
            ServerError: see there.
        """
        with _translating(self.base_url, "model"):
            return _served(self._client.models.retrieve(name))

    def stream(
        self, model: str, messages: Sequence[Message], **sampling: float | None
    ) -> Generator[AnswerPart]:
        """Ask for one answer and give it as it comes; what is None is left to the server.

        Raises:
            ServerError: see there.
        """
        with _translating(self.base_url, "chat completion"):
            stream = self._client.chat.completions.create(
                model=model, messages=_wire(messages), stream=True, extra_body=_given(**sampling)
            )
            with stream:
                for chunk in stream:
                    for choice in chunk.choices[:1]:
                        yield AnswerPart(choice.delta.content or "", choice.finish_reason)

    def write(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        seed: int | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Answer:
        """Ask for one answer; what is None is left to the server.

        Raises:
            ServerError: see there.
        """
        body = _given(seed=seed, temperature=temperature, max_tokens=max_tokens)
        with _translating(self.base_url, "chat completion"):
            asked = {"model": model, "messages": _wire(messages), **body}
            return _answers(self._client.post(_CHAT, cast_to=httpx2.Response, body=asked))[0]

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()


class AsyncServer:
    """A server that is asked many things at a time."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 600,
        max_retries: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            base_url: Where the API is; OPENAI_BASE_URL or our own server if None.
            api_key: OPENAI_API_KEY if None; a server without keys needs none.
            timeout_seconds: For one whole answer.
            max_retries: The SDK's own, of 408, 409, 429, 5xx, timeouts and lost connections. One
                for a server on this machine if None, which a retry makes do the work again; two
                for others.
            headers: Sent with every request.
        """
        self.base_url = _base_url(base_url)
        self.is_local = urlsplit(self.base_url).hostname in _LOCAL_HOSTS
        if max_retries is None:
            max_retries = 1 if self.is_local else openai.DEFAULT_MAX_RETRIES
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=_api_key(api_key),
            max_retries=max_retries,
            timeout=openai.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
            default_headers=headers,
        )

    async def models(self) -> list[ServedModel]:
        """The models that can be asked, as the server lists them.

        Raises:
            ServerError: see there.
        """
        with _translating(self.base_url, "list of models"):
            page = await self._client.models.list()
            return [_served(model) for model in page.data]

    async def model(self, name: str) -> ServedModel:
        """One model by any spelling the server takes: `xuzhimo@best`.

        Raises:
            ServerError: see there.
        """
        with _translating(self.base_url, "model"):
            return _served(await self._client.models.retrieve(name))

    async def complete(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        seed: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        max_tokens: int | None = None,
        max_completion_tokens: int | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Ask for one answer; what is None is not sent and so left to the server.

        Raises:
            ServerError: see there.
        """
        body = _given(
            seed=seed,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            max_tokens=max_tokens,
            max_completion_tokens=max_completion_tokens,
            response_format=response_format,
        )
        return (await self._complete(model, messages, body))[0]

    async def complete_several(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        n: int,
        seed: int | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> list[Answer]:
        """Ask for `n` answers in one request; what is None is left to the server.

        Each says what the whole request cost.

        Raises:
            ServerError: see there.
        """
        body = _given(n=n, seed=seed, temperature=temperature, max_tokens=max_tokens)
        return await self._complete(model, messages, body)

    async def _complete(
        self, model: str, messages: Sequence[Message], body: dict[str, object]
    ) -> list[Answer]:
        with _translating(self.base_url, "chat completion"):
            asked = {"model": model, "messages": _wire(messages), **body}
            return _answers(await self._client.post(_CHAT, cast_to=httpx2.Response, body=asked))

    async def tokenize(self, model: str, messages: Sequence[Message]) -> Tokenized:
        """The tokens of a conversation in the model's own frame, an answer opened at its end.

        Raises:
            ServerError: see there; OpenAI's own servers, for one, do not tell.
        """
        return await self._tokenize({"model": model, "messages": _wire(messages)})

    async def tokenize_text(self, text: str) -> Tokenized:
        """The tokens of a text with no frame; raises as `tokenize`."""
        return await self._tokenize({"prompt": text, "add_special_tokens": False})

    async def _tokenize(self, body: dict[str, object]) -> Tokenized:
        url = self.base_url.rstrip("/").removesuffix("/v1") + "/tokenize"
        with _translating(self.base_url, "tokens"):
            return msgspec.convert(await self.call(url, body), Tokenized)

    async def score(self, model: str, prompts: Sequence[Sequence[int]]) -> ScoredPrompts:
        """How likely a model finds the tokens of prompts; writes nothing.

        Raises:
            ServerError: see there; many servers echo no log-probabilities.
        """
        with _translating(self.base_url, "log-probabilities of a prompt"):
            return _scored(
                await self._client.completions.create(
                    model=model,
                    prompt=[[*prompt] for prompt in prompts],
                    max_tokens=0,
                    echo=True,
                    logprobs=0,
                ),
                len(prompts),
            )

    async def call(self, path: str, body: Mapping[str, object] | None = None) -> object:
        """Get something below the API's address, or send it a body; raises as `complete`."""
        with _translating(self.base_url, f"answer to {path}"):
            if body is None:
                return await self._client.get(path, cast_to=object)
            return await self._client.post(path, cast_to=object, body=body)

    async def upload(self, path: Path) -> str:
        """Give the server a file of requests, for a batch; its id there. Raises as `complete`."""
        with _translating(self.base_url, "file"), path.open("rb") as file:
            return (await self._client.files.create(file=file, purpose="batch")).id

    async def fetch_file(self, id_: str, path: Path) -> None:
        """Write one of the server's files to the disk; raises as `complete`."""
        with _translating(self.base_url, "file"):
            async with self._client.files.with_streaming_response.content(id_) as content:
                await content.stream_to_file(path)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()


def _base_url(given: str | None) -> str:
    url = given or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return url
    raise ServerError(f"{url!r} is no address of a server; write one like {DEFAULT_BASE_URL}.")


def _api_key(given: str | None) -> str:
    return given or os.environ.get("OPENAI_API_KEY") or _NO_KEY


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _wire(messages: Sequence[Message]) -> Any:
    return [{"role": message.role, "content": message.content} for message in messages]


def _served(model: Model) -> ServedModel:
    return msgspec.convert(model.model_dump(), ServedModel)


def _answers(response: httpx2.Response) -> list[Answer]:
    """All answers of a chat completion, at least one.

    The SDK's own `create` looks through question and answer with pydantic, which takes another half
    of the time that all the rest does.

    Raises:
        DecodeError: it is no chat completion.
        IndexError: there is no answer in it.
    """
    answers = _completion.decode(response.content).answers(response.headers.get("x-request-id"))
    if not answers:
        raise IndexError("the completion has no choices")
    return answers


def _scored(completion: Completion, num_prompts: int) -> ScoredPrompts:
    """All prompts of a completion that echoes them.

    Raises:
        ValueError: log-probabilities are missing.
    """
    found = [(choice.text, choice.logprobs) for choice in completion.choices]
    prompts = tuple(
        ScoredPrompt(text, tuple(logprobs.text_offset or ()), tuple(logprobs.token_logprobs or ()))
        for text, logprobs in found
        if logprobs is not None
    )
    if len(prompts) < num_prompts:
        raise ValueError("no log-probabilities")
    tokens = completion.usage.prompt_tokens if completion.usage else 0
    return ScoredPrompts(prompts, tokens, completion.system_fingerprint)


@contextmanager
def _translating(base_url: str, expected: str) -> Generator[None]:
    """Make of whatever asking and reading ends in a sentence that names the server."""
    try:
        yield
    except openai.OpenAIError as error:
        raise _translated(error, base_url) from error
    except _NO_COMPLETION as error:
        raise NoCompletionError(f"{base_url} sent no {expected}.") from error


def _translated(error: openai.OpenAIError, base_url: str) -> ServerError:
    """The SDK's error as one of ours, with a sentence that names the server."""
    if isinstance(error, openai.APITimeoutError) and not _is_unreached(error):
        return ServerTimeoutError(f"{base_url} did not answer in time.")
    if isinstance(error, openai.APIConnectionError):
        return ServerDownError(f"No server answers at {base_url}.")
    if isinstance(error, openai.APIStatusError):
        return _refusal(error, base_url)
    return NoCompletionError(f"{base_url} failed: {_sentence(str(error))}")


def _is_unreached(error: openai.APITimeoutError) -> bool:
    """Whether nobody even took the connection: a machine that is off or asleep."""
    return isinstance(error.__cause__, httpx2.ConnectTimeout)


def _refusal(error: openai.APIStatusError, base_url: str) -> ServerError:
    code = error.code or error.type
    sentence = f"{base_url} answered {error.status_code}: {_own_words(error)}"
    kind: type[ServerError] = BadRequestError
    match error.status_code:
        case 403 if code == "jobs_disabled":
            pass
        case 401 | 403:
            kind, sentence = UnauthorisedError, f"{base_url} {_about_key(error)}"
        case 404 if code == "unknown_url" or not isinstance(error.body, dict):
            kind, sentence = ServerError, f"There is no OpenAI API at {base_url}; add /v1?"
        case 404:
            kind = UnknownModelError
        case 429 if code == "insufficient_quota":
            kind = QuotaError
        case 429:
            kind = RateLimitedError
        case status if status >= 500:
            kind = BrokenServerError
        case _:
            pass
    wait = retry_after_seconds(error.response.headers)
    return kind(sentence, status=error.status_code, code=code, retry_after_seconds=wait)


def _own_words(error: openai.APIStatusError) -> str:
    """What the server said, without what the SDK writes before it."""
    return _sentence(error.message.removeprefix(f"Error code: {error.status_code} - "))


def _sentence(words: str) -> str:
    """With an end, so that another sentence may follow."""
    words = words.strip()
    return words if words.endswith((".", "!", "?", "。", "！", "？")) else f"{words}."


def _about_key(error: openai.APIStatusError) -> str:
    if error.request.headers.get("authorization") == f"Bearer {_NO_KEY}":
        return "wants an API key; set OPENAI_API_KEY or give --api-key."
    return "does not accept the API key."
