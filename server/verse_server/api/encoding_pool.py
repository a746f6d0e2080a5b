"""Threads beside the event loop, for what takes a while: encoding prompts.

Encoding a whole megabyte takes a second or more, and nobody should wait for another's: long texts
queue behind long texts only. Names are resolved elsewhere (`Engine.target`). Who goes away gives up
a turn that has not come, and work that has begun hears of it (`still_wanted`).
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

from verse_server.engine.interface import still_wanted

T = TypeVar("T")

LONG_CHARS = 16_384
"""Encoded in some 20 ms."""
NUM_SHORT_THREADS = 2

ENCODING_SHORT = ThreadPoolExecutor(max_workers=NUM_SHORT_THREADS, thread_name_prefix="encode")
ENCODING_LONG = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode-long")


async def encode_beside_the_loop(function: Callable[[], T], num_chars: int) -> T:
    """Run what encodes a text of so many characters."""
    return await _run(ENCODING_LONG if num_chars > LONG_CHARS else ENCODING_SHORT, function)


async def _run(executor: Executor, function: Callable[[], T]) -> T:
    left = threading.Event()

    def run() -> T:
        token = still_wanted.set(lambda: not left.is_set())
        try:
            return function()
        finally:
            still_wanted.reset(token)

    try:
        return await asyncio.get_running_loop().run_in_executor(executor, run)
    except asyncio.CancelledError:
        left.set()
        raise
