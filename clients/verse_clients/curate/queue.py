"""The slots in their order, those of them that the filter shows, and where the poet is."""

from collections.abc import Callable, Iterable, Sequence

from verse_clients.curate.slots import Slot
from verse_clients.decisions.sources import Item

Test = Callable[[Slot], bool]


class Queue:
    """Knows places; what a decision is, it does not know."""

    def __init__(self) -> None:
        """Start empty."""
        self.visible: list[Slot] = []
        self.cursor = 0
        """Place of the current slot among the visible ones, from 0."""
        self._slots: list[Slot] = []

    @property
    def current(self) -> Slot | None:
        """The slot at the cursor; None when nothing is shown."""
        return self.visible[self.cursor] if self.visible else None

    def arrange(self, slots: Iterable[Slot]) -> None:
        """Take a new order; `show` makes it visible."""
        self._slots = list(slots)

    def show(self, shown: Test, is_open: Test) -> None:
        """Apply a filter; stay on the current slot, or go to the first open one."""
        keep = self.current
        self.visible = [slot for slot in self._slots if shown(slot)]
        if keep is None or not self.find(keep.item.id, repeat=keep.repeat):
            places = (place for place, slot in enumerate(self.visible) if is_open(slot))
            self.cursor = next(places, 0)

    def find(self, poem: str, *, repeat: bool = False) -> bool:
        """Go to a visible poem; returns whether it is there."""
        same = [place for place, slot in enumerate(self.visible) if slot.item.id == poem]
        exact = [place for place in same if self.visible[place].repeat == repeat]
        if same:
            self.cursor = (exact or same)[0]
        return bool(same)

    def move(self, steps: int) -> None:
        """Go forward, or back if negative, as far as the queue reaches."""
        self.cursor = max(0, min(self.cursor + steps, len(self.visible) - 1))

    def advance(self, is_open: Test) -> None:
        """Go to the next open slot behind this one, else to the first open one, else stay."""
        around = [*range(self.cursor + 1, len(self.visible)), *range(self.cursor)]
        self.cursor = next((place for place in around if is_open(self.visible[place])), self.cursor)

    def go_behind(self, poem: str, is_open: Test) -> None:
        """Go to the first open slot behind a poem's, which need not be visible itself."""
        places = {slot: place for place, slot in enumerate(self._slots)}
        before = max((p for slot, p in places.items() if slot.item.id == poem), default=-1)
        open_ = [p for p, slot in enumerate(self.visible) if is_open(slot)]
        behind = (p for p in open_ if places[self.visible[p]] > before)
        self.cursor = next(behind, open_[0] if open_ else self.cursor)

    def insert(self, items: Sequence[Item]) -> None:
        """Put new items right behind the current slot."""
        new = [Slot(item) for item in items]
        current = self.current
        for slots in (self._slots, self.visible):
            place = slots.index(current) + 1 if current and current in slots else len(slots)
            slots[place:place] = new
