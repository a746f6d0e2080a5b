"""`/tokenize`, `/detokenize`, `/tokenizer_info` and `/version` on the wire, as vLLM has them."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from verse_server.protocol.chat import ChatCompletionMessageParam
from verse_server.protocol.shared import RequestStruct, TokenId, Unsupported


class TokenizeRequest(RequestStruct, frozen=True):
    """A text or a conversation; exactly one of `prompt` and `messages`."""

    model: str | None = None
    """The base if left out; an adapter has a prompt format of its own."""
    prompt: str | None = None
    messages: Annotated[list[ChatCompletionMessageParam], Meta(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    """What the tokenizer begins a `prompt` with; true if left out. Not for `messages`."""
    add_generation_prompt: bool | None = None
    """Of `messages`: open an answer at the end; true if left out."""
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None
    chat_template: Unsupported = None
    mm_processor_kwargs: Unsupported = None
    tools: Unsupported = None


class TokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Its tokens."""

    count: int
    max_model_len: int
    """The context of the base."""
    tokens: tuple[int, ...]
    token_strs: tuple[str, ...] | None = None
    """With `return_token_strs`: what the tokenizer calls each."""


class DetokenizeRequest(RequestStruct, frozen=True):
    """Tokens to be read."""

    tokens: Annotated[list[TokenId], Meta(max_length=2**20)]
    model: str | None = None


class DetokenizeResponse(msgspec.Struct, frozen=True):
    """The text that they spell."""

    prompt: str


class TokenizerInfoResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The base's tokenizer, for those who encode texts themselves."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None
    """In Jinja."""


class VersionResponse(msgspec.Struct, frozen=True):
    """Of the server."""

    version: str
