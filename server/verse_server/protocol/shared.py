"""What the wires have in common, named as OpenAI names it.

That is the fields that both kinds of text have, and the envelope that every error comes in;
`/health` alone answers 503 with its own record.

Requests refuse fields they do not know. An optional field that is null means its default, as with
OpenAI. Fields typed `Unsupported` are OpenAI's, and do nothing here yet: they are taken while they
carry the meaning they have when left out (the `NEUTRAL_` tables), and refused otherwise.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

FinishReason = Literal["stop", "length"]
NonEmpty = Annotated[str, Meta(min_length=1)]
Unsupported = Annotated[Any, Meta(description="Not supported yet: only its default is accepted.")]


class RequestStruct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all that a client sends: a field that nobody reads is an error, not a surprise."""


class ChatCompletionStreamOptions(RequestStruct, frozen=True):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: Unsupported = None


NEUTRAL_IN_STREAM_OPTIONS: dict[str, tuple[object, ...]] = {"include_obfuscation": (False,)}


class SamplingRequest(RequestStruct, frozen=True):
    """What to run, how to draw, when to stop.

    Sampling fields left out take the base's own defaults.
    """

    model: str
    """The base, an adapter, a checkpoint or a blend: `xuzhimo`, `xuzhimo@200`, `xuzhimo:0.6`."""
    adapters: NonEmpty | None = None
    """mlx_lm.server's spelling of an adapter in `model`."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    """0 and -1 mean all tokens."""
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    logit_bias: (
        Annotated[
            dict[int, Annotated[float, Meta(ge=-100, le=100)]],
            Meta(extra_json_schema={"propertyNames": {"pattern": "^(0|[1-9][0-9]*)$"}}),
        ]
        | None
    ) = None
    """By token id."""
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    """Answers to one prompt, which is read once."""
    stop: NonEmpty | Annotated[list[NonEmpty], Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: ChatCompletionStreamOptions | None = None
    user: str | None = None
    """Who asks: clients take turns, and those that share a `user` count as one."""


class PromptTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the prompt's tokens."""

    cached_tokens: int
    """Computed for an earlier request, and reused."""


class CompletionUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts; end tokens are counted, and the prompt once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong, for a person (`message`) and for a program (`code`, `param`)."""

    message: str
    type: str
    """`rate_limit_error` with status 429, `server_error` from 500 on, or else
    `invalid_request_error`."""
    param: str | None = None
    """The field at fault, as a path (`messages[0].role`), or the header."""
    code: str | None = None


class ErrorResponse(msgspec.Struct, frozen=True):
    """OpenAI's error body."""

    error: ErrorObject
