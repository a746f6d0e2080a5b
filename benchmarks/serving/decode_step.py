"""The process in which `overhead` measures: the model's forward, and the engine's steps."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, make_prompt_cache

from benchmarks.parties import THEMES
from benchmarks.serving.child import obey
from benchmarks.serving.engine import conversation, write
from verse_server.config import EngineConfig
from verse_server.engine.engine import MlxEngine
from verse_server.engine.state import EngineResources
from verse_server.engine.types import SamplingParams


def forward_seconds(
    resources: EngineResources, rows: int, steps: int, prompt: tuple[int, ...], kind: str
) -> float:
    """Mean seconds of the model's forward through one token of each row, after a prompt.

    As in any generator, the next forward is built while one runs.
    """
    model = resources.base.model
    cache: list[Any] = make_prompt_cache(model)
    if kind == "BatchKVCache":
        cache = [BatchKVCache([0] * rows) for _ in cache]
    mx.eval(model(mx.array([prompt] * rows), cache=cache))
    tokens = mx.array([prompt[-1:]] * rows)

    def forward() -> mx.array:
        logits = model(tokens, cache=cache)[:, -1]
        mx.async_eval(logits)
        return logits

    pending = forward()
    start = time.perf_counter()
    for _ in range(steps):
        following = forward()
        mx.eval(pending)
        pending = following
    mx.eval(pending)
    return (time.perf_counter() - start) / (steps + 1)


async def step_seconds(
    engine: MlxEngine, rows: int, steps: int, temperature: float, top_p: float
) -> float:
    """Mean seconds of the engine's steps, from the first text of every row to its last."""
    poems = await asyncio.gather(
        *(
            write(
                engine,
                THEMES[0],
                "base",
                steps,
                SamplingParams(temperature=temperature, top_p=top_p, seed=row),
            )
            for row in range(rows)
        )
    )
    # When all rows are there, until the first is gone.
    start = max(chunks[0][0] for _, chunks in poems)
    end = min(chunks[-1][0] for _, chunks in poems)
    times = [(t, c.completion_tokens) for t, c in poems[0][1] if start <= t <= end]
    return (times[-1][0] - times[0][0]) / (times[-1][1] - times[0][1])


def main() -> None:
    """Arguments: the base, the adapters folder."""
    model, adapters = sys.argv[1:]
    engine = MlxEngine.start(EngineConfig(model=model, adapters=Path(adapters)))
    target = engine.resolve("base")
    prompt = engine.encode(target, conversation(THEMES[0]))

    def handle(command: dict[str, Any]) -> float:
        rows, steps, kind = command["rows"], command["steps"], command.get("forward")
        if kind is None:
            drawing = command["temperature"], command["top_p"]
            return runner.run(step_seconds(engine, rows, steps, *drawing))
        # What only the engine's thread may do goes to it as a task.
        worker = engine._worker
        return worker.run(
            lambda resources: forward_seconds(resources, rows, steps, prompt, kind)
        ).result()

    with asyncio.Runner() as runner:
        obey(handle)
    engine.close()


if __name__ == "__main__":
    main()
