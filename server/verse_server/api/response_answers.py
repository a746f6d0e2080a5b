"""A chat's answer as a response: one body, or the events that tell how it grows.

`ChatAnswers` and `ToolAnswers` know how a text becomes an answer, so what they would send is read
here.
"""

import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec
from msgspec import UNSET

from verse_server.api.answering import ChatAnswers
from verse_server.api.errors import RequestError, translate
from verse_server.api.response_input import new_id, renamed
from verse_server.engine.errors import InvalidRequestError
from verse_server.engine.types import GenerationRequest
from verse_server.protocol.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatCompletionTokenLogprob,
    ChoiceLogprobs,
    ChunkChoice,
    ResponseFormatText,
)
from verse_server.protocol.response_events import (
    NumberedEvent,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseCreatedEvent,
    ResponseErrorEvent,
    ResponseFailedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseIncompleteEvent,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
)
from verse_server.protocol.responses import (
    CreateResponse,
    IncompleteDetails,
    InputTokensDetails,
    OutputItem,
    Response,
    ResponseError,
    ResponseFunctionToolCall,
    ResponseMessage,
    ResponseOutputText,
    ResponseReasoning,
    ResponseTextConfig,
    ResponseUsage,
)
from verse_server.protocol.shared import CompletionUsage
from verse_server.state.errors import StateError

_ERROR_CODES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}

_log = logging.getLogger(__name__)


class ResponseAnswers:
    """The answer to one `CreateResponse`; made for one pass over it."""

    def __init__(
        self,
        request: CreateResponse,
        chat: ChatCompletionRequest,
        row: GenerationRequest,
        answers: ChatAnswers,
        save: Callable[[Response], Awaitable[None]] | None,
    ) -> None:
        self._request = request
        self._chat = chat
        self._row = row
        self._answers = answers
        self._save = save

    async def records(self) -> AsyncGenerator[msgspec.Struct, None]:
        """What to send; closing this closes what runs.

        Raises, before anything was sent:
            RequestError, EngineError: as `Engine.generate`.
        """
        records = self._answers.records(self._chat)
        answer = self._as_events(records) if self._request.stream else self._all_at_once(records)
        async with aclosing(answer), aclosing(records):
            try:
                async for record in answer:
                    yield record
            except (RequestError, InvalidRequestError) as error:
                raise renamed(error) from None

    async def _all_at_once(
        self, records: AsyncGenerator[msgspec.Struct, None]
    ) -> AsyncGenerator[msgspec.Struct, None]:
        whole = cast(ChatCompletion, await anext(records))
        choice = whole.choices[0]
        pieces = _Items()
        for call in choice.message.tool_calls or ():
            pieces.add_call(call.id, call.function.name, call.function.arguments)
        text = choice.message.content
        if text or not pieces.finished:
            pieces.add_text(text or "", _entries(choice.logprobs))
        begun = self._begun(whole.created, whole.system_fingerprint)
        yield await self._stored(
            _finished(begun, pieces.finished, whole.usage, choice.finish_reason)
        )

    async def _as_events(
        self, records: AsyncGenerator[msgspec.Struct, None]
    ) -> AsyncGenerator[msgspec.Struct, None]:
        # What is refused before the first token is an HTTP error, as in a chat.
        chunk = cast(ChatCompletionChunk, await anext(records))
        begun = self._begun(chunk.created, chunk.system_fingerprint)
        events = _Events()
        yield events.numbered(ResponseCreatedEvent, response=begun)
        yield events.numbered(ResponseInProgressEvent, response=begun)
        try:
            while not chunk.usage:
                for event in events.of(chunk):
                    yield event
                chunk = cast(ChatCompletionChunk, await anext(records))
            for event in events.at_end():
                yield event
            ended = _finished(begun, events.finished, chunk.usage, events.finish_reason)
            ended = await self._stored(ended)
            is_whole = ended.status == "completed"
            last = ResponseCompletedEvent if is_whole else ResponseIncompleteEvent
            yield events.numbered(last, response=ended)
        except Exception as error:  # noqa: BLE001  (the status is sent: this is its only way out)
            failure = translate(error)
            code: Any = _ERROR_CODES.get(failure.status, "server_error")
            cause = ResponseError(code, failure.message)
            failed = msgspec.structs.replace(
                begun, status="failed", error=cause, output=tuple(events.finished)
            )
            yield events.numbered(ResponseFailedEvent, response=failed)
            yield events.numbered(
                ResponseErrorEvent,
                code=failure.code,
                message=failure.message,
                param=failure.param,
                error=failure.body.error,
            )

    def _begun(self, created_at: int, fingerprint: str) -> Response:
        """The response before its first item."""
        request, sampling = self._request, self._row.sampling
        text = request.text or ResponseTextConfig()
        return Response(
            id=new_id("resp"),
            created_at=created_at,
            status="in_progress",
            model=self._row.target.model,
            system_fingerprint=fingerprint,
            instructions=request.instructions,
            previous_response_id=request.previous_response_id,
            store=self._save is not None,
            text=msgspec.structs.replace(text, format=text.format or ResponseFormatText()),
            max_output_tokens=request.max_output_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_logprobs=request.top_logprobs or 0,
            tools=tuple(request.tools or ()),
            tool_choice=request.tool_choice or "auto",
            parallel_tool_calls=request.parallel_tool_calls is not False,
            reasoning=request.reasoning or ResponseReasoning(),
            metadata=request.metadata or {},
            user=UNSET if request.user is None else request.user,
        )

    async def _stored(self, response: Response) -> Response:
        """The response as it is stored, and so as it is sent.

        A full disk takes no answer from anybody; the response says that it is not stored.
        """
        if self._save is None:
            return response
        try:
            await self._save(response)
        except (StateError, sqlite3.Error) as error:
            _log.warning("%s is not stored: %s", response.id, error)
            return msgspec.structs.replace(response, store=False)
        return response


