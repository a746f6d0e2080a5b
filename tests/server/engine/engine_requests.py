"""Short spellings of asking a real engine and waiting for it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, cast

import msgspec

from verse.prompt import PromptFormat
from verse_server.engine.adapters.lora import SlotWeights
from verse_server.engine.engine import MlxEngine
from verse_server.engine.sampling.grammar import Matcher
from verse_server.engine.sequence import Sequence
from verse_server.engine.types import GenerationChunk, GenerationRequest, SamplingParams, Target

GREEDY = SamplingParams(temperature=0)
PROMPT = (5, 900, 77, 41)
StartEngine = Callable[..., MlxEngine]
"""Takes options of `EngineConfig`."""


def request(engine: MlxEngine, model: str, **fields: Any) -> GenerationRequest:
    defaults: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 16, "sampling": GREEDY}
    return GenerationRequest(target=engine.resolve(model), **(defaults | fields))


async def collect(chunks: AsyncIterator[GenerationChunk]) -> tuple[str, GenerationChunk]:
    text, last = "", None
    async for chunk in chunks:
        text, last = text + chunk.text, chunk
    assert last is not None
    return text, last


async def write(engine: MlxEngine, model: str, **fields: Any) -> str:
    return (await collect(engine.generate(request(engine, model, **fields))))[0]


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)


async def answers_of(engine: MlxEngine, wanted: GenerationRequest) -> list[str]:
    texts = [""] * wanted.n
    async for chunk in engine.generate(wanted):
        texts[chunk.index] += chunk.text
    return texts


def sequence(
    prompt: Iterable[int],
    slots: SlotWeights,
    sampling: SamplingParams,
    *,
    index: int = 0,
    num_top_logprobs: int | None = None,
    matcher: Matcher | None = None,
) -> Sequence:
    """One for the batch alone: nobody asks for its text."""
    wanted = GenerationRequest(
        target=Target(model="base", prompt_format=PromptFormat()),
        prompt=tuple(prompt),
        max_tokens=1,
        sampling=sampling,
        num_top_logprobs=num_top_logprobs,
    )
    nothing = cast(Any, None)
    return Sequence(wanted, slots, nothing, nothing, index=index, matcher=matcher)


def simple_sequence(sampling: SamplingParams, seed: int) -> Sequence:
    """One that only draws."""
    return sequence((0,), (), msgspec.structs.replace(sampling, seed=seed))
