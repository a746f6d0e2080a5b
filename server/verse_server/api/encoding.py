"""Names and messages to what the engine runs, off the event loop."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from verse.prompt import Message
from verse_server.engine.interface import Engine
from verse_server.engine.types import Target

# Encoding a whole megabyte takes most of a second, and so does hashing a large adapter that has
# just appeared; no stream should wait for either. One thread, because a tokenizer is not made to
# be called from two at once.
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")


async def encoded(
    engine: Engine, name: str, messages: Sequence[Message]
) -> tuple[Target, tuple[int, ...]]:
    """What a `model` field means, and a conversation in its format; raises as the engine does."""

    def resolve_and_encode() -> tuple[Target, tuple[int, ...]]:
        target = engine.resolve(name)
        return target, engine.encode(target, messages)

    return await asyncio.get_running_loop().run_in_executor(_thread, resolve_and_encode)


async def encoded_texts(
    engine: Engine, name: str, prompts: Sequence[str | tuple[int, ...]]
) -> tuple[Target, list[tuple[int, ...]]]:
    """What a `model` field means, and texts as token ids; what is ids already stays."""

    def resolve_and_encode() -> tuple[Target, list[tuple[int, ...]]]:
        target = engine.resolve(name)
        ids = [engine.encode_text(p) if isinstance(p, str) else p for p in prompts]
        return target, ids

    return await asyncio.get_running_loop().run_in_executor(_thread, resolve_and_encode)
