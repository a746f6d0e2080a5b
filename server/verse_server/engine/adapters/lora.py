"""LoRA for a batch whose rows use different adapters, or none.

Each adapted Linear holds the factors of the resident adapters that change it, stacked by the power
of two that their rank is padded to (`limits.rank_class`):

    A  (n, rank class, in_dims)       B  (n, rank class, out_dims)

So an adapter takes the memory of its own ranks, whatever its neighbours', and what is written into
one stack moves no other. Rows that all use one adapter in full take two ordinary products with its
factors. Any other mix takes two gathered ones for each rank class, which read each row's factors
where they are:

    y + sum over k of ((x @ A[k-th of the row].T) * weight k of the row) @ B[k-th of the row]

A row has as many (index, weight) pairs as the longest blend of the batch; those it does not use
have weight 0, and there the product is put to 0 instead of taken, since 0 times an overflow is no
zero. So a base row adds exact zeros. `benchmarks/lora.py` measures this against products over the
columns of all slots and against one product per adapter.
"""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from verse.adapter_files import ModuleShape
from verse.base_model import linear_layers, linear_shapes, runs_on_cpu
from verse.cpu_weights.layers import PackedLinear, host_array
from verse.cpu_weights.packed import Host
from verse.cpu_weights.threads import Piece
from verse_server.engine.adapters.host_updates import HostUpdate, Location, Mix, host_updates
from verse_server.engine.adapters.limits import rank_class
from verse_server.engine.adapters.weights import AdapterReader, AdapterWeights, ModuleUpdate

SlotWeights = tuple[tuple[int, float], ...]
"""The (slot, strength) pairs of one row; empty for the base."""


@dataclass
class Route:
    """What the rows of the forward that runs now use, prepared for every adapted layer."""

    _rows: Sequence[SlotWeights] = field(default_factory=tuple)

    def set(self, rows: Sequence[SlotWeights], bank: "LoraBank") -> None:
        """Prepare for a forward; cheap while the rows stay the same."""
        if rows == self._rows:
            return
        self._rows = rows
        slots = {slot for row in rows for slot, _ in row}
        # Most modules have the same adapters in the same places, and share what is prepared.
        prepared: dict[tuple[Location | None, ...], Products] = {}
        for routed in bank.routed:
            found = routed.locations
            key = tuple(map(found.get, slots))
            if key not in prepared:
                mix = tuple(tuple((found[s], w) for s, w in row if s in found) for row in rows)
                gains = bank.dora_slots & found.keys()
                prepared[key] = Products.of(mix, bank.dtype, _gain_rows(rows, gains))
            routed.products = prepared[key]

    def forget(self) -> None:
        """The stacks have changed: prepare anew at the next forward."""
        self._rows = ()


def _gain_rows(rows: Sequence[SlotWeights], slots: Set[int]) -> mx.array | None:
    """Of each row that uses one of these slots the slot + 1, of others 0; None if no row does."""
    numbers = [row[0][0] + 1 if row and row[0][0] in slots else 0 for row in rows]
    return mx.array(numbers, dtype=mx.uint32) if any(numbers) else None


@dataclass(frozen=True)
class Products:
    """How one module adds the updates of a batch.

    Attributes:
        whole: The one place that every row uses in full, if so.
        pairs: Otherwise what the rows use, by rank class; empty when every row is base.
        gain_rows: (batch,) uint32, which of DoRA's gains each row has; None for no gain at all.
        on_host: The same for a base whose products the host makes.
    """

    whole: Location | None = None
    pairs: "tuple[tuple[int, Pairs], ...]" = ()
    gain_rows: mx.array | None = None
    on_host: "tuple[tuple[HostUpdate, ...], ...]" = ()

    @classmethod
    def of(cls, mix: Mix, dtype: mx.Dtype, gain_rows: mx.array | None = None) -> "Products":
        """Prepare the products of a mix."""
        used = [location for row in mix for location, _ in row]
        if not used:
            return cls()
        on_host = host_updates(mix)
        if all(row == ((used[0], 1.0),) for row in mix):
            return cls(whole=used[0], gain_rows=gain_rows, on_host=on_host)
        classes = sorted({location.rank for location in used})
        if len(classes) == 1:
            rows = [tuple((location.at, weight) for location, weight in row) for row in mix]
            pairs = ((classes[0], Pairs.of(rows, dtype)),)
            return cls(pairs=pairs, gain_rows=gain_rows, on_host=on_host)
        pairs = tuple((rank, _pairs_of_class(mix, rank, dtype)) for rank in classes)
        return cls(pairs=pairs, gain_rows=gain_rows, on_host=on_host)


