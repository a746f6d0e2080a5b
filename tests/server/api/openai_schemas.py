"""OpenAI's response schemas as strict records: a field missing, left over or of another type fails.

Written after openai/openai-openapi 2.3.0; only the parts a text answer can have.
"""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class Strict(Struct, forbid_unknown_fields=True):
    """No field may be left over."""


class PromptTokensDetails(Strict):
    cached_tokens: int


class Usage(Strict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(Strict):
    token: str
    logprob: float
    bytes: list[int] | None


class ChatCompletionTokenLogprob(Strict):
    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class Logprobs(Strict):
    content: list[ChatCompletionTokenLogprob] | None
    refusal: list[ChatCompletionTokenLogprob] | None


class Function(Strict):
    name: str
    arguments: str


class ChatCompletionMessageToolCall(Strict):
    id: str
    type: Literal["function"]
    function: Function


class ResponseMessage(Strict):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[ChatCompletionMessageToolCall] | UnsetType = UNSET


class CompletionChoice(Strict):
    finish_reason: Literal["stop", "length", "tool_calls"]
    index: int
    message: ResponseMessage
    logprobs: Logprobs | None


class CreateChatCompletionResponse(Strict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str


class FunctionChunk(Strict):
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ChatCompletionMessageToolCallChunk(Strict):
    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionChunk | UnsetType = UNSET


class StreamResponseDelta(Strict):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    tool_calls: list[ChatCompletionMessageToolCallChunk] | UnsetType = UNSET


class StreamChoice(Strict):
    delta: StreamResponseDelta
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    index: int
    logprobs: Logprobs | UnsetType | None = UNSET


class CreateChatCompletionStreamResponse(Strict):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[StreamChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET


class Error(Strict):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Strict):
    error: Error
