"""The one place that knows the OpenAI SDK: a client for any compatible server, poems out of it."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import openai
from openai.types.chat import ChatCompletion

from verse.errors import UserError
from verse.prompt import Message

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
_NO_KEY = "unused"  # the SDK insists on one, our own server does not
_CONNECT_SECONDS = 5.0


class ServerError(UserError):
    """The server could not be reached or refused; one sentence says which."""


class Answer(NamedTuple):
    """What a model wrote, and how it ended."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    fingerprint: str | None


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
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
        self._client = openai.OpenAI(
            base_url=self.base_url,
            api_key=api_key or os.environ.get("OPENAI_API_KEY") or _NO_KEY,
            max_retries=1,
            timeout=openai.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
        )

    def models(self) -> list[str]:
        """Names of the models that can be asked.

        Raises:
            ServerError: see there.
        """
        try:
            return [model.id for model in self._client.models.list()]
        except openai.OpenAIError as error:
            raise ServerError(self._sentence(error)) from error

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
        given = {"seed": seed, "temperature": temperature, "max_tokens": max_tokens}
        body = {name: value for name, value in given.items() if value is not None}
        try:
            completion = self._client.chat.completions.create(
                model=model,
                messages=cast(Any, [{"role": m.role, "content": m.content} for m in messages]),
                extra_body=body,
            )
            return _answer(completion)
        except openai.OpenAIError as error:
            raise ServerError(self._sentence(error)) from error
        except (AttributeError, IndexError, TypeError) as error:
            raise ServerError(f"{self.base_url} sent no chat completion.") from error

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _sentence(self, error: openai.OpenAIError) -> str:
        if isinstance(error, openai.APITimeoutError):
            return f"{self.base_url} did not answer in time."
        if isinstance(error, openai.APIConnectionError):
            return f"No server answers at {self.base_url}."
        if isinstance(error, openai.AuthenticationError):
            return f"{self.base_url} does not accept the API key."
        if isinstance(error, openai.APIStatusError):
            return f"{self.base_url} answered {error.status_code}: {error.message}"
        return f"{self.base_url} failed: {error}"


def _answer(completion: ChatCompletion) -> Answer:
    choice, usage = completion.choices[0], completion.usage
    return Answer(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        fingerprint=completion.system_fingerprint,
    )
