"""What the wires have in common, named as OpenAI names it.

That is the fields that both kinds of text have, and the envelope that every error comes in;
`/health` alone answers 503 with its own record.

Requests refuse fields they do not know. An optional field that is null means its default, as with
OpenAI. What becomes of fields that other servers obey and this one does not is in `field_rules`;
those of them that are typed `Unsupported` only take the values that are listed there.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

FinishReason = Literal["stop", "length"]
NonEmpty = Annotated[str, Meta(min_length=1)]
Unsupported = Annotated[Any, Meta(description="Not supported: only its default is accepted.")]
Choices = Annotated[list[NonEmpty], Meta(min_length=1, max_length=1000)]
TokenId = Annotated[int, Meta(ge=0)]


class RequestStruct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all that a client sends: a field that nobody reads is an error, not a surprise."""


class ChatCompletionStreamOptions(RequestStruct, frozen=True):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    """A last event has the usage."""
    continuous_usage_stats: bool | None = None
    """Every event has the usage so far."""
    include_obfuscation: Unsupported = None


class StructuredOutputs(RequestStruct, frozen=True):
    """What every answer follows, in vLLM's spelling; exactly one of the first five."""

    json: str | dict[str, Any] | None = None
    """A schema, as an object or as its text."""
    json_object: bool | None = None
    """Some JSON object."""
    regex: NonEmpty | None = None
    choice: Choices | None = None
    """One of these texts."""
    grammar: NonEmpty | None = None
    """In Lark or in GBNF."""
    disable_fallback: bool | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: Unsupported = None
    whitespace_pattern: Unsupported = None
    structural_tag: Unsupported = None


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
    xtc_probability: Annotated[float, Meta(ge=0, le=1)] | None = None
    """How often, token by token, all but the least likely of the tokens above `xtc_threshold` are
    left out; line breaks and end tokens never are."""
    xtc_threshold: Annotated[float, Meta(ge=0, le=0.5)] | None = None
    """0.1 if left out."""
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    """Another name of `repetition_penalty`."""
    ignore_eos: bool | None = None
    """Go on to `max_tokens`, whatever end tokens are drawn; `stop` still holds."""
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    """Before so many, no end token is drawn and nothing in the text stops the answer."""
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=128)] | None = None
    """End an answer as end tokens do."""
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    """vLLM's older spelling of `structured_outputs`."""
    guided_regex: NonEmpty | None = None
    guided_choice: Choices | None = None
    guided_grammar: NonEmpty | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Also report the prompt's own tokens, each with so many of the likeliest; not in a stream."""
    return_token_ids: bool | None = None
    """Also answer with the ids of the tokens."""
    stop: NonEmpty | Annotated[list[NonEmpty], Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: ChatCompletionStreamOptions | None = None
    user: str | None = None
    """Who asks: clients take turns, and those that share a `user` count as one."""

    keep_alive: str | float | None = None
    ttl: float | None = None
    cache_prompt: bool | None = None
    num_draft_tokens: int | None = None
    guided_decoding_backend: str | None = None
    best_of: Unsupported = None
    use_beam_search: Unsupported = None
    length_penalty: Unsupported = None
    early_stopping: Unsupported = None
    skip_special_tokens: Unsupported = None
    spaces_between_special_tokens: Unsupported = None
    include_stop_str_in_output: Unsupported = None
    truncate_prompt_tokens: Unsupported = None
    allowed_token_ids: Unsupported = None
    bad_words: Unsupported = None
    logits_processors: Unsupported = None
    return_tokens_as_token_ids: Unsupported = None
    priority: Unsupported = None
    typical_p: Unsupported = None
    tfs_z: Unsupported = None
    mirostat: Unsupported = None
    dry_multiplier: Unsupported = None
    no_repeat_ngram_size: Unsupported = None
    guided_whitespace_pattern: Unsupported = None


class PromptLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token of the prompt, or a likely one in its place, as vLLM reports it."""

    logprob: float
    rank: int | None
    """1 is the likeliest."""
    decoded_token: str


PromptLogprobs = tuple[dict[str, PromptLogprob] | None, ...]
"""By token id, the prompt's own first; null for the first token, which comes after nothing."""


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
