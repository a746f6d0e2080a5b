"""Rows that join, decode and leave together; on the release of mlx-lm whose entries are used."""

import dataclasses
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from tests.server.engine.engine_requests import sequence
from verse.base_model import BaseModel, load_base_model
from verse_server.engine.adapters.lora import LoraBank
from verse_server.engine.batch import Batch
from verse_server.engine.kv_cache import PrefixCache
from verse_server.engine.pacing import Pacing
from verse_server.engine.sampling.sampler import Sampler
from verse_server.engine.sequence import Sequence as EngineSequence
from verse_server.engine.types import SamplingParams

GREEDY = SamplingParams(temperature=0)
PROMPTS = ([5, 900, 77], [6, 901], [7, 902, 78, 80, 81])


class Unbound(Pacing):
    """All who wait join at the next step, however slow the machine is today."""

    @property
    def prefill_tokens(self) -> int:
        return 2048

    @property
    def left_seconds(self) -> float:
        return math.inf


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return load_base_model(str(tiny_base))


@pytest.fixture
def batch(base: BaseModel) -> Batch:
    return made(base)


def made(base: BaseModel, prefix_bytes: int = 0, **more: Any) -> Batch:
    bank, prefixes = LoraBank(base.model, base.dtype), PrefixCache(prefix_bytes)
    return Batch(base, bank, 8, prefixes, pacing=Unbound(), **more)


def add(
    batch: Batch, prompt: list[int], max_tokens: int, stop_tokens: tuple[int, ...] = ()
) -> EngineSequence:
    row = sequence(prompt, (), GREEDY)
    batch.add([row], max_tokens, stop_tokens)
    return row


def finish(batch: Batch) -> dict[EngineSequence, list[tuple[int, str | None]]]:
    """All that is drawn until every row has finished."""
    drawn: dict[EngineSequence, list[tuple[int, str | None]]] = {}
    quiet = 0
    while quiet < 3:
        step = batch.step()
        quiet = 0 if step else quiet + 1
        for one in step:
            drawn.setdefault(one.sequence, []).append((one.token, one.finish_reason))
    return drawn


def test_the_release_is_the_one_this_contract_was_written_for() -> None:
    assert version("mlx-lm") == "0.32.2"


def test_rows_end_by_their_own_max_tokens_and_the_last_token_is_reported(batch: Batch) -> None:
    rows = [add(batch, p, 3 + i) for i, p in enumerate(PROMPTS)]
    drawn = finish(batch)
    for index, row in enumerate(rows):
        reasons = [reason for _, reason in drawn[row]]
        assert reasons == [None] * (2 + index) + ["length"]


def test_a_stop_token_ends_a_row_and_is_reported_with_stop(batch: Batch) -> None:
    first = add(batch, PROMPTS[0], 10)
    tokens = [token for token, _ in finish(batch)[first]]
    again = add(batch, PROMPTS[0], 10, stop_tokens=(tokens[4],))
    assert finish(batch)[again] == [(t, None) for t in tokens[:4]] + [(tokens[4], "stop")]


def test_a_rows_own_list_holds_what_is_in_the_cache(batch: Batch) -> None:
    row = add(batch, PROMPTS[2], 4)
    drawn = finish(batch)[row]
    assert row.tokens == [*PROMPTS[2], *[token for token, _ in drawn]]


def test_removed_rows_are_never_heard_of_again_wherever_they_were(batch: Batch) -> None:
    decoding = add(batch, PROMPTS[0], 50)
    stays = add(batch, PROMPTS[1], 6)
    while not batch.step():
        pass
    queued = add(batch, PROMPTS[2], 50)
    batch.remove([decoding, queued, sequence([1], (), GREEDY)])
    assert set(finish(batch)) == {stays}


def test_the_sampler_is_called_once_for_all_rows_with_their_states_in_order(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[tuple[int, ...], list[int]]] = []

    def spy(_: Sampler, logits: mx.array, inputs: mx.array, rows: list[EngineSequence]) -> mx.array:
        calls.append((logits.shape, [row.prompt[0] for row in rows]))
        return mx.argmax(logits, axis=-1)

    monkeypatch.setattr(Sampler, "sample", spy)
    batch = made(base)
    for prompt in PROMPTS:
        add(batch, prompt, 5)
    finish(batch)
    assert ((3, 8192), [5, 6, 7]) in calls
    assert all(shape[0] == len(firsts) for shape, firsts in calls)


def test_a_step_that_decodes_is_foretold_and_calls_back_once(base: BaseModel) -> None:
    calls: list[None] = []
    batch = made(base, on_wait=lambda: calls.append(None))
    add(batch, PROMPTS[0], 4)
    foretold = called = 0
    for step in range(14):
        if step == 3:
            add(batch, PROMPTS[1], 6)
        foretold += batch.num_decoding
        before = len(calls)
        drawn = batch.step()
        called += len(calls) > before
        if drawn:
            assert len(calls) > before
    assert not batch.num_decoding
    # The first step that draws for a batch of new rows cannot be foretold, for nothing was drawn.
    assert called - 1 <= foretold <= called


