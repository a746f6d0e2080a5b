"""`/v1/responses` on the wire, named as OpenAI names it: what is asked for and answered."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from verse_server.protocol.chat import (
    ChatCompletionTokenLogprob,
    ReasoningEffort,
    ResponseFormatGrammar,
    ResponseFormatJSONObject,
    ResponseFormatText,
)
from verse_server.protocol.shared import NonEmpty, RequestStruct, Unsupported
from verse_server.protocol.tools import FunctionName

ItemType = Literal[
    "message", "function_call", "function_call_output", "reasoning", "item_reference"
]
ItemRole = Literal["user", "assistant", "system", "developer"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]
ResponseIncludable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
ToolOption = Literal["none", "auto", "required"]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]
MAX_ITEMS = 2048


class ResponseInputContent(RequestStruct, frozen=True):
    """One piece of an item's text."""

    type: Literal["input_text", "output_text", "text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    """Instead of `text`, of a `refusal`."""
    annotations: list[dict[str, Any]] | None = None
    logprobs: list[dict[str, Any]] | None = None


ItemText = str | list[ResponseInputContent]


class ResponseInputItem(RequestStruct, frozen=True):
    """One item of a conversation; items of an answer can be sent back as they came.

    Which fields go with which type is checked when it is read.
    """

    type: ItemType | None = None
    """Left out, it is a `message`; or an `item_reference`, if there is nothing but an `id`."""
    id: str | None = None
    """Of an item of a stored response, or whatever the client calls it."""
    status: ItemStatus | None = None
    role: ItemRole | None = None
    """Of a message; `developer` means `system`."""
    content: ItemText | None = None
    """Of a message. Pieces are put together without anything between them."""
    call_id: NonEmpty | None = None
    """Which call a `function_call` is, or a `function_call_output` belongs to."""
    name: str | None = None
    arguments: str | None = None
    """Of a `function_call`: JSON, as the answer had it."""
    output: ItemText | None = None
    """Of a `function_call_output`: what the function said."""
    phase: str | None = None
    summary: list[dict[str, Any]] | None = None
    encrypted_content: str | None = None


class ResponseFormatTextJSONSchema(
    RequestStruct, frozen=True, kw_only=True, tag_field="type", tag="json_schema"
):
    """JSON that follows a schema."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema: dict[str, Any]
    strict: bool | None = None
    """Changes nothing: the schema is always followed, or refused if it cannot be."""
    description: str | None = None


ResponseTextFormat = (
    ResponseFormatText
    | ResponseFormatJSONObject
    | ResponseFormatTextJSONSchema
    | ResponseFormatGrammar
)


class ResponseTextConfig(RequestStruct, frozen=True):
    """The form of the text."""

    format: ResponseTextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseReasoning(RequestStruct, frozen=True):
    """How much to think."""

    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseStreamOptions(RequestStruct, frozen=True):
    """What a stream carries besides its events."""

    include_obfuscation: Unsupported = None


class FunctionTool(RequestStruct, frozen=True):
    """A function that the client can call; tools that OpenAI runs itself are not here."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments, an object; left out, the function takes none."""
    strict: bool | None = None
    """Changes nothing, as in chats."""


class NamedFunction(RequestStruct, frozen=True):
    """Names one of `tools`."""

    type: Literal["function"]
    name: FunctionName


class FunctionToolChoice(RequestStruct, frozen=True, tag_field="type", tag="function"):
    """The answer is a call of this function."""

    name: FunctionName


class AllowedToolsChoice(RequestStruct, frozen=True, tag_field="type", tag="allowed_tools"):
    """As if the request had brought these tools alone."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Meta(min_length=1)]


ResponseToolChoice = ToolOption | FunctionToolChoice | AllowedToolsChoice


class CreateResponse(RequestStruct, frozen=True):
    """What to answer, and how. Sampling fields left out take the base's own defaults."""

    model: str
    """The base, an adapter, a checkpoint or a blend: `xuzhimo`, `xuzhimo@200`, `xuzhimo:0.6`."""
    input: str | Annotated[list[ResponseInputItem], Meta(max_length=MAX_ITEMS)] | None = None
    """A user's message, or the items of a conversation."""
    instructions: str | None = None
    """A system message at the beginning; not taken over from an earlier response."""
    previous_response_id: str | None = None
    """The stored response that this one goes on from."""
    store: bool | None = None
    """True if left out, but for a server that stores none (`--no-store`)."""
    text: ResponseTextConfig | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    """Left out, the server's own limit (`--max-tokens`)."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Above 0, the tokens are reported even if `include` does not ask for them."""
    include: list[ResponseIncludable] | None = None
    """Only `message.output_text.logprobs` adds something; nothing here has any of the others."""
    tools: Annotated[list[FunctionTool], Meta(max_length=128)] | None = None
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """False stops an answer behind its first call."""
    reasoning: ResponseReasoning | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: Metadata | None = None
    """For the caller's own books; comes back with the response."""
    user: str | None = None
    """Who asks: clients take turns, and those that share a `user` count as one."""

    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    """This field and those below are as in chats."""
    adapters: NonEmpty | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], Meta(max_length=16)] | None = None

    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    max_tool_calls: int | None = None
    background: Unsupported = None
    conversation: Unsupported = None
    context_management: Unsupported = None
    moderation: Unsupported = None
    prompt: Unsupported = None
    truncation: Unsupported = None