def _pairs_of_class(mix: Mix, rank: int, dtype: mx.Dtype) -> "Pairs":
    """Those of one rank class, for the rows that have any."""
    of_class = [tuple((found.at, w) for found, w in row if found.rank == rank) for row in mix]
    rows = [number for number, row in enumerate(of_class) if row]
    return Pairs.of([of_class[number] for number in rows], dtype, rows)


@dataclass(frozen=True)
class Pairs:
    """The (index, weight) pairs of rows that differ, filled up to the longest.

    Attributes:
        rows: (rows, k) uint32, the row of each pair.
        places: (rows, k) uint32, 0, 1, 2 ...
        indices: (rows, k) uint32, where in the stack its factors are.
        weights: (rows, k, 1, 1), or None when every pair counts in full.
        used: Where `weights` are not 0.
        into: (rows,) uint32, the rows of the batch these are; None for all, in order.
    """

    rows: mx.array
    places: mx.array
    indices: mx.array
    weights: mx.array | None
    used: mx.array | None
    into: mx.array | None = None

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[tuple[int, float], ...]],
        dtype: mx.Dtype,
        into: Sequence[int] | None = None,
    ) -> "Pairs":
        """Not all of `rows` empty; `into` says which rows of the batch they are."""
        width = max(map(len, rows))
        unused = next(index for row in rows for index, _ in row), 0.0
        full = [(*row, *[unused] * (width - len(row))) for row in rows]
        weights = used = None
        if any(weight != 1 for row in full for _, weight in row):
            weights = mx.array([[weight for _, weight in row] for row in full], dtype=dtype)
            weights = weights[:, :, None, None]
            used = weights != 0
        numbers = range(len(rows)) if into is None else into
        places = mx.arange(len(rows) * width, dtype=mx.uint32)
        return cls(
            rows=mx.array([[number] * width for number in numbers], dtype=mx.uint32),
            places=mx.reshape(places, (-1, width)),
            indices=mx.array([[index for index, _ in row] for row in full], dtype=mx.uint32),
            weights=weights,
            used=used,
            into=None if into is None else mx.array(list(into), dtype=mx.uint32),
        )

    def add(self, y: mx.array, x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        """(batch, seq, out_dims): y and the updates of these rows, from stacked factors."""
        z = _gathered(x, a.swapaxes(1, 2), self.rows, self.indices)
        if self.weights is not None and self.used is not None:
            z = mx.where(self.used, z * self.weights, mx.zeros((), z.dtype))
        update = _gathered(mx.flatten(z, 0, 1), b, self.places, self.indices)
        update = update[:, 0] if update.shape[1] == 1 else mx.sum(update, axis=1)
        return y + update if self.into is None else cast(Any, y).at[self.into].add(update)


def _gathered(x: mx.array, stack: mx.array, rows: mx.array, indices: mx.array) -> mx.array:
    """x[rows] @ stack[indices], without the copies where mlx can."""
    if x.dtype != mx.float32 and runs_on_cpu():
        return x[rows] @ stack[indices]  # there gather_mm takes float32 only
    return mx.gather_mm(x, stack, rows, indices)


@dataclass
class FactorStack:
    """The factors of one rank class in one module.

    Attributes:
        a: (n, rank class, in_dims).
        b: (n, rank class, out_dims).
        taken: Indices that hold an adapter.
    """

    a: mx.array
    b: mx.array
    taken: set[int] = field(default_factory=set[int])
    _host: "tuple[Host, Host] | None" = None

    @property
    def on_host(self) -> "tuple[Host, Host]":
        """Both, as numpy sees the same memory; until the next `write`."""
        if self._host is None:
            self._host = host_array(self.a), host_array(self.b)
        return self._host

    @property
    def num_bytes(self) -> int:
        """Free indices included."""
        return self.a.nbytes + self.b.nbytes

    def write(self, update: ModuleUpdate) -> int:
        """Put factors into a free index, in place while there is one; returns it."""
        self._host = None  # mlx writes in place only what nobody else looks at
        index = next(i for i in range(len(self.taken) + 1) if i not in self.taken)
        if index == self.a.shape[0]:
            num_new = _growth(index, self.a.shape[1])
            self.a, self.b = _longer(self.a, num_new), _longer(self.b, num_new)
        self.taken.add(index)
        self.a[index] = _padded(update.a, self.a.shape[1])
        self.b[index] = _padded(update.b, self.b.shape[1])
        mx.eval(self.a, self.b)  # pyright: ignore[reportUnknownMemberType]
        return index


_DOUBLED_RANK = 32
"""Stacks of larger ranks grow one by one: what lies idle there is no trifle."""


def _growth(length: int, rank: int) -> int:
    return max(1, length) if rank <= _DOUBLED_RANK else 1


def _padded(factor: mx.array, rank: int) -> mx.array:
    """(rank of the adapter, dims) -> (rank of the stack, dims)."""
    return mx.pad(factor, [(0, rank - factor.shape[0]), (0, 0)])


def _longer(stack: mx.array, num_new: int) -> mx.array:
    return mx.pad(stack, [(0, num_new), (0, 0), (0, 0)])


class RoutedLinear(nn.Module):
    """A Linear of the base plus, for each row, the updates of that row's adapters."""

    def __init__(self, linear: nn.Module, shape: ModuleShape, dtype: mx.Dtype) -> None:
        super().__init__()
        self.linear = linear
        self.products = Products()
        self._store = _Store(shape, dtype)

    def __call__(self, x: mx.array) -> mx.array:
        """(batch, seq, in_dims) -> (batch, seq, out_dims)."""
        return self.updated(x, cast(mx.array, self.linear(x)))

    def updated(self, x: mx.array, y: mx.array) -> mx.array:
        """Add what adapters change to the base's own product."""
        store, products = self._store, self.products
        rows = products.gain_rows
        if rows is not None and store.gain is not None:
            y = y * store.gain[rows][:, None]
            if store.shift is not None:
                y = y + store.shift[rows][:, None]
        if products.whole is not None:
            rank, index = products.whole
            stack = store.stacks[rank]
            return y + (x @ stack.a[index].T) @ stack.b[index]
        for rank, pairs in products.pairs:
            stack = store.stacks[rank]
            y = pairs.add(y, x, stack.a, stack.b)
        return y

    @property
    def packed(self) -> PackedLinear:
        """See `HostLinear`: of a base whose weights are packed."""
        return cast(PackedLinear, self.linear)

    @property
    def has_update(self) -> bool:
        """See `HostLinear`."""
        return bool(self.products.on_host) or self.products.gain_rows is not None

    def updates(self, x: Host, y: Host) -> list[list[Piece]]:
        """See `HostLinear`."""
        store, products = self._store, self.products
        if products.gain_rows is not None and store.gain is not None:
            rows = cast(Any, np.array(products.gain_rows))
            y *= np.array(store.gain)[rows][:, None]
            if store.shift is not None:
                y += np.array(store.shift)[rows][:, None]
        return [
            [
                lambda update=update: update.add(x, y, store.stacks[update.rank].on_host)
                for update in updates
            ]
            for updates in products.on_host
        ]

    @property
    def locations(self) -> dict[int, Location]:
        """Where the factors of each slot are; of slots that do not change this module, nowhere."""
        return self._store.locations

    @property
    def rank_classes(self) -> Sequence[int]:
        """Of the stacks there are."""
        return tuple(self._store.stacks)

    @property
    def num_bytes(self) -> int:
        """What the updates take."""
        return self._store.num_bytes

    def write(self, slot: int, update: ModuleUpdate) -> None:
        """Take in one adapter's update under a slot that has none here."""
        self._store.write(slot, update)

    def discard(self, slot: int) -> None:
        """Forget the update of a slot, if it has one here."""
        self._store.discard(slot)


class _Store:
    """What a `RoutedLinear` keeps beside the base's Linear; no part of the module tree."""

    def __init__(self, shape: ModuleShape, dtype: mx.Dtype) -> None:
        self.stacks: dict[int, FactorStack] = {}
        self.locations: dict[int, Location] = {}
        self.gain: mx.array | None = None  # (slots + 1, out_dims); row 0 is for the base
        self.shift: mx.array | None = None
        self._shape = shape
        self._dtype = dtype

    @property
    def num_bytes(self) -> int:
        rows = (self.gain, self.shift)
        return sum(stack.num_bytes for stack in self.stacks.values()) + sum(
            array.nbytes for array in rows if array is not None
        )

    def write(self, slot: int, update: ModuleUpdate) -> None:
        rank = rank_class(update.a.shape[0])
        if rank not in self.stacks:
            sizes = (self._shape.in_dims, self._shape.out_dims)
            a, b = (mx.zeros((0, rank, size), self._dtype) for size in sizes)
            self.stacks[rank] = FactorStack(a, b)
        self.locations[slot] = Location(rank, self.stacks[rank].write(update))
        self._write_rows(slot, update)

    def discard(self, slot: int) -> None:
        location = self.locations.pop(slot, None)
        if location is None:
            return
        stack = self.stacks[location.rank]
        stack.taken.discard(location.at)
        if not stack.taken:
            del self.stacks[location.rank]
        self._write_rows(slot, None)

    def _write_rows(self, slot: int, update: ModuleUpdate | None) -> None:
        gain, shift = (update.gain, update.shift) if update else (None, None)
        self.gain = self._written(self.gain, slot, gain, 1.0)
        self.shift = self._written(self.shift, slot, shift, 0.0)
        mx.eval(self.gain, self.shift)  # pyright: ignore[reportUnknownMemberType]

    def _written(
        self, rows: mx.array | None, slot: int, row: mx.array | None, neutral: float
    ) -> mx.array | None:
        if rows is None and row is None:
            return None
        if rows is None:
            rows = mx.full((0, self._shape.out_dims), neutral, self._dtype)
        if rows.shape[0] < slot + 2:
            missing = (0, slot + 2 - rows.shape[0])
            rows = mx.pad(rows, [missing, (0, 0)], constant_values=neutral)
        rows[slot + 1] = neutral if row is None else row
        return rows


_LAYER = re.compile(r"\.layers\.(\d+)\.")


def _layer_of(path: str) -> int:
    """The number of the layer that a module belongs to; 0 for one that is in none."""
    found = _LAYER.search(path)
    return int(found[1]) if found else 0


class LoraBank:
    """All resident adapters on one base. Engine thread only."""

    def __init__(self, model: nn.Module, dtype: mx.Dtype) -> None:
        self.route = Route()
        self.dtype = dtype
        self.dora_slots: set[int] = set()
        self.linears = linear_layers(model)
        self.shapes = linear_shapes(self.linears)
        self._model = model
        self._routed: dict[str, RoutedLinear] = {}

    @property
    def routed(self) -> Sequence[RoutedLinear]:
        """The layers that some adapter changes, or has changed."""
        return tuple(self._routed.values())

    @property
    def num_bytes(self) -> int:
        """What the adapters take."""
        return sum(routed.num_bytes for routed in self._routed.values())

    def lowest_layer(self, slots: Set[int]) -> int:
        """The lowest of the model's layers that adapters change; 0 if they change none."""
        changed = [p for p, routed in self._routed.items() if slots & routed.locations.keys()]
        return min(map(_layer_of, changed), default=0)

    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Make an adapter resident in a slot, in place of whatever was there."""
        self.clear(slot)
        for path, update in weights.modules.items():
            self.write_module(slot, path, update)

    def load_module(self, slot: int, path: str, reader: AdapterReader) -> None:
        """Read one module of an adapter into a slot; raises as `AdapterReader.read`."""
        self.write_module(slot, path, reader.read(path))

    def write_module(self, slot: int, path: str, update: ModuleUpdate) -> None:
        """Add one module to what is in a slot. No row may use the slot before it has all."""
        routed = self._routed.get(path)
        if routed is None:
            routed = self._routed[path] = self.route_layer(path)
        routed.write(slot, update)
        if update.gain is not None:
            self.dora_slots.add(slot)
        self.route.forget()

    def clear(self, slot: int) -> None:
        """Empty a slot. Nothing is copied; the next adapter of its rank is written over it."""
        self.dora_slots.discard(slot)
        for routed in self._routed.values():
            routed.discard(slot)
        self.route.forget()

    def route_layer(self, path: str) -> RoutedLinear:
        """Put a layer that adapters can change in the place of the base's own."""
        return self.put(path, RoutedLinear(self.linears[path], self.shapes[path], self.dtype))

    def put(self, path: str, routed: RoutedLinear) -> RoutedLinear:
        """Put a layer into the model."""
        tree = cast(dict[str, Any], tree_unflatten([(path, routed)]))
        self._model.update_modules(tree)  # pyright: ignore[reportUnknownMemberType]
        return routed
