"""`POST /v1/chat/completions` and `POST /v1/completions`: decode, call the engine, encode."""

from typing import Any

from litestar import Controller, Request, Response, post
from litestar.params import JSONBody

from verse_server.api.admission import read_admission
from verse_server.api.answering import ChatAnswers, CompletionAnswers
from verse_server.api.convert import chat_rows, completion_rows
from verse_server.api.decoding import StrictChatBody, StrictCompletionBody
from verse_server.api.openapi import (
    ChatOperation,
    CompletionOperation,
    EngineDependency,
    error_responses,
)
from verse_server.api.streaming import Reply, until_disconnect
from verse_server.api.tool_answers import ToolAnswers
from verse_server.api.tools import tool_use
from verse_server.protocol.chat import ChatCompletion, ChatCompletionRequest
from verse_server.protocol.completions import Completion, CompletionRequest

_ERRORS = error_responses(400, 401, 404, 409, 413, 429, 503, 504)


class ChatController(Controller):
    """Poems, whole or as they are written."""

    path = "/chat/completions"
    tags = ("chat",)

    @post(
        status_code=200,
        dto=StrictChatBody,
        return_dto=None,
        operation_class=ChatOperation,
        responses=_ERRORS,
    )
    async def create(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[ChatCompletionRequest],
        engine: EngineDependency,
    ) -> Response[ChatCompletion]:
        """Continue a conversation; with `stream`, as events that hold a `ChatCompletionChunk`."""
        async with until_disconnect(request.receive):
            rows = await chat_rows(data, engine, read_admission(request))
        use = tool_use(data)
        answers = ChatAnswers(rows, engine) if use is None else ToolAnswers(rows, engine, use)
        return Reply(answers.records(data), is_stream=data.stream)


class CompletionsController(Controller):
    """Continuations without a conversation around them."""

    path = "/completions"
    tags = ("completions",)

    @post(
        status_code=200,
        dto=StrictCompletionBody,
        return_dto=None,
        operation_class=CompletionOperation,
        responses=_ERRORS,
    )
    async def create(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[CompletionRequest],
        engine: EngineDependency,
    ) -> Response[Completion]:
        """Continue texts; with `stream`, as events of the same shape."""
        async with until_disconnect(request.receive):
            rows, echoes = await completion_rows(data, engine, read_admission(request))
        answers = CompletionAnswers(rows, echoes, engine)
        return Reply(answers.records(data), is_stream=data.stream)
