"""The poems in their order, those of them that the filter shows, and where the poet is."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Literal, NamedTuple

import msgspec

from verse.records import Decision
from verse.replay import Replay
from verse_clients.decisions.sources import Item
from verse_clients.screening import Finding, Reason

StateName = Literal["all", "open", "accepted", "edited", "rejected", "skipped", "starred"]
FlagName = Literal["all", "near", "copy", "cut", "thought"]


class Slot(NamedTuple):
    """A place in the queue."""

    item: Item
    repeat: bool = False
    """Shown again on purpose, to see whether the poet decides alike."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which poems the queue shows; empty text and `all` let everything through."""

    state: StateName = "all"
    theme: str = ""
    adapter: str = ""
    flag: FlagName = "all"
    search: str = ""
    """Found in the theme, the poem or the poet's version of it."""


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
        around = chain(range(self.cursor + 1, len(self.visible)), range(self.cursor))
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


_REASONS: dict[FlagName, Reason] = {
    "near": "near", "copy": "copy", "cut": "truncated", "thought": "thought",
}  # fmt: skip
_ACTION_OF_STATE = {"rejected": "reject", "skipped": "skip", "edited": "edit"}


def lets_through(filter_: Filter, slot: Slot, replay: Replay, flags: Sequence[Finding]) -> bool:
    """Whether a slot belongs to what the poet asked to see."""
    item = slot.item
    verdict = replay.verdict(item.id)
    return (
        (not filter_.theme or item.candidate.theme == filter_.theme)
        and (not filter_.adapter or item.adapter == filter_.adapter)
        and (filter_.flag == "all" or _REASONS[filter_.flag] in {flag.reason for flag in flags})
        and _has_state(filter_.state, verdict, replay.stars(item.id))
        and _holds(filter_.search, slot, verdict)
    )


def _has_state(state: str, verdict: Decision | None, stars: int | None) -> bool:
    if state == "all":
        return True
    if state == "open":
        return verdict is None
    if state == "starred":
        return stars is not None
    if state == "accepted":
        return verdict is not None and verdict.action in ("accept", "edit")
    return verdict is not None and verdict.action == _ACTION_OF_STATE[state]


def _holds(search: str, slot: Slot, verdict: Decision | None) -> bool:
    if not search:
        return True
    candidate = slot.item.candidate
    texts = (candidate.theme, candidate.text, (verdict and verdict.text) or "")
    return any(search.casefold() in text.casefold() for text in texts)
