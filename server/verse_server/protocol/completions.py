"""`/v1/completions` on the wire: OpenAI's older way to continue a text, without any frame."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from verse_server.protocol.shared import (
    CompletionUsage,
    FinishReason,
    NonEmpty,
    PromptLogprobs,
    SamplingRequest,
    TokenId,
    Unsupported,
)

TokenIds = Annotated[list[TokenId], Meta(min_length=1)]
MAX_PROMPTS = 128
_ONE_KIND = {
    "anyOf": [
        {"items": {"type": "string"}, "maxItems": MAX_PROMPTS},
        {"items": {"type": "array", "items": {"type": "integer"}}, "maxItems": MAX_PROMPTS},
        {"items": {"type": "integer"}},
    ]
}
"""What msgspec cannot tell apart: a list of texts, a list of lists, or one prompt's token ids."""


class CompletionRequest(SamplingRequest, frozen=True, kw_only=True):
    """Texts to be continued as they are, and how."""

    prompt: (
        NonEmpty
        | Annotated[
            list[NonEmpty | TokenId | TokenIds],
            Meta(min_length=1, max_length=2**20, extra_json_schema=_ONE_KIND),
        ]
    )
    """A text, token ids, or several of either. Control tokens in a text are control tokens."""
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    """16 if left out. 0 writes nothing and needs `echo`: with `logprobs` it scores the prompt."""
    echo: bool | None = None
    """Answer with the prompt before its continuation."""
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """How many of the likeliest tokens to report in each place; with `echo` in the prompt too."""

    add_special_tokens: bool | None = None
    """False leaves out what the tokenizer begins texts with."""
    suffix: Unsupported = None


class CompletionLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """One entry a token; OpenAI calls it `Logprobs`."""

    tokens: tuple[str, ...]
    """A token that is no whole character reads `bytes:\\xe6`."""
    token_logprobs: tuple[float | None, ...]
    """Null for the first token of an echoed prompt, which comes after nothing."""
    top_logprobs: tuple[dict[str, float] | None, ...]
    """The token itself is always among them. Null where `token_logprobs` is."""
    text_offset: tuple[int, ...]
    """Where each token begins, in characters of the whole text, also in a piece of a stream."""


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One continuation, or in a stream a piece of it."""

    text: str
    index: int
    """Prompt by prompt, each with its `n` continuations."""
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None
    token_ids: tuple[int, ...] | UnsetType = UNSET
    """With `return_token_ids`: all that were drawn, or in a stream since the piece before."""
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET
    """In the first piece of a stream."""
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer, or one event of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[CompletionChoice, ...]
    usage: CompletionUsage | UnsetType | None = UNSET
    """In a stream only with `include_usage`: null until the last event, which has no choices; with
    `continuous_usage_stats` what was used so far."""
