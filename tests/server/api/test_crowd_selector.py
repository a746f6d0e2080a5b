"""Of a crowd that is ready a few are told at a time, and everybody else at once."""

import asyncio
import os
import select
import selectors
import socket
from collections.abc import Iterator

import pytest

if not hasattr(select, "epoll"):
    pytest.skip("this system has no epoll", allow_module_level=True)

from verse_server.crowd_selector import CrowdSelector

NUM = 100


@pytest.fixture
def selector() -> Iterator[CrowdSelector]:
    made = CrowdSelector()
    yield made
    made.close()


@pytest.fixture
def crowd(selector: CrowdSelector) -> Iterator[list[int]]:
    """Pipes of the crowd, all of which can be read."""
    pipes = [os.pipe() for _ in range(NUM)]
    for reading, writing in pipes:
        os.write(writing, b"x")
        selector.expect(reading, in_crowd=True)
        selector.register(reading, selectors.EVENT_READ, "crowd")
    yield [reading for reading, _ in pipes]
    for descriptor in (end for pipe in pipes for end in pipe):
        os.close(descriptor)


def told(selector: CrowdSelector) -> list[int]:
    return [key.fd for key, _ in selector.select(0)]


def test_all_of_a_crowd_get_a_turn_and_few_at_a_time(
    selector: CrowdSelector, crowd: list[int]
) -> None:
    turns = [told(selector) for _ in range(7)]
    assert max(map(len, turns)) <= NUM // 6
    assert {descriptor for turn in turns for descriptor in turn} == set(crowd)


def test_whoever_is_no_crowd_is_told_in_every_turn(
    selector: CrowdSelector, crowd: list[int]
) -> None:
    reading, writing = os.pipe()
    selector.expect(reading, in_crowd=True)
    selector.expect(reading, in_crowd=False)  # its number was another one's before
    selector.register(reading, selectors.EVENT_READ, "probe")
    os.write(writing, b"x")
    assert all(reading in told(selector) for _ in range(20))
    assert selector.get_key(reading).data == "probe"
    assert selector.get_key(crowd[0]).data == "crowd"
    selector.unregister(reading)
    assert reading not in told(selector)
    os.close(reading)
    os.close(writing)


def test_what_is_watched_for_may_change(selector: CrowdSelector) -> None:
    one, other = socket.socketpair()
    with one, other:
        number = one.fileno()
        selector.expect(number, in_crowd=True)
        selector.register(one, selectors.EVENT_READ)
        assert told(selector) == []
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        selector.modify(one, both, "new")
        [(key, events)] = selector.select(0)
        assert (key.data, events) == ("new", selectors.EVENT_WRITE)
        other.close()
        [(_, events)] = selector.select(0)
        assert events == both
        selector.unregister(one)
        assert told(selector) == []
        with pytest.raises(KeyError):
            selector.get_key(number)
        with pytest.raises(KeyError):
            selector.unregister(number)


def test_a_file_that_was_closed_first_can_be_unregistered(selector: CrowdSelector) -> None:
    reading, writing = os.pipe()
    selector.expect(reading, in_crowd=True)
    selector.register(reading, selectors.EVENT_READ)
    os.close(reading)
    selector.unregister(reading)
    assert told(selector) == []
    os.close(writing)


def test_an_event_loop_hears_all_of_a_crowd_and_others_between(selector: CrowdSelector) -> None:
    """A timer that is due in every turn runs many times while a crowd is told."""
    heard: list[int] = []

    async def hear() -> int:
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(NUM)]
        for one, other in pairs:
            one.setblocking(False)
            selector.expect(one.fileno(), in_crowd=True)
            loop.add_reader(one, lambda one=one: heard.append(len(one.recv(9))))
            other.send(b"x")
        num_turns = 0
        while len(heard) < NUM:
            await asyncio.sleep(0)
            num_turns += 1
        for one, other in pairs:
            loop.remove_reader(one)
            one.close()
            other.close()
        return num_turns

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(hear()) > NUM // 20
    assert heard == [1] * NUM
