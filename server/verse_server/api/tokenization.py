"""The base's tokenizer over HTTP, at vLLM's addresses, and the server's version."""

from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
from litestar import Controller, Request, post, route
from litestar.params import JSONBody

from verse.prompt import Tool
from verse_server.api.convert import checked_ids, encode_messages
from verse_server.api.decoding import StrictDetokenizeBody, StrictTokenizeBody
from verse_server.api.encoding_pool import encode_beside_the_loop
from verse_server.api.errors import RequestError
from verse_server.api.openapi import READ, EngineDependency, error_responses
from verse_server.api.request_params import frame_options
from verse_server.api.streaming import until_disconnect
from verse_server.api.tools import message_of, shows_tools
from verse_server.engine.interface import Engine
from verse_server.protocol.models import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfoResponse,
    VersionResponse,
)


class TokenizerController(Controller):
    """What texts cost, and for harnesses that encode them elsewhere."""

    tags = ("tokenizer",)

    @post(
        "/tokenize",
        status_code=200,
        dto=StrictTokenizeBody,
        return_dto=None,
        responses=error_responses(400, 401, 404, 409, 413),
    )
    async def tokenize(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[TokenizeRequest],
        engine: EngineDependency,
    ) -> TokenizeResponse:
        """A text's tokens, or a conversation's in the format of the base or of an adapter."""
        async with until_disconnect(request.receive):
            tokens = await _tokens(data, engine)
            names: list[str] | None = None
            if data.return_token_strs:
                name_all = partial(engine.token_names, tokens)
                names = await encode_beside_the_loop(name_all, len(tokens))
        return TokenizeResponse(
            count=len(tokens),
            max_model_len=engine.base.context_length,
            tokens=tokens,
            token_strs=None if names is None else tuple(names),
        )

    @post(
        "/detokenize",
        status_code=200,
        dto=StrictDetokenizeBody,
        return_dto=None,
        responses=error_responses(400, 401, 404, 409, 413),
    )
    async def detokenize(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[DetokenizeRequest],
        engine: EngineDependency,
    ) -> DetokenizeResponse:
        """The text that tokens spell."""
        async with until_disconnect(request.receive):
            if data.model is not None:
                await engine.target(data.model)
            tokens = checked_ids(data.tokens, engine.base, "tokens")
            text = await encode_beside_the_loop(partial(engine.decode, tokens), len(tokens))
        return DetokenizeResponse(text)

    @route(
        "/tokenizer_info",
        http_method=READ,
        sync_to_thread=False,
        responses=error_responses(401),
    )
    def info(self, engine: EngineDependency) -> TokenizerInfoResponse:
        """Its special tokens and the base's chat template."""
        return msgspec.convert(engine.tokenizer, TokenizerInfoResponse, from_attributes=True)


async def _tokens(data: TokenizeRequest, engine: Engine) -> tuple[int, ...]:
    if (data.prompt is None) == (data.messages is None):
        raise RequestError("Send either 'prompt' or 'messages'.", param="prompt")
    target = await engine.target(data.model or engine.base.id)
    if data.messages is not None:
        if data.add_special_tokens:
            raise RequestError(
                "'add_special_tokens' is for 'prompt': the template says which tokens stand around "
                "messages; leave it out.",
                param="add_special_tokens",
            )
        messages = [message_of(turn) for turn in data.messages]
        tools: list[Tool] | None = [] if shows_tools(engine.base, target) else None
        return await encode_messages(engine, target, messages, tools, frame_options(data))
    text = data.prompt or ""
    tokenize = partial(
        engine.tokenize, text, add_special_tokens=data.add_special_tokens is not False
    )
    return await encode_beside_the_loop(tokenize, len(text))


class VersionController(Controller):
    """For clients that look who answers."""

    path = "/version"
    tags = ("health",)

    @route(http_method=READ, sync_to_thread=False, responses=error_responses())
    def show(self) -> VersionResponse:
        """The server's own version."""
        return VersionResponse(version("verse-workshop"))
