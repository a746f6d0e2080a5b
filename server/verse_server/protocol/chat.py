"""`/v1/chat/completions` on the wire, named as OpenAI names it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from verse_server.protocol.shared import (
    CompletionUsage,
    FinishReason,
    RequestStruct,
    SamplingRequest,
    Unsupported,
)

Role = Literal["system", "developer", "user", "assistant"]


class ChatCompletionContentPartText(RequestStruct, frozen=True):
    """One piece of a message's text."""

    type: Literal["text"]
    text: str


class ChatCompletionMessageParam(RequestStruct, frozen=True):
    """One turn of the conversation; OpenAI's answers can be sent back as they came."""

    role: Role
    """`developer` means `system`."""
    content: str | Annotated[list[ChatCompletionContentPartText], Meta(min_length=1)]
    """Parts are put together without anything between them."""
    name: Unsupported = None
    refusal: Unsupported = None
    annotations: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    tool_calls: Unsupported = None


class ResponseFormatText(RequestStruct, frozen=True, tag_field="type", tag="text"):
    """Free text, the default."""


class ResponseFormatJSONObject(RequestStruct, frozen=True, tag_field="type", tag="json_object"):
    """Some JSON object."""


class JSONSchema(RequestStruct, frozen=True):
    """A schema that the answer follows to the letter."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema: dict[str, Any]
    strict: bool | None = None
    """Changes nothing: the schema is always followed, or refused if it cannot be."""
    description: str | None = None
    """For the caller's own books; changes nothing."""


class ResponseFormatJSONSchema(RequestStruct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that follows a schema."""

    json_schema: JSONSchema


ResponseFormat = ResponseFormatText | ResponseFormatJSONObject | ResponseFormatJSONSchema


class ChatCompletionRequest(SamplingRequest, frozen=True, kw_only=True):
    """A conversation to be continued, and how."""

    messages: Annotated[list[ChatCompletionMessageParam], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    """Left out, the server's own limit (`--max-tokens`). In any case what the prompt leaves of the
    context is the most."""
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    """The newer name of `max_tokens`; wins over it."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Above 0 it needs `logprobs`."""
    response_format: ResponseFormat | None = None
    """Tokens that would break it are never drawn; `max_tokens` and `stop` may cut JSON short."""
    metadata: dict[str, str] | None = None
    """For the caller's own books; changes nothing."""

    audio: Unsupported = None
    function_call: Unsupported = None
    functions: Unsupported = None
    modalities: Unsupported = None
    moderation: Unsupported = None
    parallel_tool_calls: Unsupported = None
    prediction: Unsupported = None
    prompt_cache_key: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    reasoning_effort: Unsupported = None
    safety_identifier: Unsupported = None
    service_tier: Unsupported = None
    store: Unsupported = None
    tool_choice: Unsupported = None
    tools: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None


NEUTRAL_IN_REQUEST: dict[str, tuple[object, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""What an unsupported field may hold besides null: nothing that would change the answer."""

NEUTRAL_IN_MESSAGE: dict[str, tuple[object, ...]] = {
    "name": (),
    "refusal": (),
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "tool_calls": ([],),
}


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One of the likeliest tokens in a place."""

    token: str
    bytes: tuple[int, ...]
    logprob: float


class ChatCompletionTokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A token of the answer."""

    token: str
    bytes: tuple[int, ...]
    logprob: float
    """Under the model, before temperature, bias and penalties."""
    top_logprobs: tuple[TopLogprob, ...]


class ChoiceLogprobs(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of an answer or of a piece of it; the end token and a stop string are left out."""

    content: tuple[ChatCompletionTokenLogprob, ...]
    refusal: None = None


class ChatCompletionMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The answer."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a completion."""

    message: ChatCompletionMessage
    finish_reason: FinishReason
    index: int = 0
    logprobs: ChoiceLogprobs | None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    """The base and the adapter version that wrote it."""
    choices: tuple[Choice, ...]
    usage: CompletionUsage


class ChoiceDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one chunk adds to the answer."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI calls it `Choice` too; this is the one inside a chunk."""

    delta: ChoiceDelta
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: ChoiceLogprobs | None = None


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: CompletionUsage | UnsetType | None = UNSET
    """Only with `include_usage`: null until the last chunk, which has no choices."""
