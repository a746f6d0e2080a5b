"""Who runs next."""

from hypothesis import given, settings
from hypothesis import strategies as st

from verse_server.engine.scheduler import WaitingQueue


def queue_of(*items: str, patience: int = 4) -> WaitingQueue[str]:
    queue = WaitingQueue[str](patience)
    for item in items:
        queue.push(item)
    return queue


def everybody(_: str) -> bool:
    return True


def nobody(_: str) -> bool:
    return False


def test_first_come_first_served() -> None:
    queue = queue_of("a", "b", "c")
    assert [queue.pick(everybody) for _ in range(4)] == ["a", "b", "c", None]


def test_nobody_is_picked_while_nobody_can_run() -> None:
    queue = queue_of("a", "b")
    assert queue.pick(nobody) is None
    assert list(queue) == ["a", "b"]


def test_asking_in_vain_costs_no_patience() -> None:
    queue = queue_of("a", "b", patience=1)
    for _ in range(10):
        queue.pick(nobody)
    assert queue.pick(lambda item: item == "b") == "b"


def test_one_who_cannot_run_is_overtaken() -> None:
    queue = queue_of("a", "b", "c")
    assert queue.pick(lambda item: item != "a") == "b"
    assert list(queue) == ["a", "c"]
    assert queue.pick(everybody) == "a"


def test_after_patience_everybody_behind_waits() -> None:
    queue = queue_of("stuck", *"abcd", patience=2)

    def can_run(item: str) -> bool:
        return item != "stuck"

    assert [queue.pick(can_run) for _ in range(4)] == ["a", "b", None, None]
    assert list(queue) == ["stuck", "c", "d"]
    assert [queue.pick(everybody) for _ in range(4)] == ["stuck", "c", "d", None]


def test_one_whose_patience_is_gone_stops_only_those_behind_it() -> None:
    queue = queue_of("early", "stuck", "late", patience=1)
    assert queue.pick(lambda item: item == "late") == "late"
    queue.push("later")
    assert queue.pick(lambda item: item != "stuck") == "early"
    assert queue.pick(lambda item: item != "stuck") is None
    assert list(queue) == ["stuck", "later"]


def test_without_patience_the_order_is_strict() -> None:
    queue = queue_of("stuck", "a", patience=0)
    assert queue.pick(lambda item: item != "stuck") is None
    assert queue.pick(everybody) == "stuck"


def test_an_item_is_discarded_once() -> None:
    queue = queue_of("a", "b", "c")
    assert queue.discard("b")
    assert not queue.discard("b")
    assert list(queue) == ["a", "c"]


def test_items_are_told_apart_by_identity() -> None:
    first, second = ["same"], ["same"]
    queue = WaitingQueue[list[str]](4)
    queue.push(first)
    assert not queue.discard(second)
    queue.push(second)
    assert queue.discard(second)
    assert [item is first for item in queue] == [True]


def test_discarding_the_stuck_one_frees_those_behind_it() -> None:
    queue = queue_of("stuck", "a", "b", patience=1)
    queue.pick(lambda item: item != "stuck")
    assert queue.pick(lambda item: item != "stuck") is None
    queue.discard("stuck")
    assert queue.pick(lambda item: item != "stuck") == "b"


def test_clearing_gives_everybody_back_in_order() -> None:
    queue = queue_of("a", "b")
    assert queue.clear() == ["a", "b"]
    assert len(queue) == 0
    assert queue.pick(everybody) is None


@settings(deadline=None)
@given(
    st.integers(0, 4),
    st.lists(
        st.one_of(st.just("push"), st.sets(st.integers(0, 20)), st.integers(0, 20)), max_size=60
    ),
)
def test_nobody_is_overtaken_more_often_than_patience_allows(
    patience: int, actions: list[str | set[int] | int]
) -> None:
    """Pushes, picks among those who can run, and discards, in any order."""
    queue, waiting = WaitingQueue[int](patience), list[int]()
    overtaken: dict[int, int] = {}
    for number, action in enumerate(actions):
        if isinstance(action, str):
            queue.push(number)
            waiting.append(number)
            overtaken[number] = 0
        elif isinstance(action, int):
            assert queue.discard(action) == (action in waiting)
            waiting = [item for item in waiting if item != action]
        else:
            picked = queue.pick(action.__contains__)
            able = [item for item in waiting if item in action]
            if picked is None:
                ahead = waiting[: waiting.index(able[0])] if able else []
                assert not able or any(overtaken[item] == patience for item in ahead)
            else:
                assert picked == able[0]
                for item in waiting[: waiting.index(picked)]:
                    overtaken[item] += 1
                waiting.remove(picked)
        assert list(queue) == waiting
        assert len(queue) == len(waiting)
        assert all(count <= patience for count in overtaken.values())
