"""A probe says how far an adapter moves the base, as two models loaded by mlx-lm would."""

import asyncio
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import utils as mlx_lm_utils

from tests.server.engine.engine_requests import PROMPT, StartEngine, write
from verse_server.engine.errors import InvalidRequestError
from verse_server.engine.types import SamplingParams

pytestmark = pytest.mark.anyio


def next_logits(base: Path, adapter: Path | None) -> Any:
    path = None if adapter is None else str(adapter)
    model = cast(Any, mlx_lm_utils.load(str(base), adapter_path=path)[0])
    return np.array(model(mx.array([list(PROMPT)]))[0, -1], dtype=np.float64)


async def test_it_measures_what_mlx_lm_would(
    start_engine: StartEngine, tiny_base: Path, adapters: Path
) -> None:
    engine = start_engine()
    measured = await engine.adapters.probe(engine.resolve("a"), PROMPT)
    before, after = next_logits(tiny_base, None), next_logits(tiny_base, adapters / "a")
    change = np.abs(after - before)
    logprobs = [x - np.log(np.exp(x - x.max()).sum()) - x.max() for x in (before, after)]
    divergence = (np.exp(logprobs[1]) * (logprobs[1] - logprobs[0])).sum()
    assert measured.max_logit_change == pytest.approx(change.max(), rel=1e-3)
    assert measured.mean_logit_change == pytest.approx(change.mean(), rel=1e-3)
    assert measured.kl_divergence == pytest.approx(divergence, rel=1e-3)
    assert measured.top[0].logprob == pytest.approx(logprobs[1].max(), abs=1e-3)
    assert measured.base_top[0].logprob == pytest.approx(logprobs[0].max(), abs=1e-3)
    assert measured.prompt_tokens == len(PROMPT)


async def test_more_strength_moves_further_and_none_not_at_all(start_engine: StartEngine) -> None:
    engine = start_engine()
    moved = [
        (await engine.adapters.probe(engine.resolve(f"a:{strength}"), PROMPT)).max_logit_change
        for strength in (0, 0.1, 0.3)
    ]
    assert moved[0] == 0
    assert moved[0] < moved[1] < moved[2]


async def test_poems_that_are_being_written_do_not_notice(start_engine: StartEngine) -> None:
    engine = start_engine(adapter_slots=2)
    poem: dict[str, Any] = {"sampling": SamplingParams(seed=3), "max_tokens": 80}
    alone = [await write(engine, name, **poem) for name in ("a", "base")]
    writing = [asyncio.create_task(write(engine, name, **poem)) for name in ("a", "base")]
    while not all(task.done() for task in writing):
        await engine.adapters.probe(engine.resolve("b:0.5"), PROMPT)
        await engine.adapters.probe(engine.resolve("c"), PROMPT)
    assert [await task for task in writing] == alone


async def test_what_cannot_be_measured_is_refused(start_engine: StartEngine) -> None:
    engine = start_engine(adapter_slots=2)
    with pytest.raises(InvalidRequestError, match="no update"):
        await engine.adapters.probe(engine.resolve("base"), PROMPT)
    with pytest.raises(InvalidRequestError, match="2048"):
        await engine.adapters.probe(engine.resolve("a"), (1,) * 2049)
    with pytest.raises(InvalidRequestError, match="slots"):
        await engine.adapters.probe(engine.resolve("a:0.3+b:0.3+c:0.3"), PROMPT)
