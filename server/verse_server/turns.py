"""Work that comes all at once is begun bit by bit, so that running streams get their turn between.

The event loop shares the interpreter with the thread of the model. 700 requests at the same moment,
or ten large bodies, would keep it for half a second and more. What a probe of `/health` needs is
never held back.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[Any]]
"""Of ASGI."""

_REQUEST_SECONDS = 0.003
_BYTE_SECONDS = 100e-9
"""What the event loop has to do for one request and for each byte of its body, with twice as much
time to spare for others: where processors are few, a busy loop makes steps of the model longer."""
_LARGE_BYTES = 15_000
"""Of a body that waits for its turn."""
_AT_ONCE_SECONDS = 40 * _REQUEST_SECONDS
"""So much may be begun at once: more usual requests than fill a batch."""


class Pace:
    """When the next piece of work may begin. Pure: the caller brings the time and waits."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def wait_seconds(self, now: float, at_once: float) -> float:
        """How long the next piece has to wait at `now`; not above 0 if it need not.

        Args:
            now: The time, in seconds.
            at_once: How much planned work may lie before it without making it wait.
        """
        return self._free_at - at_once - now

    def plan(self, now: float, seconds: float) -> None:
        """Take a piece in, which keeps others busy for so long, or waiting."""
        self._free_at = max(now, self._free_at) + seconds


class RequestTurns:
    """Lets requests in, and then their bodies, which are decoded on the event loop."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._door = asyncio.Lock()

    async def begin(self) -> None:
        """Wait until one more request may be answered."""
        await self._wait(_REQUEST_SECONDS, _AT_ONCE_SECONDS - _REQUEST_SECONDS)

    def paced(self, receive: Receive) -> Receive:
        """The same body, of which the last part waits for its turn if it is large."""
        num_bytes = 0

        async def receive_paced() -> Any:
            nonlocal num_bytes
            message = await receive()
            if message["type"] == "http.request":
                num_bytes += len(message["body"])
                if num_bytes > _LARGE_BYTES and not message["more_body"]:
                    await self._wait(num_bytes * _BYTE_SECONDS, 0.0)  # when nothing else is due
            return message

        return receive_paced

    async def _wait(self, seconds: float, at_once: float) -> None:
        now = asyncio.get_running_loop().time()
        wait = self._pace.wait_seconds(now, at_once)
        self._pace.plan(now, seconds)
        if wait > 0:
            await asyncio.sleep(wait)
            # One in each turn of the loop: when it is late, many have waited long enough.
            async with self._door:
                await asyncio.sleep(0)