def _finished(
    begun: Response,
    output: Sequence[OutputItem],
    usage: CompletionUsage,
    finish_reason: str | None,
) -> Response:
    is_cut = finish_reason == "length"
    items = [*output]
    if is_cut:
        items[-1] = msgspec.structs.replace(items[-1], status="incomplete")
    cached = usage.prompt_tokens_details.cached_tokens
    return msgspec.structs.replace(
        begun,
        status="incomplete" if is_cut else "completed",
        incomplete_details=IncompleteDetails("max_output_tokens") if is_cut else None,
        completed_at=None if is_cut else int(time.time()),
        output=tuple(items),
        usage=ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=cached),
            output_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
        ),
    )


def _entries(logprobs: ChoiceLogprobs | None) -> tuple[ChatCompletionTokenLogprob, ...]:
    return () if logprobs is None else logprobs.content


class _Items:
    """The items of an answer that are finished."""

    def __init__(self) -> None:
        self.finished: list[OutputItem] = []

    def add_call(self, call_id: str, name: str, arguments: str) -> None:
        self.finished.append(
            ResponseFunctionToolCall(
                id=new_id("fc"),
                call_id=call_id,
                name=name,
                arguments=arguments,
                status="completed",
            )
        )

    def add_text(self, text: str, logprobs: tuple[ChatCompletionTokenLogprob, ...]) -> None:
        """What is said stands before what is called."""
        self.finished.insert(0, _message(new_id("msg"), text, logprobs))


def _message(
    item_id: str, text: str, logprobs: tuple[ChatCompletionTokenLogprob, ...]
) -> ResponseMessage:
    part = ResponseOutputText(text=text, logprobs=logprobs)
    return ResponseMessage(id=item_id, role="assistant", status="completed", content=(part,))


