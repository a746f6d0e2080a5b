"""`POST /v1/columns`: many conversations answered over one connection, each by its own model.

A browser opens six connections to a server at most, so a page cannot ask for a dozen streams one by
one. What goes wrong with one column ends that column alone.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec
from litestar import Controller, Request, Response, post
from litestar.params import JSONBody

from verse_server.api.admission import Admission, read_admission
from verse_server.api.answering import ChatAnswers
from verse_server.api.convert import chat_rows
from verse_server.api.decoding import StrictColumnsBody
from verse_server.api.errors import translate
from verse_server.api.openapi import ColumnsOperation, EngineDependency, error_responses
from verse_server.api.streaming import Reply
from verse_server.api.tool_answers import ToolAnswers
from verse_server.api.tools import tool_use
from verse_server.engine.interface import Engine
from verse_server.protocol.chat import ChatCompletionChunk, ChatCompletionRequest
from verse_server.protocol.page import ColumnEvent, ColumnsRequest

_MAX_WAITING = 256


class ColumnStreams:
    """The answers to several conversations as one stream of events, in the order they come."""

    def __init__(
        self, columns: Sequence[ChatCompletionRequest], engine: Engine, admission: Admission
    ) -> None:
        self._columns = columns
        self._engine = engine
        self._admission = admission

    async def events(self) -> AsyncGenerator[msgspec.Struct, None]:
        """What to send; closing this closes what runs."""
        # Bounded, so that a slow reader is as slow for the engine as with one stream.
        queue: asyncio.Queue[ColumnEvent | None] = asyncio.Queue(_MAX_WAITING)
        tasks = [
            asyncio.create_task(self._forward(number, column, queue))
            for number, column in enumerate(self._columns)
        ]
        try:
            num_left = len(tasks)
            while num_left:
                event = await queue.get()
                if event is None:
                    num_left -= 1
                else:
                    yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _forward(
        self, number: int, column: ChatCompletionRequest, queue: asyncio.Queue[ColumnEvent | None]
    ) -> None:
        """Put the chunks of one column into the queue, then None."""
        try:
            rows = await chat_rows(column, self._engine, self._admission)
            use = tool_use(column)
            answers = (
                ChatAnswers(rows, self._engine)
                if use is None
                else ToolAnswers(rows, self._engine, use)
            )
            request = msgspec.structs.replace(column, stream=True)
            async with aclosing(answers.records(request)) as records:
                async for record in records:
                    chunk = cast(ChatCompletionChunk, record)
                    await queue.put(ColumnEvent(column=number, chunk=chunk))
        except Exception as error:  # noqa: BLE001  (the status is sent: this is its only way out)
            await queue.put(ColumnEvent(column=number, error=translate(error).body.error))
        await queue.put(None)


class ColumnsController(Controller):
    """Poems side by side."""

    path = "/columns"
    tags = ("chat",)

    @post(
        status_code=200,
        dto=StrictColumnsBody,
        return_dto=None,
        operation_class=ColumnsOperation,
        responses=error_responses(400, 401, 413, 503),
    )
    async def create(
        self,
        request: Request[Any, Any, Any],
        data: JSONBody[ColumnsRequest],
        engine: EngineDependency,
    ) -> Response[ColumnEvent]:
        """Answer all columns at once, always as events; each names its column."""
        streams = ColumnStreams(data.columns, engine, read_admission(request))
        return Reply(streams.events(), is_stream=True)
