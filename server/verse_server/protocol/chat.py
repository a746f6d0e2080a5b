"""`/v1/chat/completions` on the wire, named as OpenAI names it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from verse_server.protocol.shared import (
    CompletionUsage,
    FinishReason,
    NonEmpty,
    PromptLogprobs,
    RequestStruct,
    SamplingRequest,
    Unsupported,
)
from verse_server.protocol.tools import (
    ChatCompletionMessageToolCall,
    ChatCompletionMessageToolCallParam,
    ChatCompletionTool,
    ChoiceDeltaToolCall,
    ToolChoice,
)

Role = Literal["system", "developer", "user", "assistant", "tool"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
ChatFinishReason = FinishReason | Literal["tool_calls"]


class ChatCompletionContentPartText(RequestStruct, frozen=True):
    """One piece of a message's text."""

    type: Literal["text"]
    text: str


class ChatCompletionMessageParam(RequestStruct, frozen=True):
    """One turn of the conversation; OpenAI's answers can be sent back as they came."""

    role: Role
    """`developer` means `system`."""
    content: (
        str | Annotated[list[ChatCompletionContentPartText], Meta(min_length=1)] | UnsetType | None
    ) = UNSET
    """Parts are put together without anything between them. Null or left out, from an assistant, is
    nothing."""
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: Unsupported = None
    annotations: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    tool_calls: list[ChatCompletionMessageToolCallParam] | None = None
    """Of an assistant."""
    tool_call_id: str | None = None
    """Of a tool: the call that this is the result of."""


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


class ResponseFormatGrammar(RequestStruct, frozen=True, tag_field="type", tag="grammar"):
    """A text that follows a grammar."""

    grammar: NonEmpty
    """In Lark or in GBNF."""


ResponseFormat = (
    ResponseFormatText | ResponseFormatJSONObject | ResponseFormatJSONSchema | ResponseFormatGrammar
)


class ChatCompletionRequest(SamplingRequest, frozen=True, kw_only=True):
    """A conversation to be continued, and how."""

    messages: Annotated[list[ChatCompletionMessageParam], Meta(min_length=1, max_length=2048)]
    """As many as OpenAI takes."""
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    """Left out, the server's own limit (`--max-tokens`). In any case what the prompt leaves of the
    context is the most."""
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    """The newer name of `max_tokens`; wins over it."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Above 0 it needs `logprobs`."""
    response_format: ResponseFormat | None = None
    """Tokens that would break it are never drawn; `max_tokens` and `stop` may cut it short."""
    tools: Annotated[list[ChatCompletionTool], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    """Left out, it is `auto`, which needs a base whose chat template knows tools. `required` and
    a named function are held to the schema of the arguments, with any base."""
    parallel_tool_calls: bool | None = None
    """False stops an answer behind its first call."""
    metadata: dict[str, str] | None = None
    """For the caller's own books; changes nothing."""

    add_generation_prompt: bool | None = None
    """False ends the prompt behind the last message, without opening an answer."""
    continue_final_message: bool | None = None
    """The last message, an assistant's, is not finished: go on with it."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template, such as `enable_thinking`."""
    reasoning_effort: ReasoningEffort | None = None
    """Anything but `none` and `minimal` turns thinking on, if the model's template knows it."""

    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    store: bool | None = None
    service_tier: str | None = None
    prediction: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    functions: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None
    modalities: Unsupported = None
    moderation: Unsupported = None
    web_search_options: Unsupported = None
    add_special_tokens: Unsupported = None
    documents: Unsupported = None
    chat_template: Unsupported = None
    mm_processor_kwargs: Unsupported = None
    echo: Unsupported = None
    include_reasoning: Unsupported = None


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

    content: str | None
    """Null if tools are called and nothing else is said."""
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    tool_calls: tuple[ChatCompletionMessageToolCall, ...] | UnsetType = UNSET


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a completion."""

    message: ChatCompletionMessage
    finish_reason: ChatFinishReason
    """As with OpenAI, `stop` where `tool_choice` named the function that is called."""
    index: int = 0
    logprobs: ChoiceLogprobs | None = None
    token_ids: tuple[int, ...] | UnsetType = UNSET
    """With `return_token_ids`: all that were drawn, the end token included."""


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
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class ChoiceDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one chunk adds to the answer."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    tool_calls: tuple[ChoiceDeltaToolCall, ...] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI calls it `Choice` too; this is the one inside a chunk."""

    delta: ChoiceDelta
    finish_reason: ChatFinishReason | None = None
    index: int = 0
    logprobs: ChoiceLogprobs | None = None
    token_ids: tuple[int, ...] | UnsetType = UNSET
    """With `return_token_ids`: those drawn since the chunk before."""


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: CompletionUsage | UnsetType | None = UNSET
    """Only with `include_usage`: null until the last chunk, which has no choices; with
    `continuous_usage_stats` what was used so far."""
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET
    """In the first chunk, with `return_token_ids`."""
