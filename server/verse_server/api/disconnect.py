"""Work for a client that has gone away is stopped at once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from litestar.types import Receive


class ClientDisconnectedError(Exception):
    """The client closed its connection; there is nobody to answer."""


@asynccontextmanager
async def until_disconnect(receive: Receive) -> AsyncGenerator[None, None]:
    """Run a block, and cancel it if the client goes away meanwhile. The body must have been read.

    Costs nothing per chunk: one task waits for the connection to close.

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
