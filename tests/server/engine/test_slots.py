"""Which adapter sits in which slot."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from verse_server.engine.adapters.residency import SlotTable

DIGESTS = "abcdefgh"


def pin_once(table: SlotTable, digest: str) -> tuple[int, str | None] | None:
    """Used, and no longer in use."""
    placement = table.pin(digest)
    table.unpin(digest)
    return placement


def test_adapters_take_the_free_slots_in_order() -> None:
    table = SlotTable(3)
    assert [table.pin(d) for d in "abc"] == [(0, None), (1, None), (2, None)]
    assert [table.slot_of(d) for d in "abc"] == [0, 1, 2]
    assert len(table) == table.num_pinned == 3


def test_a_resident_adapter_is_not_placed_again() -> None:
    table = SlotTable(2)
    table.pin("a")
    assert table.pin("a") is None
    table.unpin("a")
    assert table.pin("a") is None
    assert table.slot_of("a") == 0


def test_an_adapter_stays_resident_when_nothing_pins_it() -> None:
    table = SlotTable(2)
    pin_once(table, "a")
    assert "a" in table
    assert (len(table), table.num_pinned) == (1, 0)


def test_the_least_recently_used_one_goes_first() -> None:
    table = SlotTable(3)
    for digest in "abca":
        pin_once(table, digest)
    assert table.pin("d") == (1, "b")
    assert table.pin("e") == (2, "c")
    assert table.pin("f") == (0, "a")
    assert "a" not in table


def test_being_pinned_counts_as_use_not_being_unpinned() -> None:
    table = SlotTable(2)
    table.pin("a")
    table.pin("b")
    table.unpin("b")
    table.unpin("a")
    assert table.pin("c") == (0, "a")


def test_a_pinned_adapter_is_passed_over() -> None:
    table = SlotTable(2)
    table.pin("a")
    pin_once(table, "b")
    assert table.pin("c") == (1, "b")
    assert table.slot_of("a") == 0


def test_an_adapter_is_pinned_until_every_row_has_let_go() -> None:
    table = SlotTable(1)
    table.pin("a")
    table.pin("a")
    table.unpin("a")
    assert not table.can_pin(["b"])
    table.unpin("a")
    assert table.can_pin(["b"])
    assert table.pin("b") == (0, "a")


def test_nothing_is_placed_while_everything_is_pinned() -> None:
    table = SlotTable(2)
    table.pin("a")
    table.pin("b")
    assert not table.can_pin(["c"])
    with pytest.raises(LookupError, match="pinned"):
        table.pin("c")
    assert "c" not in table
    assert (len(table), table.num_pinned) == (2, 2)


def test_what_is_pinned_already_takes_no_more_room() -> None:
    table = SlotTable(2)
    table.pin("a")
    assert table.can_pin([])
    assert table.can_pin(["a", "b", "a", "b"])
    assert not table.can_pin(["b", "c"])


def test_a_blend_that_evicts_its_own_second_part_still_fits() -> None:
    table = SlotTable(2)
    for digest in "ab":
        pin_once(table, digest)
    assert table.can_pin(["c", "a"])
    assert table.pin("c") == (0, "a")
    assert table.pin("a") == (1, "b")


def test_a_forgotten_adapter_frees_its_slot_and_its_pins() -> None:
    table = SlotTable(2)
    table.pin("a")
    table.pin("b")
    table.forget("a")
    assert "a" not in table
    assert table.num_pinned == 1
    assert table.pin("c") == (0, None)


def test_forgetting_a_stranger_changes_nothing() -> None:
    table = SlotTable(1)
    table.pin("a")
    table.forget("b")
    assert "a" in table


class Slots(RuleBasedStateMachine):
    """Any order of pins, unpins and failed loads, against a plain account of them."""

    @initialize(num_slots=st.integers(1, 4))
    def start(self, num_slots: int) -> None:
        self.table = SlotTable(num_slots)
        self.num_slots = num_slots
        self.pins = Counter[str]()
        self.slots = dict[str, int]()
        self.last_used = list[str]()

    @rule(digest=st.sampled_from(DIGESTS))
    def pin(self, digest: str) -> None:
        pinned = {d for d, count in self.pins.items() if count}
        fits = len(pinned | {digest}) <= self.num_slots
        assert self.table.can_pin([digest]) is fits
        if not fits:
            with pytest.raises(LookupError):
                self.table.pin(digest)
            return
        placement = self.table.pin(digest)
        assert (placement is None) == (digest in self.slots)
        if placement is not None:
            slot, evicted = placement
            if evicted is None:
                assert slot not in self.slots.values()
            else:
                idle = [d for d in self.last_used if d in self.slots and not self.pins[d]]
                assert evicted == idle[0]
                assert self.slots.pop(evicted) == slot
                assert len(self.slots) == self.num_slots - 1
            self.slots[digest] = slot
        self.pins[digest] += 1
        self.last_used = [d for d in self.last_used if d != digest] + [digest]

    @precondition(lambda self: self.pins.total() > 0)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.pins.elements())))
        self.table.unpin(digest)
        self.pins[digest] -= 1

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def fail_to_load(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.slots)))
        self.table.forget(digest)
        del self.slots[digest], self.pins[digest]

    @invariant()
    def every_adapter_is_where_it_was_put(self) -> None:
        assert {d: self.table.slot_of(d) for d in DIGESTS if d in self.table} == self.slots
        assert len(self.table) == len(self.slots)

    @invariant()
    def no_two_share_a_slot_and_no_slot_is_beyond_the_last(self) -> None:
        taken = list(self.slots.values())
        assert len(set(taken)) == len(taken) <= self.num_slots
        assert all(0 <= slot < self.num_slots for slot in taken)

    @invariant()
    def whatever_is_pinned_is_resident(self) -> None:
        pinned = {d for d, count in self.pins.items() if count}
        assert pinned <= self.slots.keys()
        assert self.table.num_pinned == len(pinned)


Slots.TestCase.settings = settings(deadline=None)
TestSlots = Slots.TestCase


@settings(deadline=None)
@given(st.integers(1, 4), st.lists(st.sampled_from(DIGESTS), max_size=8))
def test_what_can_be_pinned_together_can_be_pinned_in_any_order(
    num_slots: int, digests: list[str]
) -> None:
    table = SlotTable(num_slots)
    for digest in DIGESTS:
        pin_once(table, digest)
    if not table.can_pin(digests):
        assert len(set(digests)) > num_slots
        return
    for digest in digests:
        table.pin(digest)
    assert all(digest in table for digest in digests)
