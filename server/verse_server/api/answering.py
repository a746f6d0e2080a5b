"""Rows on their way from the engine to an answer: run together, counted, noted for the log."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from verse_server.api.metrics import counted
from verse_server.api.request_log import current_request
from verse_server.engine.errors import GenerationFailedError
from verse_server.engine.interface import Engine
from verse_server.engine.types import GenerationChunk, GenerationRequest

_MAX_WAITING = 256


async def chunks_of(
    rows: Sequence[GenerationRequest], engine: Engine
) -> AsyncGenerator[GenerationChunk, None]:
    """The chunks of all requests as they come; closing this closes them all.

    `index` counts through: the answers of the first request, then those of the second.

    Raises:
        GenerationFailedError: an answer ended without a finish reason.
        EngineError: as `Engine.generate`; the other requests are closed.
    """
    note(rows, 0)
    num_tokens: dict[int, int] = {}
    num_left = sum(row.n for row in rows)
    async with aclosing(_together(rows, engine)) as chunks:
        async for chunk in chunks:
            num_tokens[chunk.index] = chunk.completion_tokens
            note(rows, sum(num_tokens.values()))
            num_left -= chunk.finish_reason is not None
            yield chunk
    if num_left:
        raise GenerationFailedError(
            "The engine stopped before the poem was finished; send it again."
        )


def note(rows: Sequence[GenerationRequest], completion_tokens: int) -> None:
    """Tell the log line how far the request has come."""
    record = current_request()
    record.model = rows[0].target.model
    record.prompt_tokens = sum(len(row.prompt) for row in rows)
    record.completion_tokens = completion_tokens


async def _together(
    rows: Sequence[GenerationRequest], engine: Engine
) -> AsyncGenerator[GenerationChunk, None]:
    if len(rows) == 1:
        async with aclosing(counted(rows[0], engine.generate(rows[0]))) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    # Bounded, so that a slow reader is as slow for the engine as with one request.
    events: asyncio.Queue[GenerationChunk | Exception | None] = asyncio.Queue(_MAX_WAITING)
    tasks: list[asyncio.Task[None]] = []
    first = 0
    for row in rows:
        tasks.append(asyncio.create_task(_forward(row, engine, first, events)))
        first += row.n
    try:
        num_left = len(rows)
        while num_left:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            if event is None:
                num_left -= 1
            else:
                yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(
    row: GenerationRequest,
    engine: Engine,
    first: int,
    events: "asyncio.Queue[GenerationChunk | Exception | None]",
) -> None:
    """Put one request's chunks into a queue, then None, or what went wrong."""
    try:
        async with aclosing(counted(row, engine.generate(row))) as chunks:
            async for chunk in chunks:
                await events.put(msgspec.structs.replace(chunk, index=first + chunk.index))
        await events.put(None)
    except Exception as error:  # noqa: BLE001  (raised where the queue is read)
        await events.put(error)
