"""XTC against mlx_lm's own, on the host and on the device."""

from collections.abc import Iterator

import mlx.core as mx
import msgspec
import numpy as np
import pytest
from mlx_lm.sample_utils import apply_xtc

from tests.server.engine.engine_requests import StartEngine, request, sequence, write
from verse_server.engine.sampling import sampler
from verse_server.engine.sampling.sampler import Sampler
from verse_server.engine.types import SamplingParams

VOCAB = 10
NEVER = (0, 3)
LOGITS = np.array([2.0, 1.9, 1.8, 1.7, 1.0, 0.5, 0.0, -1.0, -2.0, -3.0], np.float32)


@pytest.fixture(params=["on the host", "on the device"], autouse=True)
def where(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "runs_on_cpu", lambda: request.param == "on the host")
        yield


def drawn(params: SamplingParams, num_rows: int = 64, logits: np.ndarray = LOGITS) -> list[int]:
    """One draw for each of many seeds."""
    of_one_step = Sampler(NEVER)
    rows = [
        sequence([1], (), msgspec.structs.replace(params, seed=seed)) for seed in range(num_rows)
    ]
    batch = mx.array(np.tile(logits, (num_rows, 1)))
    tokens = of_one_step.sample(batch, mx.array([1] * num_rows), rows)
    of_one_step.settle()
    found: list[int] = tokens.tolist()  # pyright: ignore[reportAssignmentType]
    return found


def kept_by_mlx_lm(threshold: float) -> set[int]:
    logprobs = mx.array(LOGITS) - mx.logsumexp(mx.array(LOGITS))
    left = np.array(apply_xtc(logprobs[None], 1.0, threshold, list(NEVER)))[0]
    return set(np.flatnonzero(left > -np.inf).tolist())


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.15, 0.2, 0.5])
def test_what_is_left_out_is_what_mlx_lm_leaves_out(threshold: float) -> None:
    kept = kept_by_mlx_lm(threshold)
    params = SamplingParams(xtc_probability=1.0, xtc_threshold=threshold, temperature=2.0)
    found = drawn(params, 600)
    assert set(found) <= kept
    likely = {token for token in kept if LOGITS[token] > -1}
    assert likely <= set(found)


def test_the_shares_of_what_is_left_are_those_of_the_model() -> None:
    params = SamplingParams(xtc_probability=1.0, xtc_threshold=0.1)
    kept = sorted(kept_by_mlx_lm(0.1))
    assert len(kept) < VOCAB
    weights = np.exp(LOGITS[kept])
    counts = np.bincount(drawn(params, 4000), minlength=VOCAB)[kept]
    np.testing.assert_allclose(counts / 4000, weights / weights.sum(), atol=0.03)


def test_it_happens_as_often_as_it_is_asked_for() -> None:
    excluded = set(range(VOCAB)) - kept_by_mlx_lm(0.1)
    share_of_excluded = np.exp(LOGITS[sorted(excluded)]).sum() / np.exp(LOGITS).sum()
    params = SamplingParams(xtc_probability=0.25, xtc_threshold=0.1)
    found = drawn(params, 4000)
    share = sum(token in excluded for token in found) / 4000
    assert abs(share - 0.75 * share_of_excluded) < 0.03


def test_a_probability_of_nothing_changes_no_draw() -> None:
    plain = SamplingParams(temperature=1.1, top_p=0.9)
    never = SamplingParams(temperature=1.1, top_p=0.9, xtc_probability=0.0, xtc_threshold=0.3)
    assert drawn(plain) == drawn(never)


def test_it_looks_at_what_the_other_limits_keep() -> None:
    params = SamplingParams(xtc_probability=1.0, xtc_threshold=0.2, top_k=4)
    # Of the four likeliest 1 and 2 can be left out, and the least likely of all four stays: 3.
    assert set(drawn(params, 200)) == {0, 3}


def test_at_a_low_temperature_something_is_left_to_draw() -> None:
    steep = LOGITS * 20
    params = SamplingParams(xtc_probability=1.0, xtc_threshold=0.001, temperature=0.01)
    assert set(drawn(params, 20, steep)) <= set(range(VOCAB))


def test_greedy_answers_know_nothing_of_it() -> None:
    assert set(drawn(SamplingParams(temperature=0, xtc_probability=1.0))) == {0}


@pytest.mark.anyio
async def test_a_seed_holds_in_any_company(start_engine: StartEngine) -> None:
    engine = start_engine()
    sampling = SamplingParams(seed=5, xtc_probability=0.5, xtc_threshold=0.01)
    poem = {"sampling": sampling, "max_tokens": 24}
    alone = await write(engine, "a", **poem)
    assert alone != await write(engine, "a", sampling=SamplingParams(seed=5), max_tokens=24)
    crowd = [
        engine.generate(request(engine, "b", sampling=SamplingParams(seed=i))) for i in range(3)
    ]
    for chunks in crowd:
        await anext(chunks)
    assert await write(engine, "a", **poem) == alone
    for chunks in crowd:
        await chunks.aclose()
