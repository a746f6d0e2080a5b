"""Keys and values: of a batch that rows join and leave, and of prompts seen before.

mlx-lm's `BatchKVCache` copies the keys and values of all rows whenever one joins or leaves. When
poems are written in bulk that happens at every other step; on two cores a join then cost more than
a step. Here the buffers have rows to spare, a row that joins is written into one of them, and one
that leaves is overwritten by the last (see `BatchSlots`). The arrays are in the order of the slots,
and so must be what the model computes; `batch` sees to it. What cannot be done in place is left to
`BatchKVCache`.

The short rest of a prompt can be computed by the forward in which the others take their next token:
for that one forward every token of it is a row of its own (`extend_by_rests`).

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
        self.rest_width = 0
        """Tokens of each rest of a prompt that the next forward computes; 0 if there are none."""
        self._num_rests = 0
        self._max_rows = max_rows
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
        return int(min(self.keys.shape[0], self.values.shape[0]))

    def reserve(self, num_rows: int) -> mx.array | None:
        """Make room for so many in one of both arrays, which is returned; None if there is room.

        The two are copied apart, since it takes a large part of a step.
        """
        num_rows = min(num_rows, self._max_rows)
        if num_rows <= self.num_slots:
            return None
        used, columns = slice(0, self._idx), self.keys.shape[2]
        if self.keys.shape[0] < num_rows:
            self.keys = self._copied(self.keys, num_rows, columns, used, used)
            return self.keys
        self.values = self._copied(self.values, num_rows, columns, used, used)
        return self.values

    @property
    def is_roomy(self) -> bool:
        """Whether most of the memory is of rows that have left."""
        return self.keys is not None and self.num_slots >= _SHRINKING * num_slots_for(self.num_rows)

    def give_back(self) -> None:
        """Leave no more room than usual; everything is copied."""
        self.resize(self.keys.shape[2])

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append columns to all rows; what there is to attend to."""
        num_new = keys.shape[2]
        if self.keys is None:
            self.keys = mx.zeros((*keys.shape[:2], 0, keys.shape[3]), keys.dtype)
            self.values = mx.zeros((*values.shape[:2], 0, values.shape[3]), values.dtype)
        if self._idx + num_new + self.early > self.keys.shape[2]:
            self._add_columns(num_new + self.early)
        columns = slice(self._idx, self._idx + num_new)
        rows = slice(0, self.num_rows - self._num_rests * self.rest_width)
        self.keys[rows, :, columns] = keys[rows]
        self.values[rows, :, columns] = values[rows]
        if self.rest_width:
            self._write_rests(keys[rows.stop :], values[rows.stop :])
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
        if self.rest_width:
            return self._mask_of_rests(offset, padding, options.get("window_size"))
        return create_causal_mask(N, offset=offset, left_padding=padding, **options)

    def filter(self, batch_indices: Sequence[int]) -> None:
        """Only these rows stay, in this order."""
        self.rest_width = self._num_rests = 0
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
        self._write(other, 1, other.offset)
        self.batch_slots.join(other.batch_slots.slots)

    def extend_by_rests(self, other: "PreallocatedKVCache", width: int) -> None:
        """The rests of some prompts join at the end, each token of them as a row.

        The next forward takes one token of every row. After it, `filter` must leave of the new rows
        only the last tokens', which then are the prompts'.

        The new rows are, for each prompt, that of its last token, then, for each, that of the last
        but one, and so on.

        Args:
            other: For each prompt a row with what is known of it.
            width: Tokens of each rest.
        """
        shift = max(0, other._idx - other._start + width - 1 - self._idx)
        num_new = other.num_rows * width
        if shift or self.num_rows + num_new > self.num_slots:
            self.resize(self.keys.shape[2] + shift, self.num_rows + num_new, shift)
        self.rest_width, self._num_rests = width, other.num_rows
        tokens = mx.arange(width)[::-1, None]  # that are before it in its rest
        self._write(other, width, (other.offset[None] + tokens).flatten())
        self.batch_slots.join(range(num_new))

    def _write_rests(self, keys: mx.array, values: mx.array) -> None:
        """All tokens of a prompt's rest into all of its rows, each at its own column."""
        width, count = self.rest_width, self._num_rests
        first = self.num_rows - count * width
        columns = slice(self._idx - width + 1, self._idx + 1)
        for array, new in ((self.keys, keys), (self.values, values)):
            # (tokens, prompts, heads, 1, size) -> (prompts, heads, tokens, size), in their order.
            by_token = mx.unflatten(new[:, :, 0], 0, (width, count))[::-1]
            of_prompts = mx.moveaxis(by_token, 0, 2)
            array[first : self.num_rows, :, columns] = _times(of_prompts, width)

    def _mask_of_rests(self, offset: int, padding: mx.array, window: int | None) -> mx.array:
        """As `create_causal_mask` for one new column, where not every row may see it."""
        num_plain = self.num_rows - self._num_rests * self.rest_width
        behind = [tokens for tokens in range(self.rest_width) for _ in range(self._num_rests)]
        last = mx.array([offset - count for count in [0] * num_plain + behind])[:, None, None, None]
        columns = mx.arange(offset + 1)
        mask = (columns >= padding[:, None, None, None]) & (columns <= last)
        return mask if window is None else mask & (last < columns + window)

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

    def _move(self, moves: list[tuple[int, int]]) -> None:
        """From one batch slot into another whose row has left.

        They are copied out first, so that the arrays can be written in place when they are next.
        """
        if not moves:
            return
        rows = mx.array([old for old, _ in moves])
        keys, values = self.keys[rows, :, : self._idx], self.values[rows, :, : self._idx]
        mx.async_eval(keys, values)  # pyright: ignore[reportUnknownMemberType]
        for place, (_, new) in enumerate(moves):
            self.keys[new, :, : self._idx] = keys[place]
            self.values[new, :, : self._idx] = values[place]

    def _write(self, other: "PreallocatedKVCache", width: int, offset: mx.array) -> None:
        """Into spare rows. Zeros come before: what is masked is multiplied all the same.

        Args:
            other: Who joins, so many times.
            width: How many times. So many columns, but for one, stay free behind what it holds.
            offset: Of the new rows.
        """
        keys, values = other.keys_and_values()
        end = self._idx - width + 1
        at = end - keys.shape[2]
        rows = slice(self.num_rows, self.num_rows + width * other.num_rows)
        for array, new in ((self.keys, keys), (self.values, values)):
            array[rows, :, :at] = 0
            array[rows, :, at:end] = _times(new, width)
        self._pad(self._padding + width * [p + at - other._start for p in other._padding])
        self.offset = mx.concatenate([self.offset, offset])

    def _add_columns(self, num_new: int) -> None:
        """Room for at least so many; the columns that nobody needs are left out."""
        blocks = -(-num_new // self.step)
        self.resize(self._idx - self._start + blocks * self.step, shift=-self._start)

    def resize(self, num_columns: int, num_rows: int = 0, shift: int = 0) -> None:
        """Copy everything, which is the dearest that can happen between two steps.

        Args:
            num_columns: There are then.
            num_rows: Some are about to join.
            shift: By so many columns, to the right.
        """
        num_rows = max(num_rows, self.num_rows)
        num_slots = max(num_rows, min(num_slots_for(num_rows), self._max_rows))
        old = slice(max(0, -shift), self._idx)
        self._idx += shift
        new = slice(self._idx - (old.stop - old.start), self._idx)
        self.keys = self._copied(self.keys, num_slots, num_columns, old, new)
        self.values = self._copied(self.values, num_slots, num_columns, old, new)
        self._pad([p + shift for p in self._padding])

    def _copied(self, array: Any, num_slots: int, num_columns: int, old: slice, new: slice) -> Any:
        # On a CPU a fifth of what `mx.pad` takes.
        _, heads, _, size = array.shape
        copy = mx.zeros((num_slots, heads, num_columns, size), array.dtype)
        copy[: self.num_rows, :, new] = array[: self.num_rows, :, old]
        return copy


def _times(rows: mx.array, count: int) -> mx.array:
    """The same rows so many times."""
    if count == 1:
        return rows
    return mx.flatten(mx.broadcast_to(rows[None], (count, *rows.shape)), 0, 1)


_SPARE = 4
_SHRINKING = 4
"""Memory is given back when a batch needs no more than such a part of it."""


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