class ResponseInputText(msgspec.Struct, frozen=True, tag_field="type", tag="input_text"):
    """A text that was given."""

    text: str


class ResponseOutputText(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="output_text"
):
    """A text that was written."""

    text: str
    annotations: tuple[dict[str, Any], ...] = ()
    """Always empty."""
    logprobs: tuple[ChatCompletionTokenLogprob, ...] = ()
    """If they were asked for."""


class ResponseMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A message: what was written, or one of those it was written after."""

    id: str
    role: ItemRole
    status: ItemStatus
    content: tuple[ResponseInputText | ResponseOutputText, ...]


class ResponseFunctionToolCall(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"
):
    """A call for the client to make, or one of an earlier turn."""

    id: str
    call_id: str
    """The result comes back under this one."""
    name: str
    arguments: str
    """JSON of an object."""
    status: ItemStatus


class ResponseFunctionCallOutput(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call_output"
):
    """What a function said."""

    id: str
    call_id: str
    output: str
    status: ItemStatus


ResponseItem = ResponseMessage | ResponseFunctionToolCall | ResponseFunctionCallOutput
OutputItem = ResponseMessage | ResponseFunctionToolCall


class ResponseItemList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of what a stored response answers to, the history it goes on from included."""

    object: Literal["list"] = "list"
    data: tuple[ResponseItem, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the prompt's tokens."""

    cached_tokens: int
    """Computed for an earlier request, and reused."""
    cache_write_tokens: int = 0
    """What is kept for later requests costs nobody anything."""


class OutputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer's tokens are."""

    reasoning_tokens: int = 0
    """Thoughts are a part of the text here."""


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts; end tokens are counted."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class ResponseError(msgspec.Struct, frozen=True):
    """Why an answer was not finished."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why an answer ends before its end."""

    reason: Literal["max_output_tokens"]


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, with what was asked for."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: ResponseStatus
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    system_fingerprint: str
    """The base and the adapter version that wrote it."""
    output: tuple[OutputItem, ...] = ()
    usage: ResponseUsage | UnsetType = UNSET
    """Once it is finished."""
    instructions: str | None
    previous_response_id: str | None
    store: bool
    """Whether it can be asked for later."""
    text: ResponseTextConfig
    max_output_tokens: int | None
    temperature: float
    top_p: float
    top_logprobs: int
    tools: tuple[FunctionTool, ...]
    tool_choice: ResponseToolChoice
    parallel_tool_calls: bool
    reasoning: ResponseReasoning
    metadata: dict[str, str]
    user: str | UnsetType = UNSET
    background: bool = False
    truncation: Literal["disabled"] = "disabled"


class ResponseDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """It is gone."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True
