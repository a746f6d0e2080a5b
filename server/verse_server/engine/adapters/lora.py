"""LoRA for a batch whose rows use different adapters, or none.

Each adapted Linear holds the factors of all resident adapters, stacked:

    A  (slots, rank, in_dims)       B  (slots, rank, out_dims)       rank: the largest resident one

Rows that all use one slot in full take two ordinary products with its factors. Any other mix takes
two gathered ones, which read each row's factors where they are:

    y + sum over k of ((x @ A[slot k of the row].T) * weight k of the row) @ B[slot k of the row]

A row has as many (slot, weight) pairs as the longest blend of the batch; those it does not use have
weight 0, and there the product is put to 0 instead of taken, since 0 times an overflow is no zero.
So a base row adds exact zeros, and shorter ranks are padded with zeros. `benchmarks/lora.py`
measures this against products over the columns of all slots and against one product per adapter.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from verse.adapter_files import AdapterFileError, AdapterPlan, ModuleFactors, ModuleShape
from verse.base_model import linear_layers, linear_shapes, runs_on_cpu


@dataclass(frozen=True)
class ModuleUpdate:
    """One module's update: y * gain + shift + (x @ a.T) @ b, gain and shift for DoRA only.

    Attributes:
        a: (rank, in_dims), the base's activation type.
        b: (rank, out_dims), scale and DoRA's gain folded in.
        gain: (out_dims,) or None. DoRA's magnitude over the norm of the adapted weight's rows.
        shift: (out_dims,) or None. Gives a bias back what the gain took from it.
    """

    a: mx.array
    b: mx.array
    gain: mx.array | None
    shift: mx.array | None


@dataclass(frozen=True)
class AdapterWeights:
    """All updates of one adapter.

    Attributes:
        modules: By path in the base.
        rank: Largest rank over the modules.
        delta_norm: Frobenius norm of W' - W over all modules together.
    """

    modules: dict[str, ModuleUpdate]
    rank: int
    delta_norm: float

    @property
    def uses_dora(self) -> bool:
        """Whether any module has a gain."""
        return any(update.gain is not None for update in self.modules.values())


def load_weights(
    data: bytes, plan: AdapterPlan, linears: dict[str, nn.Module], dtype: mx.Dtype
) -> AdapterWeights:
    """Turn the bytes of a safetensors file into updates of the base's Linear layers.

    Args:
        data: The whole file.
        plan: What the names in it mean.
        linears: The base's own layers by path; read for DoRA's norms only.
        dtype: Activation type of the base; the arithmetic before the cast is float32.

    Raises:
        AdapterFileError: there is NaN or infinity in it. One such number in a slot would reach
            every row of the batch, because 0 x NaN is not 0.
    """
    tensors = mx.load(io.BytesIO(data), format="safetensors")
    assert isinstance(tensors, dict)
    updates: dict[str, ModuleUpdate] = {}
    squares: list[mx.array] = []
    for module, factors in plan.modules.items():
        update, square = _update(tensors, factors, linears[module], dtype)
        updates[module] = update
        squares.append(square)
    arrays = [x for u in updates.values() for x in (u.a, u.b, u.gain, u.shift) if x is not None]
    finite = mx.all(mx.stack([mx.all(mx.isfinite(x)) for x in arrays]))
    mx.eval(arrays, squares, finite)  # pyright: ignore[reportUnknownMemberType]
    if not finite.item():
        raise AdapterFileError("its weights hold NaN or infinity, as after training that diverged")
    delta_norm = cast(float, mx.sqrt(mx.sum(mx.stack(squares))).item())
    return AdapterWeights(updates, plan.rank, delta_norm)


def _update(
    tensors: dict[str, mx.array], factors: ModuleFactors, linear: nn.Module, dtype: mx.Dtype
) -> tuple[ModuleUpdate, mx.array]:
    """One module's update and the squared Frobenius norm of its delta."""
    a = tensors[factors.a].astype(mx.float32)
    b = tensors[factors.b].astype(mx.float32) * factors.scale
    a, b = (a, b.T) if factors.transposed else (a.T, b)
    if factors.m is None:
        # |AB|² from the Gram matrices of the factors: rank x rank instead of in x out.
        square = mx.sum((a @ a.T) * (b @ b.T))
        return ModuleUpdate(_stored(a, dtype), _stored(b, dtype), None, None), square
    weight = _dense_weight(linear)
    adapted = weight + b.T @ a
    gain = tensors[factors.m].astype(mx.float32) / mx.linalg.norm(adapted, axis=1)
    bias = _parameter(linear, "bias")
    shift = None if bias is None else bias.astype(mx.float32) * (1 - gain)
    square = mx.sum(mx.square(gain[:, None] * adapted - weight))
    update = ModuleUpdate(
        _stored(a, dtype),
        _stored(b * gain, dtype),
        gain.astype(dtype),
        None if shift is None else shift.astype(dtype),
    )
    return update, square


