"""The poet at work: the queue, where the poet is in it, and what the poet does. No window, no disk.

The order of events in every decision: write the entry (the caller's `write` brings it to the disk),
take it into the state, move on. So what is shown next is shown after the last decision is safe.

While the poet reads blind, nothing that is shown and no order follows from a poem's score, rank,
adapter or checkpoint, nor from its place in the file, which in a judged file is its rank. What an
entry says about that (`blind`, `order`) is true when it is written, and a source that was in view
once stays known.

The queue is filtered when the filter is set, not again at every decision: a poem that was just
decided stays where it was, one arrow away.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from verse.decision_journal import edit_distance
from verse.records import Decision, JournalEntry, OrderName, PairDecision, Undo
from verse.replay import Replay
from verse_clients.curate.order import arrange, has_something_to_hide, is_blind_order, neutral
from verse_clients.curate.queue import Filter, Queue, Slot, lets_through
from verse_clients.curate.store import WindowState
from verse_clients.decisions.sources import Item
from verse_clients.screening import Finding

Plain = Literal["accept", "reject", "skip"]
PairVerdict = Literal["left", "right", "tie", "both_bad"]
Write = Callable[[JournalEntry], object]
Clock = Callable[[], datetime]


class CurationSession:
    """The poet at work on one set of poems."""

    def __init__(
        self,
        items: Sequence[Item],
        entries: Iterable[JournalEntry] = (),
        *,
        write: Write,
        clock: Clock,
        session_id: str = "",
        state: WindowState | None = None,
    ) -> None:
        """Begin where `state` says, or after the last entry if that is newer.

        Args:
            items: The poems; of those with the same id the first is taken.
            entries: The journal so far.
            write: Brings an entry to the disk.
            clock: The time, with its zone.
            session_id: Name of this session in the journal.
            state: Where the poet was; the first open poem if None.
        """
        state = state or WindowState()
        once = list({item.id: item for item in reversed(items)}.values())[::-1]
        self.items = neutral(once, state.seed)
        self._by_id = {item.id: item for item in once}
        self._pairs_order: OrderName = "shuffle" if has_something_to_hide(once) else "file"
        self.replay = Replay(entries)
        self.order: OrderName = state.order
        self.order_chosen = state.order_chosen
        self.seed = state.seed
        self.filter = _without_adapter(state.filter) if state.blind else state.filter
        self._write = write
        self._clock = clock
        self._session_id = session_id
        self._hidden = state.blind
        self._is_blind_order = True
        self._flags: dict[str, list[Finding]] = defaultdict(list)
        self._seen = set(state.seen)
        self._seen_repeats: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._queue = Queue()
        self._arrange()
        self._resume(state)

    # What is shown

    @property
    def current(self) -> Slot | None:
        """The slot before the poet's eyes; None when the filter lets nothing through."""
        return self._queue.current

    @property
    def visible(self) -> Sequence[Slot]:
        """The queue as the filter leaves it."""
        return self._queue.visible

    @property
    def cursor(self) -> int:
        """Place of the current slot among the visible ones, from 0."""
        return self._queue.cursor

    @property
    def verdict(self) -> Decision | None:
        """What stands about the current poem; hidden while it is shown as a repeat."""
        if self.current is None or self.is_open(self.current):
            return None
        return self.replay.verdict(self.current.item.id)

    @property
    def text(self) -> str:
        """The current poem, in the poet's version if there is one."""
        if self.current is None:
            return ""
        return (self.verdict and self.verdict.text) or self.current.item.candidate.text

    @property
    def source_shown(self) -> bool:
        """Whether adapter, checkpoint and score are to be seen."""
        return not self._hidden

    @property
    def blind(self) -> bool:
        """Whether nothing tells of sources and scores: neither the screen nor the order."""
        return self._hidden and self._is_blind_order and not self.filter.adapter

    def number(self, poem: str) -> int:
        """What to call a poem: its place in the order, from 1."""
        return self._numbers[poem]

    def is_open(self, slot: Slot) -> bool:
        """Whether a slot still waits for a decision."""
        verdict = self.replay.verdict(slot.item.id)
        return verdict is None or (slot.repeat and not verdict.repeat)

    def flags(self, poem: str) -> Sequence[Finding]:
        """What is odd about a poem."""
        return self._flags.get(poem, ())

    def item(self, poem: str) -> Item | None:
        """The item with an id."""
        return self._by_id.get(poem)

    def verdicts(self) -> Iterator[Decision]:
        """What stands about these poems: as many steps as were decided, not as there are."""
        return (v for v in self.replay.verdicts() if v.candidate.id in self._by_id)

    # Deciding

    def decide(self, action: Plain) -> None:
        """Accept, reject or skip the current poem, and move on."""
        self._record_verdict(action)

    def edit(self, text: str) -> bool:
        """Accept the current poem in the poet's version, and move on.

        A text that equals the original is an acceptance, so undoing one's changes undoes the edit.

        Returns:
            Whether it was taken: an empty poem is not.
        """
        if self.current is None or not text.strip():
            return False
        original = self.current.item.candidate.text
        if text == original:
            self._record_verdict("accept")
        else:
            self._record_verdict("edit", text, edit_distance(original, text))
        return True

    def rate(self, stars: int) -> None:
        """Give the current poem 1 to 5 stars; it stays in view and undecided."""
        if self.current is not None:
            self._record(self._decision(self.current, "rate", stars=stars))

    def compare(self, left: Item, right: Item, verdict: PairVerdict) -> None:
        """Say which of two poems is the better one."""
        self._record(
            PairDecision(
                left=left.candidate,
                right=right.candidate,
                verdict=verdict,
                blind=self._hidden and not any(self._was_seen(item.id) for item in (left, right)),
                order=self._pairs_order,
                order_seed=self.seed,
                time=self._clock(),
                session=self._session_id,
            )
        )

    def undo(self) -> Decision | PairDecision | None:
        """Take the last decision back and return to its poem; None at the very beginning."""
        return self._take_back(self.replay.undo_place())

    def redo(self) -> Decision | PairDecision | None:
        """Decide again as before the last undo, and move on; None if there is none."""
        decision = self._take_back(self.replay.redo_place())
        if isinstance(decision, Decision) and decision.action != "rate":
            self._advance()
        return decision

    # Moving

    def move(self, steps: int) -> None:
        """Go forward, or back if negative, as far as the queue reaches."""
        self._queue.move(steps)
        self._arrive()

    def go_to(self, poem: str, *, repeat: bool = False) -> bool:
        """Show a poem, without the filter if that hides it; returns whether there is such a one."""
        if not self._queue.find(poem, repeat=repeat) and self.item(poem) is not None:
            self.set_filter(Filter())
            self._queue.find(poem, repeat=repeat)
        self._arrive()
        return self.current is not None and self.current.item.id == poem

    def set_filter(self, filter_: Filter) -> None:
        """Show other poems, staying on the current one if it is among them."""
        self.filter = filter_
        self._show()

    def set_order(self, order: OrderName, seed: int = 0) -> None:
        """Arrange the queue anew, staying on the current poem."""
        self.order, self.seed, self.order_chosen = order, seed, True
        self._arrange()
        self._show()

    def toggle_blind(self) -> None:
        """Show or hide the sources; a filter by adapter would tell them."""
        self._hidden = not self._hidden
        if self._hidden and self.filter.adapter:
            self.set_filter(_without_adapter(self.filter))
        self._arrive()

    # What comes from outside

    def add_flags(self, flags: Iterable[tuple[str, Finding]]) -> None:
        """Take in what was found out about poems in the meantime."""
        for poem, flag in flags:
            if flag not in self._flags[poem]:
                self._flags[poem].append(flag)

    def add_items(self, items: Iterable[Item], *, source_known: bool = False) -> list[Item]:
        """Queue new poems right behind the current one; returns those that were new.

        Args:
            items: The poems.
            source_known: Whether the poet asked for them by the model's name.
        """
        fresh = [item for item in items if item.id not in self._by_id]
        self.items.extend(fresh)
        self._by_id.update((item.id, item) for item in fresh)
        self._count(fresh)
        if source_known:
            self._seen.update(item.id for item in fresh)
        self._queue.insert(fresh)
        return fresh

    def state(self) -> WindowState:
        """Where the poet is."""
        slot = self.current
        return WindowState(
            poem=slot.item.id if slot else "",
            repeat=slot.repeat if slot else False,
            num_entries=len(self.replay.entries),
            order=self.order,
            order_chosen=self.order_chosen,
            seed=self.seed,
            filter=self.filter,
            blind=self._hidden,
            seen=tuple(sorted(poem for poem in self._seen if not self.replay.was_seen(poem))),
        )

    # Inside

    def _decision(
        self,
        slot: Slot,
        action: Literal["accept", "edit", "reject", "skip", "rate"],
        text: str | None = None,
        distance: int | None = None,
        stars: int | None = None,
    ) -> Decision:
        return Decision(
            action=action,
            candidate=slot.item.candidate,
            text=text,
            edit_distance=distance,
            stars=stars,
            blind=self.blind and not self._knows_source(slot),
            order=self.order,
            order_seed=self.seed,
            repeat=slot.repeat,
            time=self._clock(),
            session=self._session_id,
        )

    def _knows_source(self, slot: Slot) -> bool:
        """A source once seen is not forgotten, except that a repeat comes long after."""
        poem = slot.item.id
        return poem in self._seen_repeats if slot.repeat else self._was_seen(poem)

    def _was_seen(self, poem: str) -> bool:
        """Whether the source of a poem, or of one that is nearly the same, was in view."""
        alike = (flag.other for flag in self.flags(poem) if flag.reason == "near")
        return any(one in self._seen or self.replay.was_seen(one) for one in (poem, *alike))

    def _record_verdict(
        self,
        action: Literal["accept", "edit", "reject", "skip"],
        text: str | None = None,
        distance: int | None = None,
    ) -> None:
        if self.current is not None:
            self._record(self._decision(self.current, action, text, distance))
            self._advance()

    def _record(self, entry: JournalEntry) -> None:
        self._write(entry)
        self.replay.apply(entry)

    def _take_back(self, place: int | None) -> Decision | PairDecision | None:
        if place is None:
            return None
        undo = Undo(undone=place, time=self._clock(), session=self._session_id)
        self._record(undo)
        decision = self.replay.behind(undo)
        if isinstance(decision, Decision):
            self.go_to(decision.candidate.id, repeat=decision.repeat)
        return decision

    def _advance(self) -> None:
        self._queue.advance(self.is_open)
        self._arrive()

    def _arrive(self) -> None:
        """What is shown with its source, or in an order that tells it, has been seen with it."""
        if not self.blind and self.current is not None:
            seen = self._seen_repeats if self.current.repeat else self._seen
            seen.add(self.current.item.id)

    def _arrange(self) -> None:
        slots = arrange(self.items, self.order, self.replay, self.seed)
        self._is_blind_order = is_blind_order(self.order, self.items)
        self._numbers.clear()
        self._count(slot.item for slot in slots)
        self._queue.arrange(slots)

    def _count(self, items: Iterable[Item]) -> None:
        for item in items:
            self._numbers.setdefault(item.id, len(self._numbers) + 1)

    def _show(self) -> None:
        self._queue.show(self._is_shown, self.is_open)
        self._arrive()

    def _is_shown(self, slot: Slot) -> bool:
        return lets_through(self.filter, slot, self.replay, self.flags(slot.item.id))

    def _resume(self, state: WindowState) -> None:
        """Go to the kept poem if that was after the last entry, else to where the journal ends."""
        self._show()
        entries = self.replay.entries
        last = entries[-1] if entries else None
        if last is None or state.num_entries == len(entries):
            self._queue.find(state.poem, repeat=state.repeat)
        elif isinstance(last, Decision) and last.action != "rate":
            self._queue.go_behind(last.candidate.id, self.is_open)
        else:
            decision = self.replay.behind(last) if isinstance(last, Undo) else last
            if isinstance(decision, Decision):
                self.go_to(decision.candidate.id, repeat=decision.repeat)
        self._arrive()


def _without_adapter(filter_: Filter) -> Filter:
    return msgspec.structs.replace(filter_, adapter="")
