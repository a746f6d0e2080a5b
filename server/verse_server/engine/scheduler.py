"""Who runs next. Pure: no mlx, no I/O."""

import heapq
import math
from collections.abc import Callable, Iterator
from itertools import takewhile
from operator import attrgetter
from typing import Generic, TypeVar

T = TypeVar("T")

_OLD = 8
"""After so many times `max_skips` picks, whoever still waits comes first."""


class _Entry(Generic[T]):
    def __init__(self, item: T, number: int, group: tuple[bool, str], picks_before: int) -> None:
        self.item = item
        self.number = number
        """Counts all who ever came."""
        self.group = group
        """Whether it was sent as a batch, and by whom: within a group the first come is served."""
        self.picks_before = picks_before
        self.overtaken = 0
        """Times that it could not run while one behind it did."""


def _idle(_client: str) -> int:
    return 0


def _never(_item: object) -> bool:
    return False


class WaitingQueue(Generic[T]):
    """The client with the fewest rows comes first, but nobody waits behind one who cannot run.

    - What was sent as a batch comes after everything else.
    - Then the client with the fewest running rows is served; among those, the first come.
    - Nobody is put off for ever: after many picks an entry comes first, whoever sent it.
    - One who cannot run (its adapter finds no free slot) is overtaken at most `max_skips` times;
      then everybody behind waits until it can. One whose adapter is on its way from the disk is
      overtaken without being counted: waiting for a file makes room for nobody.

    A pick costs as much as there are clients, however many requests wait: the engine's thread picks
    between two steps.
    """

    def __init__(self, max_skips: int) -> None:
        self._max_skips = max_skips
        self._entries: dict[int, _Entry[T]] = {}
        """By their numbers, and so in the order in which they came; those of each group, too."""
        self._groups: dict[tuple[bool, str], dict[int, _Entry[T]]] = {}
        self._num_pushed = self._num_picks = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        return (entry.item for entry in self._entries.values())

    def push(self, item: T, client: str = "", *, is_batch: bool = False) -> None:
        """Join at the end."""
        group = (is_batch, client)
        entry = _Entry(item, self._num_pushed, group, self._num_picks)
        self._num_pushed += 1
        self._entries[entry.number] = entry
        self._groups.setdefault(group, {})[entry.number] = entry

    def pick(
        self,
        can_run: Callable[[T], bool],
        num_running: Callable[[str], int] = _idle,
        is_loading: Callable[[T], bool] = _never,
    ) -> T | None:
        """Take out the next item to run; None if nobody may.

        Args:
            can_run: Whether there is room for an item now.
            num_running: Rows that a client has in the batch.
            is_loading: Whether an item that cannot run waits for a file.
        """
        passed: list[_Entry[T]] = []
        for entry in self._in_turn(num_running):
            if can_run(entry.item):
                self._remove(entry)
                self._num_picks += 1
                for other in passed:
                    other.overtaken += 1
                return entry.item
            if is_loading(entry.item):
                continue
            if entry.overtaken >= self._max_skips:
                return None
            passed.append(entry)
        return None

    def discard(self, item: T) -> bool:
        """Leave the queue; whether the item was in it."""
        for entry in self._entries.values():
            if entry.item is item:
                self._remove(entry)
                return True
        return False

    def clear(self) -> list[T]:
        """Everybody leaves."""
        items = list(self)
        self._entries.clear()
        self._groups.clear()
        return items

    def _in_turn(self, num_running: Callable[[str], int]) -> Iterator[_Entry[T]]:
        """Whoever has waited for long, then everybody as they come; no queue is sorted for it."""
        old = list(takewhile(self._is_old, self._entries.values()))
        yield from old
        alike: dict[tuple[bool, int], list[dict[int, _Entry[T]]]] = {}
        for (is_batch, client), entries in self._groups.items():
            alike.setdefault((is_batch, num_running(client)), []).append(entries)
        for turn in sorted(alike):
            lines = [iter(entries.values()) for entries in alike[turn]]
            for entry in heapq.merge(*lines, key=attrgetter("number")):
                if not self._is_old(entry):
                    yield entry

    def _is_old(self, entry: _Entry[T]) -> bool:
        return self._num_picks - entry.picks_before >= _OLD * self._max_skips

    def _remove(self, entry: _Entry[T]) -> None:
        del self._entries[entry.number]
        group = self._groups[entry.group]
        del group[entry.number]
        if not group:
            del self._groups[entry.group]


_NEXT_LOAD_SECONDS = 0.2
"""Until one adapter more has come in."""
_ALL_LOADS_SECONDS = 1.0


class LoadGate:
    """Who comes to an idle engine waits for the adapters of those who came along.

    Prompts that begin together are computed together. If whoever has an adapter first began at
    once, the others would come in between its steps, bit by bit, which takes several times as long.
    A large adapter, or a slow disk, holds nobody up for long.
    """

    def __init__(self) -> None:
        self.is_shut = False
        self._num_loaded = 0
        self._next = self._end = 0.0

    def shut(self, now: float, num_loaded: int) -> None:
        """Something has come to an idle engine, when so many adapters had been loaded."""
        self.is_shut, self._num_loaded = True, num_loaded
        self._next, self._end = now + _NEXT_LOAD_SECONDS, now + _ALL_LOADS_SECONDS

    def holds(self, now: float, num_loaded: int, *, is_loading: bool) -> bool:
        """Whether those who could begin still wait; once they do not, the gate stays open."""
        if num_loaded != self._num_loaded:
            self._num_loaded, self._next = num_loaded, now + _NEXT_LOAD_SECONDS
        self.is_shut = self.is_shut and is_loading and now < min(self._next, self._end)
        return self.is_shut


class RequestRate:
    """How fast requests are done, for telling those who cannot wait here when to come back."""

    _WEIGHT = 0.1
    _LONGEST = 60

    def __init__(self) -> None:
        self._last: float | None = None
        self._seconds_each = 0.0

    def note(self, now: float) -> None:
        """A request is done; `now` on any steady clock."""
        if self._last is not None:
            self._seconds_each += self._WEIGHT * (now - self._last - self._seconds_each)
        self._last = now

    def seconds_for(self, num_requests: int) -> int:
        """Whole seconds until half of so many are done, 1 to 60."""
        seconds = math.ceil(num_requests / 2 * self._seconds_each)
        return min(max(seconds, 1), self._LONGEST)
