"""`POST /v1/columns`: many conversations answered over one connection, each by its own model.

A browser opens six connections to a server at most, so a page cannot ask for a dozen streams one by
one. What goes wrong with one column ends that column alone.
"""

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
from verse_server.api.streaming import Reply, merged
from verse_server.api.tool_answers import ToolAnswers
from verse_server.api.tools import tool_use
from verse_server.engine.interface import Engine
from verse_server.protocol.chat import ChatCompletionChunk, ChatCompletionRequest
from verse_server.protocol.page import ColumnEvent, ColumnsRequest


class ColumnStreams:
    """The answers to several conversations as one stream of events, in the order they come."""

    def __init__(
        self, columns: Sequence[ChatCompletionRequest], engine: Engine, admission: Admission
    ) -> None:
        self._columns = columns
        self._engine = engine
        self._admission = admission

    def events(self) -> AsyncGenerator[ColumnEvent, None]:
        """What to send; closing this closes what runs."""
        return merged(self._column(number, each) for number, each in enumerate(self._columns))

    async def _column(
        self, number: int, column: ChatCompletionRequest
    ) -> AsyncGenerator[ColumnEvent, None]:
        """The chunks of one column."""
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
                    yield ColumnEvent(column=number, chunk=chunk)
        except Exception as error:  # noqa: BLE001  (the status is sent: this is its only way out)
            yield ColumnEvent(column=number, error=translate(error).body.error)


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
