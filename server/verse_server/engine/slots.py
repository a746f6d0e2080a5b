"""Which adapter sits in which slot. Pure: no mlx, no I/O.

An adapter is pinned while a row uses it. Only what nothing pins is evicted, least recently used
first.
"""

from collections.abc import Collection


class SlotTable:
    """A fixed number of slots shared by any number of adapter versions."""

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._slots: dict[str, int] = {}  # digest -> slot, least recently used first
        self._pins: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, digest: str) -> bool:
        return digest in self._slots

    @property
    def num_pinned(self) -> int:
        """Adapters that a row uses now."""
        return len(self._pins)

    def placements(self) -> list[tuple[str, int, int]]:
        """(digest, slot, pins) of every resident adapter. Any thread may ask."""
        pins = self._pins.copy()
        return [(digest, slot, pins.get(digest, 0)) for digest, slot in self._slots.copy().items()]

    def slot_of(self, digest: str) -> int:
        """The slot of a resident adapter."""
        return self._slots[digest]

    def can_pin(self, digests: Collection[str]) -> bool:
        """Whether all of these could be resident together with everything pinned now."""
        return len(self._pins.keys() | set(digests)) <= self._num_slots

    def pin(self, digest: str) -> tuple[int, str | None] | None:
        """Pin an adapter, giving it a slot if it has none.

        Returns:
            None if it was resident; else the slot to load it into and the version evicted from it.

        Raises:
            LookupError: everything is pinned; ask `can_pin` first.
        """
        placement = None if digest in self._slots else self._place(digest)
        self._slots[digest] = self._slots.pop(digest)
        self._pins[digest] = self._pins.get(digest, 0) + 1
        return placement

    def unpin(self, digest: str) -> None:
        """Take one pin back."""
        if self._pins[digest] == 1:
            del self._pins[digest]
        else:
            self._pins[digest] -= 1

    def forget(self, digest: str) -> None:
        """Free the slot of an adapter that could not be loaded."""
        self._pins.pop(digest, None)
        self._slots.pop(digest, None)

    def _place(self, digest: str) -> tuple[int, str | None]:
        taken = set(self._slots.values())
        free = next((slot for slot in range(self._num_slots) if slot not in taken), None)
        if free is not None:
            self._slots[digest] = free
            return free, None
        evicted = next((d for d in self._slots if d not in self._pins), None)
        if evicted is None:
            raise LookupError("every slot is pinned")
        self._slots[digest] = self._slots.pop(evicted)
        return self._slots[digest], evicted
