"""Tells the event loop what is ready, and of a crowd only a few at a time.

Asyncio handles in one turn all that is ready. When a thousand clients close their connections at
the same moment that is one turn of 50 ms and more, in which no stream gets its next token and
`/health` is not even accepted. Here connections count as a crowd: some of them are handled in each
turn, those that have waited longest first, and whatever is no crowd in every turn.
"""

import select
import selectors
from collections import ChainMap
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

_AT_ONCE = 16
"""Of the crowd, in one turn; well below a millisecond for most of what they ask."""
_EPOLLIN, _EPOLLOUT = 1, 4
"""`select` has them on Linux alone."""


class CrowdSelector(selectors.BaseSelector):
    """A selector of Linux' epoll, with a second one in it for the crowd.

    The system itself puts what was told behind what was not, so everybody gets a turn.
    """

    def __init__(self) -> None:
        self._others = selectors.DefaultSelector()
        self._poll = select.epoll()
        self._others.register(self._poll.fileno(), selectors.EVENT_READ)
        self._crowd: dict[int, selectors.SelectorKey] = {}
        self._expected: set[int] = set()

    def expect(self, descriptor: int, *, in_crowd: bool) -> None:
        """Say where a file belongs that is about to be registered, now and later again.

        Its number may have been another one's before. Who is in the crowd by mistake gets its turn
        all the same.
        """
        (self._expected.add if in_crowd else self._expected.discard)(descriptor)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a file; see `selectors`."""
        descriptor = _descriptor(fileobj)
        if descriptor not in self._expected:
            return self._others.register(fileobj, events, data)
        key = selectors.SelectorKey(fileobj, descriptor, events, data)
        self._poll.register(descriptor, _mask(events))
        self._crowd[descriptor] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Watch a file no longer."""
        descriptor = _descriptor(fileobj)
        key = self._crowd.pop(descriptor, None)
        if key is None:
            return self._others.unregister(fileobj)
        with suppress(OSError):  # closed already, which takes it out
            self._poll.unregister(descriptor)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch it for something else."""
        descriptor = _descriptor(fileobj)
        known = self._crowd.get(descriptor)
        if known is None:
            return self._others.modify(fileobj, events, data)
        if events != known.events:
            self._poll.modify(descriptor, _mask(events))
        self._crowd[descriptor] = key = known._replace(events=events, data=data)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait until something is ready: of the crowd a few, of the others all that is."""
        poll = self._poll.fileno()
        found = self._others.select(timeout)
        ready = [(key, events) for key, events in found if key.fd != poll]
        if len(ready) < len(found):
            ready += self._some_of_the_crowd()
        return ready

    def _some_of_the_crowd(self) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = []
        for descriptor, flags in self._poll.poll(0, _AT_ONCE):
            key = self._crowd.get(descriptor)
            if key is not None:
                # Who is broken is told to both, as `selectors` does.
                reads = selectors.EVENT_READ if flags & ~_EPOLLOUT else 0
                writes = selectors.EVENT_WRITE if flags & ~_EPOLLIN else 0
                ready.append((key, (reads | writes) & key.events))
        return ready

    def close(self) -> None:
        """Watch nothing any more."""
        self._others.close()
        self._poll.close()
        self._crowd.clear()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """All that is watched, and the crowd as one file among it."""
        return ChainMap(self._crowd, cast(Any, self._others.get_map()))

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """How a file is watched. Raises a KeyError if it is not."""
        return self._crowd.get(_descriptor(fileobj)) or self._others.get_key(fileobj)


def _descriptor(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else fileobj.fileno()


def _mask(events: int) -> int:
    return (_EPOLLIN if events & selectors.EVENT_READ else 0) | (
        _EPOLLOUT if events & selectors.EVENT_WRITE else 0
    )
