"""Keys and values: of a batch that rows join and leave, and of prompts seen before.

mlx-lm's `BatchKVCache` copies the keys and values of all rows whenever one joins or leaves. When
poems are written in bulk that happens at every other step; on two cores a join then cost more than
a step. Here the buffers have rows to spare, a row that joins is written into one of them, and one
that leaves is overwritten by the last (see `BatchSlots`). The arrays are in the order of the slots,
and so must be what the model computes; `batch` sees to it. What cannot be done in place is left to
`BatchKVCache`.

The poem prompt is the same for every theme, so most of a prompt has usually been computed already.
`PrefixCache` keeps that. Its entries belong to what computed them, the adapters' digests and
strengths, so a new version of an adapter never meets the keys and values of the old one.
Engine thread only.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import BatchKVCache, KVCache, LRUPromptCache


def preallocated(entries: Sequence[Any], max_rows: int) -> list[Any] | None:
    """A row's cache list that becomes `PreallocatedKVCache`s in a batch; None if it cannot."""
    if any(type(entry) is not KVCache for entry in entries):
        return None
    return [_Entry(entry, max_rows) for entry in entries]


class _Entry(KVCache):
    """One row's keys and values, on their way into a batch."""

    def __init__(self, entry: Any, max_rows: int) -> None:
        super().__init__()
        self.keys, self.values, self.offset = entry.keys, entry.values, entry.offset
        self._max_rows = max_rows

    def merge(self, caches: Sequence[Any]) -> "PreallocatedKVCache":  # pyright: ignore[reportIncompatibleMethodOverride]
        """One batch of several rows, which mlx-lm asks the first of them for."""
        lengths = [int(cache.size()) for cache in caches]
        padding = [max(lengths) - length for length in lengths]
        return PreallocatedKVCache(cast(Any, BatchKVCache).merge(caches), padding, self._max_rows)


