"""From orders to ranks: a planted ranking comes back, a judge that does not read leaves it flat."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.judge.simulated import gumbel
from verse_clients.judge.metrics import consistency, spearman
from verse_clients.judge.ranked import Comparison
from verse_clients.judge.ranking import (
    Batch,
    Fit,
    contested_poems,
    first_round,
    fit,
    next_round,
    num_batches,
    num_groups,
    positions,
)

Order = Callable[[Batch], Batch]
NUM_POEMS = 60
NUM_CALLS = 60


def truth_of(seed: int) -> dict[str, float]:
    rng = random.Random(seed)
    return {f"p{number}": rng.gauss(0, 1) for number in range(NUM_POEMS)}


def noisy(truth: dict[str, float], seed: int) -> Order:
    """Plackett-Luce with the true strengths: the noise is as large as the poems' differences."""
    rng = random.Random(seed)

    def order(batch: Batch) -> Batch:
        worth = {id_: truth[id_] + gumbel(rng) for id_ in batch}
        return tuple(sorted(batch, key=lambda id_: -worth[id_]))

    return order


def hold(ids: list[str], order: Order, seed: int, size: int = 5) -> tuple[Fit, list[Comparison]]:
    """Rounds of comparisons, until the calls are used up."""
    rng = random.Random(seed)
    heard: list[Comparison] = []
    plan = first_round(ids, size, rng)
    while True:
        asked = plan[: NUM_CALLS - len(heard)]
        heard += [Comparison(judge="a", shown=batch, ranking=order(batch)) for batch in asked]
        orders = [each.ranking for each in heard]
        if len(heard) == NUM_CALLS or not plan:
            return fit(ids, orders), heard
        fitted = fit(ids, orders, num_draws=40)
        intervals = dict(zip(ids, fitted.intervals(), strict=True))
        plan = next_round(intervals, [each.shown for each in heard], size, rng)


def test_a_planted_ranking_comes_back_from_sixty_orders_of_five() -> None:
    found: list[float] = []
    for seed in range(6):
        truth = truth_of(seed)
        fitted, heard = hold(list(truth), noisy(truth, seed), seed)
        assert len(heard) == NUM_CALLS
        assert {len(each.shown) for each in heard} == {5}
        found.append(spearman(fitted.strengths.tolist(), list(truth.values())) or 0.0)
    assert sum(found) / len(found) >= 0.8


def test_intervals_hold_the_true_ranks_about_as_often_as_they_say() -> None:
    truth = truth_of(3)
    fitted, _ = hold(list(truth), noisy(truth, 3), 3)
    ordered = sorted(truth, key=lambda id_: -truth[id_])
    inside = [
        low <= ordered.index(id_) + 1 <= high
        for id_, (low, high) in zip(fitted.ids, fitted.rank_intervals(), strict=True)
    ]
    assert sum(inside) >= 0.8 * len(inside)


def test_a_judge_that_always_takes_the_first_is_exposed_and_ranks_nothing() -> None:
    ids = list(truth_of(0))
    fitted, heard = hold(ids, lambda batch: batch, 0)
    own = consistency(heard)
    assert own.first_picks.share == 1.0
    assert own.chance == pytest.approx(0.2)
    assert own.prefers_first
    assert own.flips.total > 0
    assert own.flips.share == 1.0
    honest, _ = hold(ids, noisy(truth_of(0), 0), 0)
    assert width(fitted) > 0.5 * len(ids)
    assert width(fitted) > width(honest)


def width(fitted: Fit) -> float:
    intervals = fitted.rank_intervals()
    return sum(high - low for low, high in intervals) / len(intervals)


def test_a_judge_that_reads_takes_the_first_by_chance_and_seldom_flips() -> None:
    truth = truth_of(1)
    _, heard = hold(list(truth), noisy(truth, 1), 1)
    own = consistency(heard)
    assert not own.prefers_first
    assert own.flips.share is not None
    assert own.flips.share < 0.5


