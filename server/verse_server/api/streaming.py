"""Answers to clients that may go away: in one body, or as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import msgspec
from litestar.enums import MediaType
from litestar.response import Response
from litestar.response.base import ASGIResponse
from litestar.types import HTTPResponseBodyEvent, Receive, Scope, Send

from verse_server.api.errors import ClientDisconnectedError, translate

DONE = b"data: [DONE]\n\n"

_HEADERS = {
    "cache-control": "no-cache",
    # nginx would hold the text back otherwise.
    "x-accel-buffering": "no",
}
_MAX_WAITING = 256
"""Items of `merged`. Bounded, so that a slow reader is as slow for all sources as for one."""
_encode = msgspec.json.Encoder().encode

Item = TypeVar("Item", bound=msgspec.Struct)


class Reply(Response[Any]):
    """Sends records as they come; stops and closes their source when the client goes away.

    A reply that is no stream is the first record alone, as JSON. A stream has one event for each
    record, named after the record's tag if it has one, then `[DONE]`. An error before the first
    record is raised, so it becomes a plain HTTP error; a later one becomes a last event
    `{"error": ...}` with no `[DONE]` after it.
    """

    def __init__(
        self,
        records: AsyncGenerator[msgspec.Struct, None],
        *,
        is_stream: bool | None,
        last: bytes = DONE,
    ) -> None:
        super().__init__(None)
        self._records = records
        self._is_stream = bool(is_stream)
        self._last = last

    def to_asgi_response(self, *_args: Any, **_kwargs: Any) -> ASGIResponse:
        """Called by Litestar."""
        return _ASGIReply(self._records, self._is_stream, self._last)


class _ASGIReply(ASGIResponse):
    _should_set_content_length = False

    def __init__(
        self, records: AsyncGenerator[msgspec.Struct, None], is_stream: bool, last: bytes
    ) -> None:
        super().__init__(media_type="text/event-stream", headers=_HEADERS)
        self._records = records
        self._is_stream = is_stream
        self._last = last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._records) as records:
            async with until_disconnect(receive):
                first = await anext(records)
            if not self._is_stream:
                whole = ASGIResponse(body=_encode(first), media_type=MediaType.JSON)
                await whole(scope, receive, send)
                return
            await self.start_response(send)
            try:
                async with until_disconnect(receive):
                    await send(_body(_event(first)))
                    async for record in records:
                        await send(_body(_event(record)))
                last = self._last
            except Exception as error:  # noqa: BLE001  (the status is sent: this is its only way out)
                last = _event(translate(error).body)
        await send(_body(last, more_body=False))


@asynccontextmanager
async def until_disconnect(receive: Receive) -> AsyncGenerator[None, None]:
    """Run a block, and cancel it if the client goes away meanwhile. The body must have been read.

    Costs nothing per record: one task waits for the connection to close.

    Raises:
        ClientDisconnectedError: the block was cancelled for that reason.
    """
    work = asyncio.current_task()
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        if work is not None:
            work.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        # As in asyncio.timeout: ours only if nobody else asked for a cancellation too.
        if gone and work is not None and work.uncancel() == 0:
            raise ClientDisconnectedError from None
        raise
    finally:
        watcher.cancel()


def _event(record: msgspec.Struct) -> bytes:
    """JSON holds no raw line break, so a single `data` line always does."""
    tag = record.__struct_config__.tag
    name = b"" if tag is None else f"event: {tag}\n".encode()
    return name + b"data: " + _encode(record) + b"\n\n"


def _body(data: bytes, *, more_body: bool = True) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": data, "more_body": more_body}


async def merged(sources: Iterable[AsyncGenerator[Item, None]]) -> AsyncGenerator[Item, None]:
    """What several sources give, in the order it comes; closing this closes them all.

    Raises:
        Exception: the first that one of them raised; the others are closed.
    """
    queue: asyncio.Queue[Item | Exception | None] = asyncio.Queue(_MAX_WAITING)
    tasks = [asyncio.create_task(_forward(source, queue)) for source in sources]
    try:
        num_left = len(tasks)
        while num_left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(
    source: AsyncGenerator[Item, None], queue: "asyncio.Queue[Item | Exception | None]"
) -> None:
    """Put what a source gives into a queue, then None, or what went wrong."""
    try:
        async with aclosing(source) as items:
            async for item in items:
                await queue.put(item)
        await queue.put(None)
    except Exception as error:  # noqa: BLE001  (raised where the queue is read)
        await queue.put(error)
