"""Who runs next. Pure: no mlx, no I/O."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Entry(Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item
        self.overtaken = 0


class WaitingQueue(Generic[T]):
    """First come, first served, but nobody waits behind one who cannot run yet.

    - The first that can run is picked.
    - One who cannot run (its adapter finds no free slot) is overtaken at most `patience` times;
      then everybody behind waits until it can.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._entries: list[_Entry[T]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        return (entry.item for entry in self._entries)

    def push(self, item: T) -> None:
        """Join at the end."""
        self._entries.append(_Entry(item))

    def pick(self, can_run: Callable[[T], bool]) -> T | None:
        """Take out the next item to run; None if nobody may."""
        for index, entry in enumerate(self._entries):
            if can_run(entry.item):
                for passed in self._entries[:index]:
                    passed.overtaken += 1
                del self._entries[index]
                return entry.item
            if entry.overtaken >= self._patience:
                return None
        return None

    def discard(self, item: T) -> bool:
        """Leave the queue; whether the item was in it."""
        for index, entry in enumerate(self._entries):
            if entry.item is item:
                del self._entries[index]
                return True
        return False

    def clear(self) -> list[T]:
        """Everybody leaves."""
        items = list(self)
        self._entries.clear()
        return items
