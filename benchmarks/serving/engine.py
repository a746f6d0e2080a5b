"""Verse's engine without HTTP, a process of its own.

It does all that the HTTP side asks of it: names resolved, prompts rendered, texts in pieces.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.child import obey
from verse.prompt import POEM_SYSTEM, Message
from verse_server.config import EngineConfig
from verse_server.engine.engine import MlxEngine
from verse_server.engine.types import GenerationChunk, GenerationRequest, SamplingParams

GREEDY = SamplingParams(temperature=0)


def conversation(theme: str) -> list[Message]:
    """What the clients send, as the engine takes it."""
    return [Message("system", POEM_SYSTEM), Message("user", theme)]


async def write(
    engine: MlxEngine, theme: str, model: str, tokens: int, sampling: SamplingParams = GREEDY
) -> tuple[int, list[tuple[float, GenerationChunk]]]:
    """One poem as the HTTP side asks for it: the prompt's length, and each chunk with its time."""
    target = engine.resolve(model)
    prompt = engine.encode(target, conversation(theme))
    request = GenerationRequest(target=target, prompt=prompt, max_tokens=tokens, sampling=sampling)
    return len(prompt), [(time.perf_counter(), chunk) async for chunk in engine.generate(request)]


async def write_all(
    engine: MlxEngine, requests: Sequence[tuple[str, str | None]], num_streams: int, tokens: int
) -> dict[str, Any]:
    """Many poems, so many at a time."""
    queue = iter(requests)
    prompt_tokens = written = 0

    async def stream() -> None:
        nonlocal prompt_tokens, written
        for theme, model in queue:
            num_prompt, chunks = await write(engine, theme, model or "base", tokens)
            prompt_tokens += num_prompt
            written += chunks[-1][1].completion_tokens

    start = time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(num_streams)))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "tokens": written, "prompt_tokens": prompt_tokens}


def main() -> None:
    """Arguments: the base, the adapters folder."""
    model, adapters = sys.argv[1:]
    engine = MlxEngine.start(EngineConfig(model=model, adapters=Path(adapters)))
    with asyncio.Runner() as runner:
        obey(lambda command: runner.run(write_all(engine, **command)))
    engine.close()


if __name__ == "__main__":
    main()
