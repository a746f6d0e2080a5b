"""What stands in for the frozen layers of a model whose weights are packed.

They take and give arrays of mlx or of numpy, whichever they are given; what is of mlx is computed
first. Nothing is differentiated through them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from verse.cpu_weights.integer_product import numkong
from verse.cpu_weights.packed import Activations, Host, PackedKind, PackedWeight, scaled_chunks
from verse.cpu_weights.threads import Piece, Threads
from verse.cpu_weights.weight_cache import KeptMatrix

Layer = Any
"""A Linear or an Embedding of mlx, plain or quantized; mlx.nn has no types."""

CHUNK_NUMBERS = 8 << 20
"""Numbers of one chunk."""
_BITS = (4, 8)
_GROUP_SIZES = (32, 64, 128)


class HostLinear(Protocol):
    """A layer that the host multiplies: packed weights, and what may be added to their product."""

    @property
    def packed(self) -> "PackedLinear":
        """The frozen part."""
        ...

    @property
    def has_update(self) -> bool:
        """Whether `updates` do anything for the rows of this forward."""
        ...

    def updates(self, x: Host, y: Host) -> list[list[Piece]]:
        """The work of adding what adapters change to y, in place; lists one after the other.

        Args:
            x: (batch, tokens, in_dims).
            y: (batch, tokens, out_dims), the frozen part's.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Packed:
    """Parts of a layer. Tuples would be taken for weights by mlx's modules, and found slowly."""

    matrix: PackedWeight
    offset: Host | None
    threads: Threads


class PackedLinear(nn.Module):
    """Stands in for a frozen Linear or QuantizedLinear."""

    has_update = False

    def __init__(self, weight: PackedWeight, bias: Host | None, threads: Threads) -> None:
        super().__init__()
        self._parts = _Packed(weight, bias, threads)

    @classmethod
    def of(
        cls,
        linear: Any,
        kind: PackedKind,
        threads: Threads,
        kept: KeptMatrix | None = None,
        scales: Host | None = None,
    ) -> "PackedLinear":
        """Pack a layer, which may be dropped afterwards; what is kept, in 8 bits, is not read anew.

        Columns are multiplied by scales first, (in_dims,), which rows are then to be divided by.
        """
        bias = None if "bias" not in linear else np.array(linear["bias"].astype(mx.float32))
        kept = kept if kind == "int8" else None
        rows, write = scaled_chunks(rows_of(linear, kept), scales), kept and kept.write
        weight = PackedWeight.pack(kind, shape_of(linear), rows, threads, write)
        return cls(weight, bias, threads)

    @property
    def packed(self) -> "PackedLinear":
        """See `HostLinear`."""
        return self

    @property
    def matrix(self) -> PackedWeight:
        """(out_dims, in_dims)."""
        return self._parts.matrix

    @property
    def offset(self) -> Host | None:
        """(out_dims,), what a Linear calls its bias."""
        return self._parts.offset

    @property
    def threads(self) -> Threads:
        """Who multiplies."""
        return self._parts.threads

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return self.matrix.num_bytes + (0 if self.offset is None else self.offset.nbytes)

    def updates(self, x: Host, y: Host) -> list[list[Piece]]:
        """See `HostLinear`; a frozen layer alone adds nothing."""
        assert x.shape[:-1] == y.shape[:-1]
        return []

    def __call__(self, x: Any) -> Any:
        """(..., in_dims) -> (..., out_dims), float32, of mlx if x is."""
        return _given_back(x, products([self], host_array(x))[0])


@dataclass(frozen=True, slots=True)
class _NormParts:
    weight: Host
    eps: np.float32