class PreallocatedKVCache(BatchKVCache):
    """See the module. Arrays are (batch slots and spare ones, heads, columns, head size)."""

    # mlx-lm leaves these untyped.
    keys: Any
    values: Any
    offset: Any
    _idx: int

    step = 64
    """Columns that are added at once. A poem seldom needs more; mlx-lm's 256 are half of the memory
    of a batch, and twice as many pages to be cleared when rows come in."""

    def __init__(self, merged: BatchKVCache, padding: list[int], max_rows: int) -> None:
        """Take over what mlx-lm has merged.

        Args:
            merged: It is not to be used any more.
            padding: On the left of each row.
            max_rows: There are never more, spare ones included.
        """
        super().__init__(padding)
        self.state = cast(Any, merged).state
        self.batch_slots = BatchSlots(len(padding))
        self.early = 0
        """Columns that are added so many steps before they are needed: not in every layer at once.
        """
        self._max_rows = max_rows
        self._is_new = True
        self._num_roomy = 0
        """Steps since more than a part of the slots were used."""
        self._pad(padding)

    @property
    def num_rows(self) -> int:
        """Without the spare ones."""
        return len(self.batch_slots.slots)

    @property
    def num_slots(self) -> int:
        """How many rows there is room for without a copy."""
        if self.keys is None:
            return self._max_rows
        return min(int(self.keys.shape[0]), int(self.values.shape[0]))

    def reserve(self, num_rows: int) -> None:
        """Make room for so many keys, or if there is, for as many values; they are copied."""
        width, columns = int(self.keys.shape[2]), slice(0, self._idx)
        num_slots = self._num_slots_for(num_rows)
        if num_rows > self.keys.shape[0]:
            self.keys = self._copied(self.keys, num_slots, width, columns, columns)
        elif num_rows > self.values.shape[0]:
            self.values = self._copied(self.values, num_slots, width, columns, columns)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append columns to all rows; what there is to attend to."""
        num_new = keys.shape[2]
        if self.keys is None:
            self.keys = mx.zeros((*keys.shape[:2], 0, keys.shape[3]), keys.dtype)
            self.values = mx.zeros((*values.shape[:2], 0, values.shape[3]), values.dtype)
        self._shrink()
        if self._idx + num_new + self.early > self.keys.shape[2]:
            self._add_columns(num_new + self.early)
        columns = slice(self._idx, self._idx + num_new)
        self.keys[: self.num_rows, :, columns] = keys
        self.values[: self.num_rows, :, columns] = values
        self.offset = self.offset + num_new
        self._idx += num_new
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """(rows, heads, columns, head size) each, without columns that no row needs."""
        rows, columns = self.used
        return self.keys[rows, :, columns], self.values[rows, :, columns]

    @property
    def used(self) -> tuple[slice, slice]:
        """Rows and columns of the arrays that hold something."""
        return slice(0, self.num_rows), slice(self._start, self._idx)

    def make_mask(self, N: int, return_array: bool = True, **options: Any) -> mx.array:  # noqa: N803  (mlx-lm's name)
        """Which of the columns of `keys_and_values`, and of N new ones, each row may look at."""
        offset, padding = self._idx - self._start, self.left_padding - self._start
        del return_array  # it always is one
        return create_causal_mask(N, offset=offset, left_padding=padding, **options)

    def filter(self, batch_indices: Sequence[int]) -> None:
        """Only these rows stay, in this order."""
        before = self.batch_slots.leave(batch_indices)
        self.offset = self.offset[mx.array(before)]
        self._pad([self._padding[old] for old in before])
        if self.keys is not None:
            self._move([(old, new) for new, old in enumerate(before) if old != new])

    def extend(self, other: "PreallocatedKVCache") -> None:
        """The rows of another batch join at the end."""
        shift = max(0, other._idx - other._start - self._idx)
        num_rows = self.num_rows + other.num_rows
        if shift or num_rows > self.num_slots:
            self.resize(self.keys.shape[2] + shift, num_rows, shift)
        self._write(other)
        self.batch_slots.join(other.batch_slots.slots)

    def extract(self, idx: int) -> KVCache:
        """One row alone."""
        slot = self.batch_slots.slots[idx]
        row = slice(slot, slot + 1), slice(None), slice(self._padding[slot], self._idx)
        alone = KVCache()
        alone.keys, alone.values = mx.contiguous(self.keys[row]), mx.contiguous(self.values[row])
        alone.offset = self._idx - self._padding[slot]
        return alone

    def _pad(self, padding: list[int]) -> None:
        """Note what is on the left of each row. Known on the host, nobody has to wait for it."""
        self._padding = padding
        self.left_padding = mx.array(padding)
        self._start = min(padding)

    def _shrink(self) -> None:
        """Give slots back that nobody has needed for long.

        Not at once: those who come in waves would have all others copied with each of them.
        """
        is_roomy = self.num_slots >= _SHRINKING * num_slots_for(self.num_rows)
        self._num_roomy = self._num_roomy + 1 if is_roomy else 0
        if self._num_roomy > _SHRINKING_STEPS + self.early:
            self._num_roomy = 0
            self.resize(self.keys.shape[2])

    def _move(self, moves: list[tuple[int, int]]) -> None:
        """From one batch slot into another whose row has left: what is its own, and zeros before.

        They are copied out first, so that the arrays can be written in place when they are next.
        All by slices: where a row is given by its number mlx scatters, in five times as long.
        """
        columns = [slice(self._padding[new], self._idx) for _, new in moves]
        copies = [
            [mx.contiguous(array[old : old + 1, :, own]) for array in (self.keys, self.values)]
            for (old, _), own in zip(moves, columns, strict=True)
        ]
        mx.async_eval(copies)  # pyright: ignore[reportUnknownMemberType]
        for (_, new), own, of_row in zip(moves, columns, copies, strict=True):
            for array, copy in zip((self.keys, self.values), of_row, strict=True):
                array[new : new + 1, :, : own.start] = 0
                array[new : new + 1, :, own] = copy

    def _write(self, other: "PreallocatedKVCache") -> None:
        """Into spare rows. Zeros come before: what is masked is multiplied all the same."""
        keys, values = other.keys_and_values()
        at = self._idx - keys.shape[2]
        rows = slice(self.num_rows, self.num_rows + other.num_rows)
        for array, new in ((self.keys, keys), (self.values, values)):
            array[rows, :, :at] = 0
            array[rows, :, at : self._idx] = new
        self._pad(self._padding + [p + at - other._start for p in other._padding])
        self.offset = mx.concatenate([self.offset, other.offset])

    def _add_columns(self, num_new: int) -> None:
        """Room for at least so many; the columns that nobody needs are left out.

        The first time for just so many: what has been merged mostly joins another batch at once.
        """
        room = num_new if self._is_new else -(-num_new // self.step) * self.step
        self._is_new = False
        self.resize(self._idx - self._start + room, shift=-self._start)

    def resize(self, num_columns: int, num_rows: int = 0, shift: int = 0) -> None:
        """Copy everything, which is the dearest that can happen between two steps.

        Args:
            num_columns: There are then.
            num_rows: Some are about to join.
            shift: By so many columns, to the right.
        """
        num_slots = self._num_slots_for(max(num_rows, self.num_rows))
        old = slice(max(0, -shift), self._idx)
        self._idx += shift
        new = slice(self._idx - (old.stop - old.start), self._idx)
        self.keys = self._copied(self.keys, num_slots, num_columns, old, new)
        self.values = self._copied(self.values, num_slots, num_columns, old, new)
        self._pad([p + shift for p in self._padding])

    def _num_slots_for(self, num_rows: int) -> int:
        return max(num_rows, min(num_slots_for(num_rows), self._max_rows))

    def _copied(
        self, array: Any, num_slots: int, num_columns: int, old: slice, new: slice
    ) -> mx.array:
        # On a CPU a fifth of what `mx.pad` takes.
        _, heads, _, size = array.shape
        copy = mx.zeros((num_slots, heads, num_columns, size), array.dtype)
        copy[: self.num_rows, :, new] = array[: self.num_rows, :, old]
        return copy


_SPARE = 4
_SHRINKING = 4
"""Memory is given back when a batch needs no more than such a part of it..."""
_SHRINKING_STEPS = 256
"""...and has needed no more for so many steps."""


def num_slots_for(num_rows: int) -> int:
    """How many slots so many rows have at most: one in four more, for who comes next."""
    return num_rows + num_rows // _SPARE


class BatchSlots:
    """Which place in a batch's buffers each row has: batch slots from 0 on, none empty.

    mlx-lm keeps the rows of a batch in the order in which they joined. Buffers that did the same
    would be copied whole whenever a row leaves. Here a row that leaves gives its slot to the one in
    the last slot, so that one row moves at most. Everything that holds one batch, its keys and
    values in every layer and its `BatchRows`, keeps such a list of its own; all come to the same
    one, because they are told of the same rows in the same order. Pure: no mlx.
    """

    def __init__(self, num_rows: int) -> None:
        self.slots = list(range(num_rows))
        """Of each row, in the batch's order."""

    @property
    def is_in_order(self) -> bool:
        """Whether every row is where it stands in the batch."""
        return self.slots == list(range(len(self.slots)))

    @property
    def rows(self) -> list[int]:
        """The row in each slot."""
        return sorted(range(len(self.slots)), key=self.slots.__getitem__)

    def join(self, slots: Iterable[int]) -> None:
        """The rows of another batch, which has them in these slots, come behind."""
        first = len(self.slots)
        self.slots += [first + slot for slot in slots]

    def leave(self, keep: Sequence[int]) -> list[int]:
        """Only these rows stay, in this order.

        Returns:
            For each slot that is left, the one its row was in before: another where a row left.
        """
        staying = [self.slots[row] for row in keep]
        movers = sorted(slot for slot in staying if slot >= len(keep))
        before = list(range(len(keep)))
        for slot in sorted(set(before) - set(staying)):
            before[slot] = movers.pop()
        after = {old: new for new, old in enumerate(before)}
        self.slots = [after[slot] for slot in staying]
        return before


