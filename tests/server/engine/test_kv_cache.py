"""It holds what mlx-lm's own batched cache holds, and copies less."""

import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import BatchKVCache, KVCache, RotatingKVCache
from numpy.typing import NDArray

from verse_server.engine.kv_cache import BatchSlots, PreallocatedKVCache, preallocated

HEADS, SIZE, MAX_ROWS = 2, 4, 20


class Twins:
    """The same rows in both caches."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        self.ours, self.theirs = self._joined(1)

    def join(self, num_rows: int | None = None) -> None:
        ours, theirs = self._joined(num_rows or self._random.randint(1, 2))
        self.ours.extend(ours)
        self.theirs.extend(theirs)

    def leave(self, num_rows: int) -> None:
        count = self.ours.num_rows
        keep = sorted(self._random.sample(range(count), count - num_rows))
        self.ours.filter(keep)
        self.theirs.filter(keep)

    def decode(self, columns: int = 1) -> None:
        """New columns for every row; both return the same for it, and mask the same."""
        rows = self.ours.num_rows
        new = self._new(rows, columns)
        masks = self.ours.make_mask(columns), self.theirs.make_mask(columns)
        slots, order = self.ours.batch_slots.slots, mx.array(self.ours.batch_slots.rows)
        got = self.ours.update_and_fetch(new[order], 2 * new[order])
        expected = self.theirs.update_and_fetch(new, 2 * new)
        for row in range(rows):
            for mine, other in zip(got, expected, strict=True):
                attended = attended_columns(mine, masks[0], slots[row])
                reference = attended_columns(other, masks[1], row)
                assert [a.tolist() for a in attended] == [r.tolist() for r in reference]
        assert self.ours.offset[mx.array(slots)].tolist() == self.theirs.offset.tolist()

    def same_rows(self) -> None:
        for row in range(self.ours.num_rows):
            mine: Any = self.ours.extract(row)
            other: Any = self.theirs.extract(row)
            assert mine.offset == other.offset
            assert mine.keys.tolist() == other.keys.tolist()
            assert mine.values.tolist() == other.values.tolist()

    def _joined(self, num_rows: int) -> tuple[PreallocatedKVCache, BatchKVCache]:
        entries: list[KVCache] = []
        for _ in range(num_rows):
            entry = KVCache()
            new = self._new(1, self._random.randint(1, 9))
            entry.update_and_fetch(new, 2 * new)
            entries.append(entry)
        roomy = [(preallocated([entry], MAX_ROWS) or [])[0] for entry in entries]
        return roomy[0].merge(roomy), BatchKVCache.merge(entries)

    def _new(self, rows: int, columns: int) -> mx.array:
        return mx.array(self._numbers.normal(size=(rows, HEADS, columns, SIZE)), mx.float32)


def attended_columns(keys: mx.array, mask: mx.array, row: int) -> list[NDArray[Any]]:
    """What each new column of one row may look at."""
    of_row = np.array(mx.broadcast_to(mask, (keys.shape[0], 1, *mask.shape[-2:])))[row, 0]
    return [np.array(keys)[row][:, allowed] for allowed in of_row]


@pytest.mark.parametrize("seed", range(12))
def test_rows_that_come_and_go_keep_what_is_theirs(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (BatchKVCache, PreallocatedKVCache):
        monkeypatch.setattr(kind, "step", 8)  # so that columns run out often
    twins, chance, most = Twins(seed), random.Random(seed), 0
    for _ in range(60):
        rows = twins.ours.num_rows
        if rows <= MAX_ROWS - 2 and chance.random() < 0.7:
            twins.join()
        elif rows > 1 and chance.random() < 0.5:
            twins.leave(chance.randint(1, min(4, rows - 1)))
        twins.decode(chance.choice([1, 1, 1, 3]))
        twins.same_rows()
        assert twins.ours.keys.shape[0] <= MAX_ROWS
        most = max(most, twins.ours.num_rows)
    assert most >= 16  # enough for spare slots


def test_a_row_joins_a_spare_slot_and_leaves_it_without_a_copy_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twins = Twins(0)
    twins.join(15)
    twins.decode()
    twins.decode()  # the first time there is no room for more
    twins.leave(1)
    slots = twins.ours.keys.shape[0]
    assert slots > twins.ours.num_rows
    copies: list[PreallocatedKVCache] = []

    def copy(cache: PreallocatedKVCache, *_: int) -> None:
        copies.append(cache)

    monkeypatch.setattr(PreallocatedKVCache, "resize", copy)
    for _ in range(3):
        twins.join(1)
        twins.decode()
        twins.leave(1)
        twins.same_rows()
        assert twins.ours.keys.shape[0] == slots
    assert not copies


def test_rows_that_leave_one_by_one_have_the_others_copied_now_and_then_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twins = Twins(2)
    while twins.ours.num_rows < MAX_ROWS:
        twins.join(1)
    resize, copies = PreallocatedKVCache.resize, list[int]()

    def counted(cache: PreallocatedKVCache, *arguments: int) -> None:
        copies.append(cache.num_rows)
        resize(cache, *arguments)

    monkeypatch.setattr(PreallocatedKVCache, "resize", counted)
    while twins.ours.num_rows > 1:
        twins.leave(1)
        twins.same_rows()
    assert len(copies) <= 4


def test_a_batch_that_shrinks_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreallocatedKVCache, "step", 1 << 14)  # more than all else here takes
    twins = Twins(1)
    while twins.ours.num_rows < MAX_ROWS - 1:
        twins.join()
    twins.decode()
    twins.decode()  # the first time there is no room for more
    del twins.theirs
    mx.eval(twins.ours.state)
    rows, slots = twins.ours.num_rows, twins.ours.num_slots
    twins.ours.filter([rows - 1])
    new = mx.zeros((1, HEADS, 1, SIZE))
    sizes: list[int] = []
    for _ in range(300):
        twins.ours.update_and_fetch(new, new)
        mx.eval(twins.ours.state)
        sizes.append(mx.get_active_memory())
    one_row = 2 * HEADS * SIZE * (1 << 14) * 4
    assert sizes[0] - sizes[-1] > (rows - 2) * one_row
    assert twins.ours.num_slots < slots


def test_rows_that_come_in_waves_find_the_room_of_the_last_wave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twins = Twins(5)
    twins.join(1)
    twins.decode()
    twins.join(MAX_ROWS - 1)
    twins.decode()
    copies: list[PreallocatedKVCache] = []
    resize = PreallocatedKVCache.resize

    def counted(cache: PreallocatedKVCache, *arguments: int, **named: int) -> None:
        copies.append(cache)
        resize(cache, *arguments, **named)

    twins.decode()
    monkeypatch.setattr(PreallocatedKVCache, "resize", counted)
    for _ in range(4):
        while twins.ours.num_rows > 1:
            twins.leave(1)
        twins.decode()
        twins.join(MAX_ROWS - 1)
        twins.decode()
        twins.same_rows()
    assert not copies


def test_what_was_merged_gets_just_the_columns_it_needs() -> None:
    ours = Twins(3).ours
    length = ours.keys.shape[2]
    new = mx.zeros((ours.num_rows, HEADS, 7, SIZE))
    ours.update_and_fetch(new, new)
    assert ours.keys.shape[2] == length + 7


def test_layers_that_are_told_so_add_their_columns_in_different_steps() -> None:
    twins = [Twins(4) for _ in range(3)]
    for early, pair in enumerate(twins):
        pair.ours.early = early
    grown: list[list[int]] = []
    widths = [pair.ours.keys.shape[2] for pair in twins]
    for step in range(PreallocatedKVCache.step + 44):
        for pair in twins:
            pair.decode()
        now = [pair.ours.keys.shape[2] for pair in twins]
        grown += [[step, *(i for i in range(3) if now[i] != widths[i])]] if now != widths else []
        widths = now
    assert [layers for _, *layers in grown] == [[0, 1, 2], [0, 1, 2], [2], [1], [0]]
    for pair in twins:
        pair.same_rows()


def test_a_kind_of_entry_that_it_cannot_replace_leaves_all_to_mlx_lm() -> None:
    assert preallocated([KVCache(), RotatingKVCache(8)], MAX_ROWS) is None


# The slots alone. Each step: that many rows join, then those at these places leave (modulo what is
# there).
STEPS = st.lists(st.tuples(st.integers(0, 4), st.sets(st.integers(0, 20), max_size=4)), max_size=12)


@given(STEPS)
def test_what_is_in_the_slots_stays_with_its_row(steps: list[tuple[int, set[int]]]) -> None:
    slots, batch, buffer = BatchSlots(0), list[int](), list[int]()
    for number, (num_new, leaving) in enumerate(steps):
        names = [100 * number + place for place in range(num_new)]
        batch += names
        buffer += names
        slots.join(range(num_new))
        gone = {place % len(batch) for place in leaving} if batch else set[int]()
        keep = [place for place in range(len(batch)) if place not in gone]
        before = slots.leave(keep)
        batch = [batch[place] for place in keep]
        buffer = [buffer[slot] for slot in before]
        assert sorted(slots.slots) == list(range(len(batch)))
        assert [buffer[slot] for slot in slots.slots] == batch
        assert [batch[row] for row in slots.rows] == buffer
        assert slots.is_in_order == (batch == buffer)
        assert sum(new != old for new, old in enumerate(before)) <= len(gone)


def test_the_last_takes_the_slot_that_one_left() -> None:
    slots = BatchSlots(4)
    assert slots.leave([0, 2, 3]) == [0, 3, 2]
    assert slots.slots == [0, 2, 1]


def test_rows_of_another_batch_come_behind_in_their_own_order() -> None:
    slots = BatchSlots(2)
    slots.join([1, 0])
    assert slots.slots == [0, 1, 3, 2]