class _Events:
    """Turns the pieces of a chat's stream into numbered events, item by item."""

    def __init__(self) -> None:
        self.finished: list[OutputItem] = []
        self.finish_reason: str | None = None
        self._num_events = 0
        self._open: OutputItem | None = None
        self._pieces: list[str] = []
        self._logprobs: list[ChatCompletionTokenLogprob] = []

    def numbered(self, kind: Callable[..., NumberedEvent], **fields: Any) -> NumberedEvent:
        """An event with the next number."""
        event = kind(sequence_number=self._num_events, **fields)
        self._num_events += 1
        return event

    def of(self, chunk: ChatCompletionChunk) -> Iterator[NumberedEvent]:
        """What a piece of the chat's stream tells."""
        for choice in chunk.choices:
            self.finish_reason = choice.finish_reason or self.finish_reason
            yield from self._of_text(choice)
            for call in choice.delta.tool_calls or ():
                if call.id is not UNSET:
                    yield from self._close()
                    name = cast(str, call.function.name)
                    yield from self._begin(_call(new_id("fc"), call.id, name))
                if call.function.arguments:
                    self._pieces.append(call.function.arguments)
                    yield self._of_item(
                        ResponseFunctionCallArgumentsDeltaEvent, delta=call.function.arguments
                    )

    def at_end(self) -> Iterator[NumberedEvent]:
        """What is left to tell; an answer without anything in it is an empty text."""
        if self._open is None and not self.finished:
            yield from self._begin_text()
        yield from self._close()

    def _of_text(self, choice: ChunkChoice) -> Iterator[NumberedEvent]:
        text, logprobs = choice.delta.content or "", _entries(choice.logprobs)
        if choice.delta.tool_calls or not (text or logprobs):
            return
        if not isinstance(self._open, ResponseMessage):
            if not text:  # tokens of the end, behind a call
                return
            yield from self._close()
            yield from self._begin_text()
        self._pieces.append(text)
        self._logprobs += logprobs
        yield self._of_item(ResponseTextDeltaEvent, delta=text, logprobs=logprobs)

    def _begin_text(self) -> Iterator[NumberedEvent]:
        empty = ResponseMessage(
            id=new_id("msg"), role="assistant", status="in_progress", content=()
        )
        yield from self._begin(empty)
        yield self._of_item(ResponseContentPartAddedEvent, part=ResponseOutputText(text=""))

    def _begin(self, item: OutputItem) -> Iterator[NumberedEvent]:
        self._open, self._pieces, self._logprobs = item, [], []
        yield self.numbered(
            ResponseOutputItemAddedEvent, output_index=len(self.finished), item=item
        )

    def _close(self) -> Iterator[NumberedEvent]:
        """Finish the item that is open, if one is."""
        item, text, logprobs = self._open, "".join(self._pieces), tuple(self._logprobs)
        match item:
            case None:
                return
            case ResponseMessage():
                whole = _message(item.id, text, logprobs)
                yield self._of_item(ResponseTextDoneEvent, text=text, logprobs=logprobs)
                yield self._of_item(ResponseContentPartDoneEvent, part=whole.content[0])
            case ResponseFunctionToolCall():
                whole = msgspec.structs.replace(item, arguments=text, status="completed")
                yield self._of_item(
                    ResponseFunctionCallArgumentsDoneEvent, name=item.name, arguments=text
                )
        if self.finish_reason == "length":
            whole = msgspec.structs.replace(whole, status="incomplete")
        yield self.numbered(
            ResponseOutputItemDoneEvent, output_index=len(self.finished), item=whole
        )
        self.finished.append(whole)
        self._open = None

    def _of_item(self, kind: Callable[..., NumberedEvent], **fields: Any) -> NumberedEvent:
        assert self._open is not None
        return self.numbered(kind, item_id=self._open.id, output_index=len(self.finished), **fields)


def _call(item_id: str, call_id: str, name: str) -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(
        id=item_id, call_id=call_id, name=name, arguments="", status="in_progress"
    )
