"""What servers say, without any SDK's types: answers, and the models they list."""

from contextlib import suppress
from typing import NamedTuple

import msgspec


class Answer(NamedTuple):
    """What a model wrote, and how it ended."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    fingerprint: str | None
    cached_tokens: int | None = None
    """Of the prompt's, those computed for an earlier request."""
    request_id: str | None = None
    refusal: str | None = None
    """Why the model would not answer, in its own words."""


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    message: _Message
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class ReadCompletion(msgspec.Struct, frozen=True):
    """What we read of a chat completion; the body of an error has no choices."""

    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    system_fingerprint: str | None = None

    def answers(self, request_id: str | None = None) -> list[Answer]:
        """All of them; each says what the whole request cost."""
        usage = self.usage or _Usage()
        details = usage.prompt_tokens_details or _PromptDetails()
        return [
            Answer(
                text=choice.message.content or "",
                finish_reason=choice.finish_reason or "",
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                fingerprint=self.system_fingerprint,
                cached_tokens=details.cached_tokens,
                request_id=request_id,
                refusal=choice.message.refusal,
            )
            for choice in self.choices
        ]


class AnswerPart(NamedTuple):
    """A part of an answer, as it comes."""

    text: str
    finish_reason: str | None
    """Given with the last one that has it."""


class ServedCheckpoint(msgspec.Struct, frozen=True):
    """One numbered state of an adapter, as our own server lists it."""

    id: str
    step: int


class ServedPart(msgspec.Struct, frozen=True):
    """An adapter in a blend, or one with a strength of its own, as our own server lists it."""

    id: str
    digest: str | None = None


class ServedMeta(msgspec.Struct, frozen=True):
    """What llama.cpp's server says of its model."""

    n_ctx: int


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the server lists it; a foreign server tells no more than the id."""

    id: str
    parent: str | None = None
    """What it was made from; None for a base."""
    root: str | None = None
    """The base at the root of the line; None where the server does not know adapters."""
    checkpoints: tuple[ServedCheckpoint, ...] = ()
    digest: str | None = None
    parts: tuple[ServedPart, ...] = ()
    """Of a blend, or of an adapter with a strength."""
    max_model_len: object = None
    meta: object = None
    """Both are what the server likes; a list is readable whatever stands there."""

    @property
    def context(self) -> int | None:
        """Tokens of prompt and answer together; None where the server does not list it."""
        if isinstance(self.max_model_len, int):
            return self.max_model_len
        with suppress(msgspec.ValidationError):
            return msgspec.convert(self.meta, ServedMeta).n_ctx
        return None


class Tokenized(msgspec.Struct, frozen=True, kw_only=True):
    """A text's or a conversation's tokens, as our own server and vLLM give them."""

    tokens: tuple[int, ...]
    max_model_len: int
    """Tokens of prompt and answer together that the model can bear."""


class ScoredPrompt(NamedTuple):
    """A prompt's own tokens, and how likely each is after those before it."""

    text: str
    """As the tokens spell it."""
    offsets: tuple[int, ...]
    """Where each token begins in the text."""
    logprobs: tuple[float | None, ...]
    """In nats; None for the first."""


class ScoredPrompts(NamedTuple):
    """Some prompts by one model."""

    prompts: tuple[ScoredPrompt, ...]
    num_tokens: int
    fingerprint: str | None
