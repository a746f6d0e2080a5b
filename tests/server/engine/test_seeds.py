"""A seed gives the same poem again, whatever was known of its prompt and whatever runs beside it.

The logits do not stay the same to their last bit: what is computed together has other shapes, and
so other roundings. What is drawn from them must not hang on that.
"""

import asyncio
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.server.engine.conftest import VERSE_TINY
from tests.server.engine.engine_requests import simple_sequence, write
from verse_server.config import EngineConfig
from verse_server.engine.engine import MlxEngine
from verse_server.engine.sampling import cpu
from verse_server.engine.types import SamplingParams

VOCAB = 12_000
ROUNDING = 2e-6
"""Relative; what two forwards of verse-tiny differ by."""


def like_verse(generator: np.random.Generator) -> NDArray[np.float32]:
    """Logits with a few tokens that are likely and thousands that are not."""
    return (generator.standard_normal(VOCAB) * 2.5).astype(np.float32)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.8, top_p=0.95),
        SamplingParams(temperature=1.0, min_p=0.02),
        SamplingParams(temperature=1.2, top_k=50),
    ],
    ids=["all", "top_p", "min_p", "top_k"],
)
def test_what_is_drawn_hangs_on_no_rounding(sampling: SamplingParams) -> None:
    generator, differ, num_draws = np.random.default_rng(0), 0, 600
    for seed in range(num_draws):
        logits = like_verse(generator)
        errors = generator.uniform(-ROUNDING, ROUNDING, VOCAB).astype(np.float32)
        rows = [simple_sequence(sampling, seed) for _ in range(2)]
        one, other = cpu.draw([logits, logits * (1 + errors)], [sampling] * 2, rows)
        differ += int(one != other)
    assert differ <= 1


def test_random_numbers_lie_strictly_between_0_and_1_and_repeat() -> None:
    drawn = simple_sequence(SamplingParams(), 7).next_uniforms(200_000)
    assert 0 < drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01
    again = simple_sequence(SamplingParams(), 7)
    assert list(drawn[:300]) == [*again.next_uniforms(100), *again.next_uniforms(200)]


@pytest.mark.anyio
async def test_a_poem_repeats_when_its_prompt_is_known_and_beside_longer_ones() -> None:
    engine = MlxEngine.start(EngineConfig(model=str(VERSE_TINY), adapters=VERSE_TINY.parent))
    try:
        tokens = random.Random(1)
        prompts = [tuple(tokens.choices(range(300, 3000), k=n)) for n in (40, 52, 90)]
        asked = [
            {
                "prompt": prompt,
                "max_tokens": 40,
                "min_tokens": 40,
                "sampling": SamplingParams(temperature=1.0, seed=seed),
            }
            for seed, prompt in enumerate(prompts)
        ]
        first = [await write(engine, "verse-tiny", **fields) for fields in asked]
        known = [await write(engine, "verse-tiny", **fields) for fields in asked]
        beside = await asyncio.gather(*(write(engine, "verse-tiny", **f) for f in asked))
    finally:
        engine.close()
    assert first == known == beside
