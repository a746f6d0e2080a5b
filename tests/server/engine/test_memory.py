"""Room for keys and values."""

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse_server.config import EngineConfig
from verse_server.engine import memory
from verse_server.engine.memory import (
    KvBudget,
    limit_memory,
    prefix_cache_bytes,
    room_for_keys_and_values,
)


def test_rows_are_padded_to_the_longest_and_are_there_twice_while_the_batch_grows() -> None:
    budget = KvBudget(bytes_per_token=10, max_bytes=10_000)
    assert budget.bytes_of([100, 20, 30]) == 2 * 3 * 100 * 10
    assert budget.holds([100] * 4)
    assert not budget.holds([100] * 5)
    assert not budget.holds([20, 20, 20, 20, 100])


def test_slots_are_counted_that_nobody_has_yet() -> None:
    assert KvBudget(bytes_per_token=10, max_bytes=10_000).bytes_of([5] * 16) == 2 * 20 * 5 * 10


@given(st.integers(1, 10**6), st.integers(0, 10**12), st.integers(1, 40))
def test_rows_as_long_as_can_be_fit_and_no_longer_ones(
    bytes_per_token: int, max_bytes: int, num_rows: int
) -> None:
    budget = KvBudget(bytes_per_token, max_bytes)
    assert budget.holds([budget.longest(num_rows)] * num_rows)
    assert not budget.holds([budget.longest(num_rows) + 1] * num_rows)


def test_a_model_that_keeps_nothing_always_fits() -> None:
    assert KvBudget(0, 0).holds([10**9])


def test_a_tenth_of_the_memory_stays_free() -> None:
    assert room_for_keys_and_values(100, 50) == 40
    assert room_for_keys_and_values(100, 95) == 0


def test_a_small_base_keeps_few_prompts_and_a_large_one_no_more_than_before() -> None:
    tiny, large = (prefix_cache_bytes(EngineConfig(), size) for size in (15_360, 1_000_000))
    assert tiny < 100_000_000
    assert large == 256 << 20


def test_what_is_said_about_prompts_counts() -> None:
    assert prefix_cache_bytes(EngineConfig(prefix_cache_bytes=0), 15_360) == 0
    assert prefix_cache_bytes(EngineConfig(prefix_cache_bytes=2**40), 15_360) == 2**40


@pytest.mark.parametrize(("is_on_cpu", "limits"), [(True, [8, 64]), (False, [1024, 1024])])
def test_of_freed_arrays_less_is_kept_where_new_memory_costs_little(
    monkeypatch: pytest.MonkeyPatch, *, is_on_cpu: bool, limits: list[int]
) -> None:
    monkeypatch.setattr(memory, "runs_on_cpu", lambda: is_on_cpu)
    found = [_cache_limit_after(is_packed=is_packed) for is_packed in (True, False)]
    assert found == [limit << 20 for limit in limits]


def test_ranks_that_share_a_model_keep_their_share_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "runs_on_cpu", lambda: True)
    assert _cache_limit_after(num_ranks=2) == _cache_limit_after() // 2


def _cache_limit_after(*, is_packed: bool = False, num_ranks: int = 1) -> int:
    before = mx.set_cache_limit(0)
    try:
        limit_memory(EngineConfig(), is_packed=is_packed, num_ranks=num_ranks)
        return mx.set_cache_limit(before)
    finally:
        mx.set_cache_limit(before)
