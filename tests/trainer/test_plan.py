"""Which rows meet in which batch."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse_trainer.plan import PAD_MULTIPLE, BatchPlan, padded

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=40)
SIZES = st.integers(1, 9)


def epoch_of(plan: BatchPlan, epoch: int) -> list[tuple[int, ...]]:
    steps = plan.steps_per_epoch
    return [plan.batch(epoch * steps + step) for step in range(1, steps + 1)]


@given(LENGTHS, SIZES, st.integers(0, 5), st.integers(0, 3))
def test_every_row_is_seen_once_in_every_epoch(
    lengths: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    batches = epoch_of(BatchPlan(lengths, batch_size, seed), epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)


@given(LENGTHS, SIZES)
def test_at_most_one_batch_of_an_epoch_is_small(lengths: list[int], batch_size: int) -> None:
    sizes = Counter(len(batch) for batch in epoch_of(BatchPlan(lengths, batch_size, 0), 0))
    del sizes[batch_size]
    assert sum(sizes.values()) <= 1


@given(LENGTHS, SIZES)
def test_no_split_into_batches_needs_less_padding(lengths: list[int], batch_size: int) -> None:
    """Rows of one epoch, put in order of width, are cut and not mixed."""
    batches = epoch_of(BatchPlan(lengths, batch_size, 0), 0)
    spans = sorted(
        (min(padded(lengths[row]) for row in batch), max(padded(lengths[row]) for row in batch))
        for batch in batches
    )
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_rows_meet_others_and_batches_come_in_another_order_each_epoch() -> None:
    plan = BatchPlan([20] * 9, 2, seed=0)
    first, second = epoch_of(plan, 0), epoch_of(plan, 1)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    lengths_of_first = BatchPlan(list(range(0, 90, 10)), 2, seed=0)
    assert epoch_of(lengths_of_first, 0) != epoch_of(lengths_of_first, 1)


def test_another_seed_gives_another_order() -> None:
    lengths = list(range(8, 80, 8))
    assert epoch_of(BatchPlan(lengths, 2, 0), 0) != epoch_of(BatchPlan(lengths, 2, 1), 0)


def test_a_batch_does_not_depend_on_the_questions_before() -> None:
    lengths = list(range(5, 90, 7))
    asked_in_order = BatchPlan(lengths, 3, 1)
    expected = [asked_in_order.batch(step) for step in range(1, 30)]
    assert [BatchPlan(lengths, 3, 1).batch(step) for step in range(1, 30)] == expected


def test_the_order_is_the_same_on_every_machine() -> None:
    plan = BatchPlan([12, 40, 9, 33, 21, 8, 17], 2, seed=3)
    assert epoch_of(plan, 0) == [(4,), (1, 3), (5, 2), (0, 6)]


def test_the_small_batch_does_not_always_hold_the_longest_rows() -> None:
    plan = BatchPlan(list(range(8, 80, 8)), 2, seed=0)
    small = {batch for epoch in range(20) for batch in epoch_of(plan, epoch) if len(batch) == 1}
    assert len(small) > 2


def test_the_longest_batch_holds_the_longest_rows() -> None:
    assert set(BatchPlan([10, 90, 20, 80, 30], 2, seed=0).longest_batch()) == {1, 3}
    assert BatchPlan([10], 4, seed=0).longest_batch() == (0,)


@pytest.mark.parametrize(("length", "width"), [(1, 8), (8, 8), (9, 16), (100, 104)])
def test_a_batch_is_as_wide_as_its_longest_row_needs(length: int, width: int) -> None:
    assert PAD_MULTIPLE == 8
    assert padded(length) == width
