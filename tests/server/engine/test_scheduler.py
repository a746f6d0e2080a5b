"""Who runs next."""

import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from verse_server.engine.scheduler import LoadGate, RequestRate, WaitingQueue


def queue_of(*items: str, max_skips: int = 4) -> WaitingQueue[str]:
    queue = WaitingQueue[str](max_skips)
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


def test_asking_in_vain_costs_no_skip() -> None:
    queue = queue_of("a", "b", max_skips=1)
    for _ in range(10):
        queue.pick(nobody)
    assert queue.pick(lambda item: item == "b") == "b"


def test_one_who_cannot_run_is_overtaken() -> None:
    queue = queue_of("a", "b", "c")
    assert queue.pick(lambda item: item != "a") == "b"
    assert list(queue) == ["a", "c"]
    assert queue.pick(everybody) == "a"


def test_after_max_skips_everybody_behind_waits() -> None:
    queue = queue_of("stuck", *"abcd", max_skips=2)

    def can_run(item: str) -> bool:
        return item != "stuck"

    assert [queue.pick(can_run) for _ in range(4)] == ["a", "b", None, None]
    assert list(queue) == ["stuck", "c", "d"]
    assert [queue.pick(everybody) for _ in range(4)] == ["stuck", "c", "d", None]


def test_one_whose_max_skips_is_gone_stops_only_those_behind_it() -> None:
    queue = queue_of("early", "stuck", "late", max_skips=1)
    assert queue.pick(lambda item: item == "late") == "late"
    queue.push("later")
    assert queue.pick(lambda item: item != "stuck") == "early"
    assert queue.pick(lambda item: item != "stuck") is None
    assert list(queue) == ["stuck", "later"]


def test_without_max_skips_the_order_is_strict() -> None:
    queue = queue_of("stuck", "a", max_skips=0)
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
    queue = queue_of("stuck", "a", "b", max_skips=1)
    queue.pick(lambda item: item != "stuck")
    assert queue.pick(lambda item: item != "stuck") is None
    queue.discard("stuck")
    assert queue.pick(lambda item: item != "stuck") == "b"


def test_clearing_gives_everybody_back_in_order() -> None:
    queue = queue_of("a", "b")
    assert queue.clear() == ["a", "b"]
    assert len(queue) == 0
    assert queue.pick(everybody) is None


def test_a_client_with_fewer_rows_comes_before_one_with_more() -> None:
    queue = WaitingQueue[str](4)
    for number in range(3):
        queue.push(f"bulk{number}", "writer")
    queue.push("chat", "reader")
    running = {"writer": 31, "reader": 0}
    assert queue.pick(everybody, lambda client: running[client]) == "chat"
    assert queue.pick(everybody, lambda client: running[client]) == "bulk0"


def test_a_batch_comes_after_everything_else_whoever_sent_it() -> None:
    queue = WaitingQueue[str](4)
    queue.push("poem", "a", is_batch=True)
    queue.push("chat", "b")
    assert queue.pick(everybody, lambda client: {"a": 0, "b": 9}[client]) == "chat"
    assert queue.pick(everybody) == "poem"


def test_a_batch_is_not_put_off_for_ever() -> None:
    queue = WaitingQueue[str](1)
    queue.push("poem", is_batch=True)
    picked: list[str | None] = []
    for number in range(20):
        queue.push(f"chat{number}")
        picked.append(queue.pick(everybody))
    assert "poem" in picked


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_clients_that_always_ask_share_the_rows_evenly(senders: list[int]) -> None:
    queue = WaitingQueue[str](100)
    for sender in senders:
        queue.push(str(sender), str(sender))
    running: dict[str, int] = {str(sender): 0 for sender in senders}
    left = {client: senders.count(int(client)) for client in running}
    while (picked := queue.pick(everybody, running.__getitem__)) is not None:
        assert running[picked] == min(running[client] for client in running if left[client])
        running[picked] += 1
        left[picked] -= 1
    assert not any(left.values())


def test_a_pick_does_not_look_at_all_who_wait() -> None:
    queue, running = WaitingQueue[str](32), {"a": 2, "b": 1, "c": 1}
    for number in range(3000):
        queue.push(f"{number}", "abc"[number % 3], is_batch=number % 2 == 0)
    calls: list[str] = []
    sys.setprofile(lambda _frame, event, _: calls.append(event))
    try:
        picked = [queue.pick(everybody, running.__getitem__) for _ in range(3)]
    finally:
        sys.setprofile(None)
    assert picked == ["1", "5", "7"]
    assert len(calls) < 300


def test_the_time_to_come_back_follows_the_pace() -> None:
    pace = RequestRate()
    assert pace.seconds_for(512) == 1
    for second in range(0, 400, 2):
        pace.note(second)
    assert pace.seconds_for(10) == 10
    assert pace.seconds_for(1000) == 60


@settings(deadline=None)
@given(
    st.integers(0, 4),
    st.lists(
        st.one_of(st.just("push"), st.sets(st.integers(0, 20)), st.integers(0, 20)), max_size=60
    ),
)
def test_nobody_is_overtaken_more_often_than_max_skips_allows(
    max_skips: int, actions: list[str | set[int] | int]
) -> None:
    """Pushes, picks among those who can run, and discards, in any order."""
    queue, waiting = WaitingQueue[int](max_skips), list[int]()
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
                assert not able or any(overtaken[item] == max_skips for item in ahead)
            else:
                assert picked == able[0]
                for item in waiting[: waiting.index(picked)]:
                    overtaken[item] += 1
                waiting.remove(picked)
        assert list(queue) == waiting
        assert len(queue) == len(waiting)
        assert all(count <= max_skips for count in overtaken.values())


def test_waiting_for_a_file_holds_nobody_up_however_often_one_is_overtaken() -> None:
    queue = WaitingQueue[str](max_skips=1)
    for item in ("loads", "a", "b", "c"):
        queue.push(item)
    loading = {"loads"}

    def pick() -> str | None:
        return queue.pick(lambda item: item not in loading, is_loading=loading.__contains__)

    assert [pick(), pick(), pick(), pick()] == ["a", "b", "c", None]
    queue.push("d")
    loading.clear()
    assert [pick(), pick()] == ["loads", "d"]


def test_rows_wait_for_adapters_of_those_who_came_along_while_one_after_another_comes_in() -> None:
    gate = LoadGate()
    assert not gate.holds(0.0, 5, is_loading=True)  # nothing has come to an idle engine
    gate.shut(10.0, 5)
    assert gate.holds(10.1, 5, is_loading=True)
    assert gate.holds(10.19, 6, is_loading=True)
    assert gate.holds(10.3, 6, is_loading=True)
    assert not gate.holds(10.31, 7, is_loading=False)
    assert not gate.is_shut
    assert not gate.holds(10.32, 8, is_loading=True)  # it began, and those who come now come later


def test_a_large_adapter_or_a_slow_disk_holds_nobody_up_for_long() -> None:
    gate = LoadGate()
    gate.shut(10.0, 0)
    assert not gate.holds(10.21, 0, is_loading=True)
    gate.shut(20.0, 0)
    held = [gate.holds(20.0 + n / 10, n, is_loading=True) for n in range(40)]
    assert held == [True] * 10 + [False] * 30
