import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.curate.conftest import go_to_repeat, make_items, make_session
from verse.records import OrderName
from verse.replay import Replay
from verse_clients.curate.order import arrange
from verse_clients.decisions.sources import Item

ORDERS: tuple[OrderName, ...] = ("file", "shuffle", "score", "disagreement", "theme", "active")
scores = st.none() | st.floats(0, 5)


def judged(values: list[float | None]) -> list[Item]:
    return [
        Item(candidate=item.candidate, number=item.number, score=value, disagreement=value)
        for item, value in zip(make_items(len(values)), values, strict=True)
    ]


@given(st.lists(scores, max_size=40), st.sampled_from(ORDERS), st.integers(0, 99))
def test_an_order_moves_poems_and_never_drops_one(
    values: list[float | None], order: OrderName, seed: int
) -> None:
    items = judged(values)
    slots = arrange(items, order, Replay(), seed)
    assert sorted(slot.item.number for slot in slots) == [item.number for item in items]
    assert not any(slot.repeat for slot in slots)


@pytest.mark.parametrize("order", ["score", "disagreement"])
def test_the_highest_come_first_and_the_unknown_last(order: OrderName) -> None:
    slots = arrange(judged([2.0, None, 4.0, 3.0]), order, Replay(), 0)
    assert [slot.item.number for slot in slots] == [3, 4, 1, 2]


def test_ranks_stand_in_for_scores() -> None:
    items = [
        Item(candidate=item.candidate, number=item.number, rank=rank)
        for item, rank in zip(make_items(3), (3, 1, 2), strict=True)
    ]
    slots = arrange(items, "score", Replay(), 0)
    assert [slot.item.number for slot in slots] == [2, 3, 1]


def test_themes_stay_together_in_the_order_of_the_file() -> None:
    slots = arrange(make_items(6), "theme", Replay(), 0)
    assert [slot.item.candidate.theme for slot in slots] == ["雨", "雨", "河", "河", "灯", "灯"]


def test_active_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    items = judged([float(number % 7) for number in range(60)])
    first, again, other = (
        [slot.item.number for slot in arrange(items, "active", Replay(), seed)]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_active_mixes_likely_and_uncertain_poems_from_the_start() -> None:
    items = [
        Item(candidate=item.candidate, number=item.number, score=float(item.number))
        for item in make_items(99)
    ]
    slots = arrange(items, "active", Replay(), 5)
    start = [slot.item.number for slot in slots[:9]]
    assert start[0::3] == [99, 98, 97]
    assert start[1] == 50
    assert sorted(start[4::3]) == [49, 51]  # as far from the middle


def test_active_shows_decided_poems_again_now_and_then() -> None:
    session = make_session(100)
    for _ in range(30):
        session.decide("accept")
    slots = arrange(session.items, "active", session.replay, 1)
    repeats = [place for place, slot in enumerate(slots) if slot.repeat]
    assert [slots[place].item.number <= 30 for place in repeats] == [True] * 3
    assert {slot.item.number for slot in slots} == set(range(1, 101))


def test_a_repeat_hides_the_first_decision_and_records_that_it_is_one() -> None:
    session = make_session(100)
    for _ in range(30):
        session.decide("accept")
    session.set_order("active", 1)
    go_to_repeat(session)
    assert session.verdict is None
    assert not session.source_shown
    repeated = session.current
    session.decide("reject")
    assert repeated is not None
    verdict = session.replay.verdict(repeated.item.id)
    assert verdict is not None
    assert (verdict.repeat, verdict.blind, verdict.action) == (True, True, "reject")


def test_without_scores_sources_accepted_so_far_come_first() -> None:
    session = make_session(make_items(60, mixed=True))
    for _ in range(30):
        liked = session.current is not None and session.current.item.adapter == "hushi"
        session.decide("accept" if liked else "reject")
    slots = arrange(session.items, "active", session.replay, 1)
    fresh = [slot for slot in slots[30:] if not slot.repeat]
    assert [slot.item.adapter for slot in fresh[0:9:3]] == ["hushi"] * 3