class HostNorm(nn.Module):
    """Stands in for RMSNorm, where mlx takes 30 ns for a number."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        weight = np.array(norm.weight.astype(mx.float32))
        self._parts = _NormParts(weight, np.float32(norm.eps))

    @property
    def numbers(self) -> tuple[Host, np.float32]:
        """Its weight, and eps."""
        return self._parts.weight, self._parts.eps

    def __call__(self, x: Any) -> Any:
        """The weight times x / sqrt(mean(x^2) + eps), over the last axis."""
        rows, parts = host_array(x), self._parts
        # One product for each row; `einsum` takes longer to find out what to do than to do it.
        mean = np.matmul(rows[..., None, :], rows[..., None])[..., 0] / np.float32(rows.shape[-1])
        normed = rows * (1 / np.sqrt(mean + parts.eps))
        normed *= parts.weight
        return _given_back(x, normed)


_LEAST_SHARED = 500_000
"""Products of two numbers: waking a thread takes longer than its share of fewer."""


def products(
    layers: Sequence[HostLinear], x: Host, into: Sequence[Host | None] | None = None
) -> list[Host]:
    """What several layers make of the same rows, adapters included, in one go.

    Args:
        layers: At least one.
        x: (..., in_dims).
        into: Memory for what each makes, (rows, out_dims); None for new one.

    Returns:
        (..., out_dims) of each.
    """
    packed = [layer.packed for layer in layers]
    threads = packed[0].threads
    activations = Activations(np.ascontiguousarray(x).reshape(-1, x.shape[-1]), threads)
    outs: list[Host] = []
    pieces: list[Piece] = []
    for layer, given in zip(packed, into or [None] * len(packed), strict=True):
        shape = len(activations.rows), layer.matrix.out_dims
        out = np.empty(shape, np.float32) if given is None else given
        pieces += layer.matrix.pieces(activations, out)
        outs.append(out)
    num_multiplied = len(activations.rows) * sum(out.shape[1] for out in outs) * x.shape[-1]
    if num_multiplied < _LEAST_SHARED:
        for piece in pieces:
            piece()
    else:
        threads.run(pieces)
    for layer, out in zip(packed, outs, strict=True):
        if layer.offset is not None:
            np.add(out, layer.offset, out=out)
    shaped = [out.reshape(*x.shape[:-1], -1) for out in outs]
    add_updates(layers, x, shaped, threads)
    return shaped


def add_updates(
    layers: Sequence[HostLinear], x: Host, outs: Sequence[Host], threads: Threads
) -> None:
    """Add to the products of several frozen layers what adapters change.

    Args:
        layers: Which ones.
        x: (batch, tokens, in_dims), what all were multiplied by.
        outs: (batch, tokens, out_dims) of each.
        threads: Who does it.
    """
    updates = [
        layer.updates(x, y) for layer, y in zip(layers, outs, strict=True) if layer.has_update
    ]
    for at_once in zip_longest(*updates, fillvalue=()):
        threads.run([piece for pieces in at_once for piece in pieces])


def host_array(x: Any) -> Host:
    """The numbers of an array of mlx, computed if need be, or of numpy."""
    return cast(Host, on_host(x.astype(mx.float32))) if isinstance(x, mx.array) else x


def _given_back(x: Any, y: Host) -> Any:
    return mx.array(y) if isinstance(x, mx.array) else y


class CannotRepackError(ValueError):
    """The weights are of a form that is not repacked; says which."""


def shape_of(layer: Layer) -> tuple[int, int]:
    """(out_dims, in_dims) of a Linear or an Embedding, plain or quantized."""
    rows, columns = cast(mx.array, layer["weight"]).shape
    return rows, columns * 32 // layer.bits if is_quantized(layer) else columns


def is_quantized(layer: Layer) -> bool:
    """Whether its numbers are packed into words."""
    return "scales" in layer


def check_can_be_repacked(layer: Layer) -> None:
    """Of a quantized layer, whether `rows_of` reads it.

    Raises:
        CannotRepackError: it does not.
    """
    if not is_quantized(layer):
        return
    mode = str(getattr(layer, "mode", "affine"))
    if mode != "affine":
        raise CannotRepackError(f"{mode} weights")
    if layer.bits not in _BITS:
        raise CannotRepackError(f"weights of {layer.bits} bits")
    if layer.group_size not in _GROUP_SIZES:
        raise CannotRepackError(f"weights in groups of {layer.group_size}")


def rows_of(layer: Layer, kept: KeptMatrix | None = None) -> Iterator[Any]:
    """All rows in chunks: what is kept, or float32 as numpy and bfloat16 as numkong has it."""
    num_rows, num_columns = shape_of(layer)
    each = max(1, CHUNK_NUMBERS // num_columns)
    for first in range(0, num_rows, each):
        found = None if kept is None else kept.read(first)
        yield on_host(_chunk(layer, slice(first, first + each))) if found is None else found


def on_host(array: mx.array) -> Any:
    """The same numbers outside mlx; bfloat16 stays what it is, all else becomes float32."""
    if array.dtype != mx.bfloat16:
        return cast(Any, np.array(array.astype(mx.float32), copy=False))
    bits = cast(NDArray[np.uint16], np.array(array.view(mx.uint16), copy=False))
    bits = np.ascontiguousarray(bits)
    return numkong.from_pointer(bits.ctypes.data, bits.shape, "bf16", owner=bits)


def _chunk(layer: Layer, rows: slice) -> mx.array:
    weight = cast(mx.array, layer["weight"])[rows]
    if not is_quantized(layer):
        return weight
    biases = layer.get("biases")
    return mx.dequantize(
        weight,
        layer["scales"][rows],
        None if biases is None else biases[rows],
        group_size=layer.group_size,
        bits=layer.bits,
    )
