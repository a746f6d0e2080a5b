"""Chunks on their way from the engine thread to one reader, who may be slow.

The engine thread makes one call per step and event loop. What one answer has to say is put together
while nobody fetches it, so a reader who is behind finds fewer and longer chunks, and costs no more
memory than the text itself. One who fetches nothing for long while more comes in loses the answer,
or its row would be kept from others.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from verse_server.engine.errors import EngineError, SlowClientError
from verse_server.engine.types import GenerationChunk, TokenLogprob

Event = GenerationChunk | EngineError


class _Pending:
    """Chunks of one answer that nobody has fetched yet."""

    def __init__(self, chunk: GenerationChunk) -> None:
        self._first = self._last = chunk
        self._texts = [chunk.text]
        self._ids = [*chunk.token_ids]
        self._logprobs: list[TokenLogprob] = [*chunk.logprobs]

    def add(self, chunk: GenerationChunk) -> None:
        self._last = chunk
        self._texts.append(chunk.text)
        self._ids += chunk.token_ids
        self._logprobs += chunk.logprobs

    def together(self) -> GenerationChunk:
        if len(self._texts) == 1:
            return self._last
        return msgspec.structs.replace(
            self._last,
            text="".join(self._texts),
            token_ids=tuple(self._ids),
            logprobs=tuple(self._logprobs),
            scored_prompt=self._first.scored_prompt,
        )


class Mailbox:
    """Of one request. Made, filled and read on the reader's event loop."""

    def __init__(
        self, slow_seconds: float = math.inf, on_slow: Callable[[], None] = lambda: None
    ) -> None:
        """Make an empty one.

        Args:
            slow_seconds: How long something may lie here unread while more comes in.
            on_slow: Called once it has; the reader gets a `SlowClientError` after what lies here.
        """
        self.loop = asyncio.get_running_loop()
        self._slow_seconds = slow_seconds
        self._on_slow = on_slow
        self._unread_since: float | None = None
        self._pending: dict[int, _Pending] = {}
        self._error: EngineError | None = None
        self._filled = asyncio.Event()

    def put(self, event: Event) -> None:
        """Add a chunk, or the error that ends all."""
        if isinstance(self._error, SlowClientError):
            return  # it is over; what was on its way is not written any more
        now = self.loop.time()
        if self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since > self._slow_seconds:
            self._error = SlowClientError(self._slow_seconds)
            self._on_slow()
            return
        if isinstance(event, EngineError):
            self._error = event
        elif pending := self._pending.get(event.index):
            pending.add(event)
        else:
            self._pending[event.index] = _Pending(event)
        self._filled.set()

    async def get(self) -> Event:
        """What came first, or next; an error after the chunks before it."""
        await self._filled.wait()
        self._unread_since = None
        if self._pending:
            event: Event = self._pending.pop(next(iter(self._pending))).together()
        else:
            assert self._error is not None
            event, self._error = self._error, None
        if not self._pending and self._error is None:
            self._filled.clear()
        return event


_log = logging.getLogger(__name__)


@dataclass
class Outbox:
    """Gathers the events of one step, by the loop they go to."""

    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Mailbox, Event]]] = field(
        default_factory=dict[asyncio.AbstractEventLoop, list[tuple[Mailbox, Event]]]
    )

    def add(self, mailbox: Mailbox, event: Event) -> None:
        """Put an event with the others of its loop."""
        self.by_loop.setdefault(mailbox.loop, []).append((mailbox, event))

    def send(self) -> None:
        """Deliver what is there, in one call per loop."""
        for loop, events in self.by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # the loop is closed: nobody waits there any more
                _log.debug("dropped %d events of a closed loop", len(events))
        self.by_loop.clear()


def _deliver(events: list[tuple[Mailbox, Event]]) -> None:
    for mailbox, event in events:
        mailbox.put(event)