Version = tuple[tuple[str, float], ...]
"""(digest, strength) of each adapter; empty for the base."""

_MIN_NEW_TOKENS = 16
"""A prompt that adds fewer to what is known is not kept: computing them again is cheaper."""
_MAX_ENTRIES = 4096


class PrefixCache:
    """Bounded in bytes; what was not used for longest goes first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries = cast(Any, LRUPromptCache(_MAX_ENTRIES, max_bytes))
        self.num_stored = 0
        """So far; if it is the same as before, so is what is found."""

    @property
    def num_bytes(self) -> int:
        """Held now."""
        return int(self._entries.nbytes)

    def fetch(self, version: Version, tokens: Sequence[int]) -> tuple[list[Any] | None, int]:
        """The cache entries of the longest beginning of `tokens` that is known.

        Returns:
            mlx-lm's cache list, or None, and how many tokens it covers.
        """
        if not tokens:
            return None, 0
        cache, rest = cast(
            tuple[list[Any] | None, list[int]],
            self._entries.fetch_nearest_cache(version, list(tokens)),
        )
        return cache, len(tokens) - len(rest)

    def would_keep(self, num_new: int) -> bool:
        """Whether something of which so many tokens are new is worth keeping."""
        return num_new >= _MIN_NEW_TOKENS and self._max_bytes > 0

    def store(
        self, version: Version, tokens: Sequence[int], cache: list[Any], num_known: int
    ) -> None:
        """Keep what was computed for `tokens`, of which the first `num_known` came from here."""
        if not self.would_keep(len(tokens) - num_known):
            return
        if sum(entry.nbytes for entry in cache) > self._max_bytes:
            return
        # Taken out of a batch they are not copied yet, and would keep all of that batch in memory.
        mx.eval([entry.state for entry in cache])  # pyright: ignore[reportUnknownMemberType]
        self._entries.insert_cache(version, list(tokens), cache)
        self.num_stored += 1
