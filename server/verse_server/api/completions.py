"""`POST /v1/completions`: texts continued as they are, several at once."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from litestar import Controller, Request, Response, post
from litestar.params import JSONBody
from msgspec import UNSET

from verse_server.api.admission import read_admission
from verse_server.api.answering import chunks_of, note
from verse_server.api.convert import model_name, usage
from verse_server.api.convert_completions import (
    ChoiceText,
    CompletionHead,
    completion_rows,
    prompts_of,
)
from verse_server.api.dependencies import EngineDependency, error_responses
from verse_server.api.disconnect import until_disconnect
from verse_server.api.encoding import encoded_texts
from verse_server.api.openapi import CompletionOperation
from verse_server.api.sse import EventStream, frame
from verse_server.api.strict_body import StrictCompletionBody
from verse_server.engine.interface import Engine
from verse_server.engine.types import GenerationChunk, GenerationRequest
from verse_server.protocol.completions import Completion, CompletionRequest
from verse_server.protocol.usage import CompletionUsage


class CompletionsController(Controller):
    """Continuations without a conversation around them."""

    path = "/completions"
    tags = ("completions",)

    @post(
        status_code=200,
        dto=StrictCompletionBody,
        return_dto=None,
        operation_class=CompletionOperation,
        responses=error_responses(400, 401, 404, 409, 413, 429, 503, 504),
    )
    async def create(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[CompletionRequest],
        engine: EngineDependency,
    ) -> Response[Completion]:
        """Continue texts; with `stream`, as events of the same shape."""
        async with until_disconnect(request.receive):
            admission = read_admission(request, data.user)
            prompts = prompts_of(data, engine.base)
            name = model_name(data, engine.base)
            target, token_ids = await encoded_texts(engine, name, prompts)
            rows = completion_rows(data, target, token_ids, engine.base, admission)
            note(rows, 0)
            echoes = [
                "" if not data.echo else p if isinstance(p, str) else engine.decode(p)
                for p in prompts
            ]
            if not data.stream:
                return Response(await _completion(rows, echoes, engine))
        options = data.stream_options
        include_usage = options is not None and bool(options.include_usage)
        return EventStream(_frames(rows, echoes, engine, include_usage))


def _texts(rows: Sequence[GenerationRequest], echoes: Sequence[str]) -> list[ChoiceText]:
    """One for each choice: prompt by prompt, each with its `n` continuations."""
    choices = [(row, echo) for row, echo in zip(rows, echoes, strict=True) for _ in range(row.n)]
    return [
        ChoiceText(index, echo, row.num_top_logprobs is not None)
        for index, (row, echo) in enumerate(choices)
    ]


def _usage(rows: Sequence[GenerationRequest], last: Sequence[GenerationChunk]) -> CompletionUsage:
    """Each prompt counts once, however many continuations it has; all `n` are the same."""
    return usage(
        prompt_tokens=sum(len(row.prompt) for row in rows),
        completion_tokens=sum(chunk.completion_tokens for chunk in last),
        cached_tokens=sum(chunk.cached_tokens for chunk in last[:: rows[0].n]),
    )


async def _completion(
    rows: Sequence[GenerationRequest], echoes: Sequence[str], engine: Engine
) -> Completion:
    texts = _texts(rows, echoes)
    answers: list[list[GenerationChunk]] = [[] for _ in texts]
    async with aclosing(chunks_of(rows, engine)) as chunks:
        async for chunk in chunks:
            answers[chunk.index].append(chunk)
    head = CompletionHead.to(answers[0][0].target, engine.base)
    choices = [text.piece(answer) for text, answer in zip(texts, answers, strict=True)]
    return head.completion(choices, _usage(rows, [answer[-1] for answer in answers]))


async def _frames(
    rows: Sequence[GenerationRequest], echoes: Sequence[str], engine: Engine, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    texts = _texts(rows, echoes)
    last: dict[int, GenerationChunk] = {}
    head: CompletionHead | None = None
    async with aclosing(chunks_of(rows, engine)) as chunks:
        async for chunk in chunks:
            # The head of the response waits for this: until then an error can still be plain HTTP.
            head = head or CompletionHead.to(chunk.target, engine.base)
            last[chunk.index] = chunk
            piece = texts[chunk.index].piece([chunk])
            yield frame(head.completion([piece], None if include_usage else UNSET))
    if include_usage and head is not None:
        in_order = [last[index] for index in sorted(last)]
        yield frame(head.completion((), _usage(rows, in_order)))