def test_the_rubric_puts_poems_in_order_that_were_never_compared() -> None:
    fitted = fit(["a", "b", "c", "d"], [("a", "b")], {"a": 3.0, "b": 3.0, "c": 5.0, "d": 1.0})
    assert fitted.ranks()[2] < fitted.ranks()[3]


def test_groups_that_were_never_compared_are_counted() -> None:
    assert num_groups("abcd", [("a", "b"), ("c", "d")]) == 2
    assert num_groups("abcd", [("a", "b"), ("c", "d"), ("d", "a")]) == 1
    assert num_groups("abcd", []) == 4


@given(count=st.integers(2, 40), size=st.integers(2, 6), seed=st.integers(0, 99))
def test_a_round_shows_every_poem(count: int, size: int, seed: int) -> None:
    ids = [f"p{number}" for number in range(count)]
    plan = first_round(ids, size, random.Random(seed))
    assert sorted({id_ for batch in plan for id_ in batch}) == sorted(ids)
    assert len(plan) == num_batches(count, size) or count % size
    assert all(len(batch) >= 2 for batch in plan)
    shown = sum(len(batch) for batch in plan)
    assert shown == count * (2 if size == 2 else 1)


def test_pairs_are_asked_in_both_orders() -> None:
    plan = first_round(["a", "b", "c", "d"], 2, random.Random(0))
    assert sorted(plan) == sorted(batch[::-1] for batch in plan)


def test_what_is_settled_is_not_asked_again() -> None:
    apart = {f"p{place}": (float(place), place + 0.5) for place in range(10)}
    assert next_round(apart, [("p0", "p1")], 5, random.Random(0)) == []
    near = apart | {"p3": (2.9, 4.1)}
    plan = next_round(near, [], 5, random.Random(0))
    assert [set(batch) for batch in plan] == [{"p0", "p1", "p2", "p3", "p4"}]


def test_a_judge_sees_nothing_twice() -> None:
    intervals = dict.fromkeys("abc", (-1.0, 1.0))
    for size in (2, 3):
        rng = random.Random(0)
        shown = first_round("abc", size, rng)
        for _ in range(20):
            shown += next_round(intervals, shown, size, rng)
        assert len(shown) == len(set(shown)) == 6


def test_one_batch_in_ten_is_an_earlier_one_reversed() -> None:
    ids = [f"p{number}" for number in range(50)]
    earlier = first_round(ids, 5, random.Random(0))
    plan = next_round(dict.fromkeys(ids, (-1.0, 1.0)), earlier, 5, random.Random(1))
    assert len(plan) == 10
    assert sum(batch[::-1] in earlier for batch in plan) == 1


def test_poems_near_the_line_are_contested() -> None:
    totals = {"a": 5.0, "b": 3.4, "c": 3.0, "d": 2.6, "e": 0.5}
    assert contested_poems(totals, keep=0.4, margin=1.0) == ["b", "c", "d"]
    assert contested_poems(totals, keep=0.0, margin=0.5) == []
    assert contested_poems(dict.fromkeys("abc", 3.0), keep=0.4, margin=0.0) == ["a", "b", "c"]
    assert contested_poems({}, keep=0.4, margin=1.0) == []


def test_compared_poems_share_out_the_places_and_scores_of_their_group() -> None:
    totals = {"top": 5.0, "a": 3.2, "b": 3.1, "c": 3.0, "low": 1.0}
    fitted = fit(["a", "b", "c"], [("c", "b", "a")] * 20)
    standing = positions(totals, fitted)
    assert {id_: place.rank for id_, place in standing.items()} == {
        "top": 1, "c": 2, "b": 3, "a": 4, "low": 5,
    }  # fmt: skip
    assert [standing[id_].score for id_ in "cba"] == [3.2, 3.1, 3.0]
    assert standing["top"].interval is None
    interval = standing["c"].interval
    assert interval is not None
    assert 2 <= interval[0] <= interval[1] <= 4