def test_rows_of_one_prompt_share_its_prefill(base: BaseModel) -> None:
    prefilled: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = base.model.layers

        def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
            if tokens.shape[1] > 1:
                prefilled.append(tokens.size)
            return base.model(tokens, cache=cache)

    counting = dataclasses.replace(base, model=Counting())
    batch = Batch(counting, LoraBank(base.model, base.dtype), 8, PrefixCache(0))
    rows = [sequence(PROMPTS[2], (), GREEDY, index=index) for index in range(4)]
    batch.add(rows, 6)
    drawn = finish(batch)
    assert prefilled == [len(PROMPTS[2])]
    assert len({tuple(drawn[row]) for row in rows}) == 1
    assert [row.tokens[: len(PROMPTS[2])] for row in rows] == [PROMPTS[2]] * 4


def test_a_row_that_leaves_before_its_siblings_join_takes_them_along(batch: Batch) -> None:
    rows = [sequence(PROMPTS[2], (), GREEDY, index=index) for index in range(3)]
    batch.add(rows, 6)
    batch.remove(rows)
    assert finish(batch) == {}


KNOWN = list(range(40, 70))


def known_batch(base: BaseModel) -> Batch:
    """One that has seen all of `KNOWN`."""
    batch = made(base, 1 << 24)
    add(batch, [*KNOWN, 5], 1)
    finish(batch)
    return batch


@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        SamplingParams(seed=3),
        SamplingParams(seed=4, repetition_penalty=1.5, presence_penalty=1.0),
    ],
    ids=["greedy", "seeded", "penalties"],
)
def test_a_lone_row_of_a_known_prompt_draws_at_once_what_it_draws_in_company(
    base: BaseModel, params: SamplingParams
) -> None:
    batch = known_batch(base)
    row = sequence([*KNOWN, 7, 8], (), params)
    batch.add([row], 9)
    first = batch.step()
    assert [drawn.sequence for drawn in first] == [row]
    alone = [(first[0].token, first[0].finish_reason), *finish(batch)[row]]
    assert row.num_cached == len(KNOWN)
    rows = [sequence([*KNOWN, 7, 8], (), params), sequence([*KNOWN, 9], (), params)]
    for one in rows:
        batch.add([one], 9)
    assert finish(batch)[rows[0]] == alone
    assert row.tokens[: len(alone) + 31] == rows[0].tokens[: len(alone) + 31]
    assert [reason for _, reason in alone] == [None] * 8 + ["length"]


def test_a_lone_row_ends_with_its_first_token_if_that_is_the_last(base: BaseModel) -> None:
    batch = known_batch(base)
    row = add(batch, [*KNOWN, 7], 1)
    (drawn,) = batch.step()
    assert (drawn.sequence, drawn.finish_reason) == (row, "length")
    again = add(batch, [*KNOWN, 7], 9, stop_tokens=(drawn.token,))
    (stopped,) = batch.step()
    assert (stopped.sequence, stopped.token, stopped.finish_reason) == (again, drawn.token, "stop")
    assert finish(batch) == {}


def test_a_lone_row_comes_in_beside_running_ones_without_holding_them_up(base: BaseModel) -> None:
    batch = known_batch(base)
    running = add(batch, PROMPTS[0], 30)
    while {drawn.sequence for drawn in batch.step()} != {running} or not running.tokens[3:]:
        pass
    lone = add(batch, [*KNOWN, 7], 4)
    steps = [{drawn.sequence for drawn in batch.step()} for _ in range(5)]  # room is made first
    assert all(running in step for step in steps)
    assert any(lone in step for step in steps)
    batch.remove([lone])
    assert set(finish(batch)) == {running}


def test_a_lone_row_removed_before_its_first_step_is_never_heard_of(base: BaseModel) -> None:
    batch = known_batch(base)
    batch.remove([add(batch, [*KNOWN, 7], 4)])
    assert finish(batch) == {}


def test_prefixes_kept_hold_no_more_memory_than_they_count(base: BaseModel) -> None:
    """An entry is one row of a batch; it must not keep the others' keys and values with it."""
    prefixes = PrefixCache(1 << 30)
    batch = Batch(base, LoraBank(base.model, base.dtype), 8, prefixes)
    mx.clear_cache()
    before = mx.get_active_memory()
    for first in range(100, 900, 10):
        add(batch, [first, *range(first, first + 30)], 1)
        if first % 80 == 10:  # eight come together
            finish(batch)
    finish(batch)
    assert prefixes.num_bytes > 80 * 30 * 100
    assert mx.get_active_memory() - before < 2 * prefixes.num_bytes