def _stored(factor: mx.array, dtype: mx.Dtype) -> mx.array:
    return mx.contiguous(factor.astype(dtype))


def _dense_weight(linear: nn.Module) -> mx.array:
    """(out_dims, in_dims), float32."""
    weight = _parameter(linear, "weight")
    assert weight is not None
    if not isinstance(linear, nn.QuantizedLinear):
        return weight.astype(mx.float32)
    scales = _parameter(linear, "scales")
    assert scales is not None
    return mx.dequantize(
        weight,
        scales,
        _parameter(linear, "biases"),
        group_size=linear.group_size,
        bits=linear.bits,
        mode=linear.mode,
    ).astype(mx.float32)


def _parameter(linear: nn.Module, name: str) -> mx.array | None:
    return cast(dict[str, mx.array], linear).get(name)


SlotWeights = tuple[tuple[int, float], ...]
"""The (slot, strength) pairs of one row; empty for the base."""


@dataclass
class Route:
    """What the rows of the forward that runs now use. Shared by all adapted layers.

    Attributes:
        slot: The one that every row uses in full, if so.
        pairs: What the rows use otherwise; None for `slot`, and when every row is base.
        gain_rows: (batch,) int32, each row's slot + 1 or 0; None when no row uses DoRA.
    """

    slot: int | None = None
    pairs: "Pairs | None" = None
    gain_rows: mx.array | None = None
    _rows: Sequence[SlotWeights] = field(default_factory=tuple)

    def set(self, rows: Sequence[SlotWeights], bank: "LoraBank") -> None:
        """Prepare for a forward; cheap while the rows stay the same."""
        if rows == self._rows:
            return
        self.forget()
        self._rows = rows
        slots = {slot for row in rows for slot, _ in row}
        if not slots:
            return
        first = min(slots)
        if all(row == ((first, 1.0),) for row in rows):
            self.slot = first
        else:
            self.pairs = Pairs.of(rows, bank.dtype)
        if slots & bank.dora_slots:
            self.gain_rows = mx.array([row[0][0] + 1 if row else 0 for row in rows])

    def forget(self) -> None:
        """The stacks have changed: prepare anew at the next forward."""
        self._rows = ()
        self.slot = self.pairs = self.gain_rows = None


