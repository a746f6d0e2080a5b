"""OpenAI's response schemas as strict records: a field missing, left over or of another type fails.

Written after openai/openai-openapi 2.3.0; only the parts a text answer can have.
"""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class Strict(Struct, forbid_unknown_fields=True):
    """No field may be left over."""


class Usage(Strict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ResponseMessage(Strict):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class CompletionChoice(Strict):
    finish_reason: Literal["stop", "length"]
    index: int
    message: ResponseMessage
    logprobs: None


class CreateChatCompletionResponse(Strict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str


class StreamResponseDelta(Strict):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class StreamChoice(Strict):
    delta: StreamResponseDelta
    finish_reason: Literal["stop", "length"] | None
    index: int
    logprobs: UnsetType | None = UNSET


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
