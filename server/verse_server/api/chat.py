"""`POST /v1/chat/completions`: decode, call the engine, encode."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from litestar import Controller, Request, Response, post
from litestar.params import JSONBody
from msgspec import UNSET

from verse_server.api.admission import Admission, read_admission
from verse_server.api.answering import chunks_of, note
from verse_server.api.convert import (
    Answer,
    choice,
    chunk_choices,
    engine_messages,
    generation_request,
    model_name,
)
from verse_server.api.dependencies import EngineDependency, error_responses
from verse_server.api.disconnect import until_disconnect
from verse_server.api.encoding import encoded
from verse_server.api.openapi import ChatOperation
from verse_server.api.sse import EventStream, frame
from verse_server.api.strict_body import StrictChatBody
from verse_server.engine.interface import Engine
from verse_server.engine.types import GenerationChunk, GenerationRequest
from verse_server.protocol.chat import ChatCompletion, ChatCompletionRequest


class ChatController(Controller):
    """Poems, whole or as they are written."""

    path = "/chat/completions"
    tags = ("chat",)

    @post(
        status_code=200,
        dto=StrictChatBody,
        return_dto=None,
        operation_class=ChatOperation,
        responses=error_responses(400, 401, 404, 409, 413, 429, 503, 504),
    )
    async def create(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[ChatCompletionRequest],
        engine: EngineDependency,
    ) -> Response[ChatCompletion]:
        """Continue a conversation; with `stream`, as events that hold a `ChatCompletionChunk`."""
        async with until_disconnect(request.receive):
            row = await _row(data, engine, read_admission(request, data.user))
            note([row], 0)
            if not data.stream:
                return Response(await _completion(row, engine))
        options = data.stream_options
        include_usage = options is not None and bool(options.include_usage)
        return EventStream(_frames(row, engine, include_usage))


async def _row(
    data: ChatCompletionRequest, engine: Engine, admission: Admission
) -> GenerationRequest:
    name, messages = model_name(data, engine.base), engine_messages(data.messages)
    target, prompt = await encoded(engine, name, messages)
    return generation_request(data, target, prompt, engine.base, admission)


async def _completion(row: GenerationRequest, engine: Engine) -> ChatCompletion:
    answers: list[list[GenerationChunk]] = [[] for _ in range(row.n)]
    async with aclosing(chunks_of([row], engine)) as chunks:
        async for chunk in chunks:
            answers[chunk.index].append(chunk)
    with_logprobs = row.num_top_logprobs is not None
    choices = [choice(answer, with_logprobs) for answer in answers]
    num_tokens = sum(answer[-1].completion_tokens for answer in answers)
    return Answer.to(row, answers[0][0], engine.base).completion(choices, num_tokens)


async def _frames(
    row: GenerationRequest, engine: Engine, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    usage = None if include_usage else UNSET
    with_logprobs = row.num_top_logprobs is not None
    answer: Answer | None = None
    num_tokens: dict[int, int] = {}
    async with aclosing(chunks_of([row], engine)) as chunks:
        async for chunk in chunks:
            # The head of the response waits for this: until then an error can still be plain HTTP.
            answer = answer or Answer.to(row, chunk, engine.base)
            choices = chunk_choices(chunk, chunk.index not in num_tokens, with_logprobs)
            num_tokens[chunk.index] = chunk.completion_tokens
            if data := b"".join(frame(answer.chunk(part, usage)) for part in choices):
                yield data
    if include_usage and answer is not None:
        yield frame(answer.usage_chunk(sum(num_tokens.values())))