@dataclass(frozen=True)
class Pairs:
    """The (slot, weight) pairs of rows that differ, filled up to the longest.

    Attributes:
        rows: (batch, k) uint32, the row of each pair.
        places: (batch, k) uint32, 0, 1, 2 ...
        slots: (batch, k) uint32, its slot.
        weights: (batch, k, 1, 1), or None when every pair counts in full.
        used: Where `weights` are not 0.
    """

    rows: mx.array
    places: mx.array
    slots: mx.array
    weights: mx.array | None
    used: mx.array | None

    @classmethod
    def of(cls, rows: Sequence[SlotWeights], dtype: mx.Dtype) -> "Pairs":
        """Not all of `rows` empty."""
        width = max(map(len, rows))
        full = [(*row, *[(0, 0.0)] * (width - len(row))) for row in rows]
        weights = used = None
        if any(weight != 1 for row in full for _, weight in row):
            weights = mx.array([[weight for _, weight in row] for row in full], dtype=dtype)
            weights = weights[:, :, None, None]
            used = weights != 0
        places = mx.arange(len(rows) * width, dtype=mx.uint32)
        return cls(
            rows=mx.reshape(places // width, (-1, width)),
            places=mx.reshape(places, (-1, width)),
            slots=mx.array([[slot for slot, _ in row] for row in full], dtype=mx.uint32),
            weights=weights,
            used=used,
        )

    def update(self, x: mx.array, a: mx.array, b: mx.array) -> mx.array:
        """(batch, seq, in_dims) -> (batch, seq, out_dims), from stacked factors."""
        z = _gathered(x, a.swapaxes(1, 2), self.rows, self.slots)
        if self.weights is not None and self.used is not None:
            z = mx.where(self.used, z * self.weights, mx.zeros((), z.dtype))
        update = _gathered(mx.flatten(z, 0, 1), b, self.places, self.slots)
        return update[:, 0] if update.shape[1] == 1 else mx.sum(update, axis=1)


def _gathered(x: mx.array, stack: mx.array, rows: mx.array, slots: mx.array) -> mx.array:
    """x[rows] @ stack[slots], without the copies where mlx can."""
    if x.dtype != mx.float32 and runs_on_cpu():
        return x[rows] @ stack[slots]  # there gather_mm takes float32 only
    return mx.gather_mm(x, stack, rows, slots)


class RoutedLinear(nn.Module):
    """A Linear of the base plus, for each row, the updates of that row's adapters."""

    def __init__(self, linear: nn.Module, shape: ModuleShape, bank: "LoraBank") -> None:
        super().__init__()
        self.linear = linear
        self._shape = shape
        self._route = bank.route
        self._a = mx.zeros((0, bank.rank, shape.in_dims), bank.dtype)
        self._b = mx.zeros((0, bank.rank, shape.out_dims), bank.dtype)
        self._gain: mx.array | None = None  # (slots + 1, out_dims); row 0 is for the base
        self._shift: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """(batch, seq, in_dims) -> (batch, seq, out_dims)."""
        y = cast(mx.array, self.linear(x))
        route = self._route
        if route.gain_rows is not None and self._gain is not None:
            y = y * self._gain[route.gain_rows][:, None]
            if self._shift is not None:
                y = y + self._shift[route.gain_rows][:, None]
        if route.slot is not None:
            return y + (x @ self._a[route.slot].T) @ self._b[route.slot]
        if route.pairs is not None:
            return y + route.pairs.update(x, self._a, self._b)
        return y

    def resize(self, num_slots: int, rank: int) -> None:
        """Give the stacks room for so many slots of this rank; what fits is kept."""
        self._a = _resized(self._a, num_slots, rank)
        self._b = _resized(self._b, num_slots, rank)
        if self._gain is not None:
            self._gain = _more_rows(self._gain, num_slots + 1, 1.0)
        if self._shift is not None:
            self._shift = _more_rows(self._shift, num_slots + 1, 0.0)

    def write(self, slot: int, update: ModuleUpdate | None) -> None:
        """Put one adapter's update into a slot; None clears it."""
        self._a[slot] = _padded(update.a if update else None, self._a[slot])
        self._b[slot] = _padded(update.b if update else None, self._b[slot])
        self._gain = self._written_rows(self._gain, slot, update.gain if update else None, 1.0)
        self._shift = self._written_rows(self._shift, slot, update.shift if update else None, 0.0)
        mx.eval(self._a, self._b, self._gain, self._shift)  # pyright: ignore[reportUnknownMemberType]

    def _written_rows(
        self, rows: mx.array | None, slot: int, row: mx.array | None, neutral: float
    ) -> mx.array | None:
        if rows is None:
            if row is None:
                return None
            rows = mx.full((self._a.shape[0] + 1, self._shape.out_dims), neutral, self._a.dtype)
        rows[slot + 1] = neutral if row is None else row
        return rows


def _padded(factor: mx.array | None, like: mx.array) -> mx.array:
    """(rank of the adapter, dims) -> (rank of the stack, dims)."""
    if factor is None:
        return mx.zeros_like(like)
    return mx.pad(factor, [(0, like.shape[0] - factor.shape[0]), (0, 0)])


def _resized(stack: mx.array, num_slots: int, rank: int) -> mx.array:
    kept = stack[:num_slots, :rank]
    missing = (num_slots - kept.shape[0], rank - kept.shape[1])
    return mx.contiguous(mx.pad(kept, [(0, missing[0]), (0, missing[1]), (0, 0)]))


def _more_rows(rows: mx.array, num_rows: int, neutral: float) -> mx.array:
    return mx.pad(rows, [(0, num_rows - rows.shape[0]), (0, 0)], constant_values=neutral)


class LoraBank:
    """All resident adapters on one base. Engine thread only."""

    def __init__(self, model: nn.Module, dtype: mx.Dtype) -> None:
        self.route = Route()
        self.dtype = dtype
        self.rank = 0
        self.dora_slots: set[int] = set()
        self.linears = linear_layers(model)
        self.shapes = linear_shapes(self.linears)
        self._model = model
        self._routed: dict[str, RoutedLinear] = {}
        self._num_slots = 0
        self._ranks: dict[int, int] = {}

    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Make an adapter resident in a slot, in place of whatever was there."""
        self._ranks[slot] = weights.rank
        self._fit()
        for path in weights.modules.keys() - self._routed.keys():
            self._adapt(path)
        for path, routed in self._routed.items():
            routed.write(slot, weights.modules.get(path))
        self.dora_slots.discard(slot)
        if weights.uses_dora:
            self.dora_slots.add(slot)
        self.route.forget()

    def clear(self, slot: int) -> None:
        """Empty a slot, so that a half-written adapter never meets a row."""
        self._ranks.pop(slot, None)
        self.dora_slots.discard(slot)
        for routed in self._routed.values():
            if slot < self._num_slots:
                routed.write(slot, None)
        self.route.forget()

    def _fit(self) -> None:
        """Room for the highest slot in use and the largest resident rank, and no more rank."""
        num_slots = max(self._num_slots, 1 << max(self._ranks).bit_length())
        rank = max(self._ranks.values())
        if (num_slots, rank) == (self._num_slots, self.rank):
            return
        self._num_slots, self.rank = num_slots, rank
        for routed in self._routed.values():
            routed.resize(num_slots, rank)

    def _adapt(self, path: str) -> None:
        routed = RoutedLinear(self.linears[path], self.shapes[path], self)
        routed.resize(self._num_slots, self.rank)
        self._routed[path] = routed
        tree = cast(dict[str, Any], tree_unflatten([(path, routed)]))
        self._model.update_modules(tree)  # pyright: ignore[reportUnknownMemberType]
