"""What stands in for the frozen layers of a model whose weights are packed.

They take and give arrays of mlx or of numpy, whichever they are given; what is of mlx is computed
first. Nothing is differentiated through them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from verse.cpu_weights.packed import Activations, Host, PackedKind, PackedWeight
from verse.cpu_weights.stored import on_host, rows_of, shape_of
from verse.cpu_weights.threads import Piece, Threads


class HostLinear(Protocol):
    """A layer that the host multiplies: packed weights, and what may be added to their product."""

    @property
    def packed(self) -> "PackedLinear":
        """The frozen part."""
        ...

    @property
    def has_update(self) -> bool:
        """Whether `add_update` does anything for the rows of this forward."""
        ...

    def add_update(self, x: Host, y: Host) -> None:
        """Add what adapters change, in place.

        Args:
            x: (batch, tokens, in_dims).
            y: (batch, tokens, out_dims), the frozen part's.
        """
        ...


class PackedLinear(nn.Module):
    """Stands in for a frozen Linear or QuantizedLinear."""

    has_update = False

    def __init__(self, weight: PackedWeight, bias: Host | None, threads: Threads) -> None:
        super().__init__()
        self._packed = weight, bias, threads

    @classmethod
    def of(cls, linear: Any, kind: PackedKind, threads: Threads) -> "PackedLinear":
        """Pack a layer, which may be dropped afterwards."""
        bias = None if "bias" not in linear else np.array(linear["bias"].astype(mx.float32))
        weight = PackedWeight.pack(kind, shape_of(linear), rows_of(linear), threads)
        return cls(weight, bias, threads)

    @property
    def packed(self) -> "PackedLinear":
        """See `HostLinear`."""
        return self

    @property
    def matrix(self) -> PackedWeight:
        """(out_dims, in_dims)."""
        return self._packed[0]

    @property
    def offset(self) -> Host | None:
        """(out_dims,), what a Linear calls its bias."""
        return self._packed[1]

    @property
    def threads(self) -> Threads:
        """Who multiplies."""
        return self._packed[2]

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return self.matrix.num_bytes + (0 if self.offset is None else self.offset.nbytes)

    def add_update(self, x: Host, y: Host) -> None:
        """See `HostLinear`; a frozen layer alone adds nothing."""

    def __call__(self, x: Any) -> Any:
        """(..., in_dims) -> (..., out_dims), float32, of mlx if x is."""
        return _given_back(x, products([self], host_array(x))[0])


class PackedEmbedding(nn.Module):
    """Stands in for a frozen Embedding: a table to look rows up, and the head where it is tied."""

    def __init__(self, table: Callable[[Any], Host], head: PackedLinear | None) -> None:
        super().__init__()
        self._parts = table, head

    @property
    def num_bytes(self) -> int:
        """What the head takes."""
        head = self._parts[1]
        return 0 if head is None else head.num_bytes

    def __call__(self, tokens: mx.array) -> Host:
        """(batch, tokens) ids -> (batch, tokens, dims) float32 on the host."""
        return self._parts[0](np.array(tokens))

    def as_linear(self, x: Any) -> Any:
        """The head: see `HostLogits`."""
        head = self._parts[1]
        assert head is not None
        return head(x) if isinstance(x, mx.array) else HostLogits(x, head)


class PackedHead(nn.Module):
    """Stands in for an output layer of its own, `lm_head`."""

    def __init__(self, head: PackedLinear) -> None:
        super().__init__()
        self._head = (head,)

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return self._head[0].num_bytes

    def __call__(self, x: Any) -> Any:
        """See `HostLogits`."""
        return self._head[0](x) if isinstance(x, mx.array) else HostLogits(x, self._head[0])


class HostLogits:
    """(batch, tokens, vocab) that are multiplied only where somebody looks.

    Of a prompt nobody needs any but the last token's, and a head is a quarter of a small model.
    """

    def __init__(self, hidden: Host, head: PackedLinear) -> None:
        self._hidden = hidden
        self._head = head

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of all."""
        return (*self._hidden.shape[:2], self._head.matrix.out_dims)

    def __getitem__(self, index: Any) -> mx.array:
        """Those of some rows, by the first two axes."""
        return mx.array(self.on_host(index))

    def on_host(self, index: Any) -> Host:
        """The same without mlx."""
        return products([self._head], np.ascontiguousarray(self._hidden[index]))[0]


class HostNorm(nn.Module):
    """Stands in for RMSNorm, where mlx takes 30 ns for a number."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self._weight = np.array(norm.weight.astype(mx.float32)), np.float32(norm.eps)

    def __call__(self, x: Any) -> Any:
        """The weight times x / sqrt(mean(x^2) + eps), over the last axis."""
        rows, (weight, eps) = host_array(x), self._weight
        mean = np.square(rows).mean(axis=-1, keepdims=True)
        return _given_back(x, rows * (1 / np.sqrt(mean + eps)) * weight)


def products(layers: Sequence[HostLinear], x: Host) -> list[Host]:
    """What several layers make of the same rows, adapters included, in one go.

    Args:
        layers: At least one.
        x: (..., in_dims).

    Returns:
        (..., out_dims) of each.
    """
    packed = [layer.packed for layer in layers]
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    outs = [np.empty((len(rows), layer.matrix.out_dims), np.float32) for layer in packed]
    activations = Activations(rows)
    pieces: list[Piece] = []
    for layer, out in zip(packed, outs, strict=True):
        pieces += layer.matrix.pieces(activations, out)
    packed[0].threads.run(pieces)
    shaped = [out.reshape(*x.shape[:-1], -1) for out in outs]
    for layer, frozen, y in zip(layers, packed, shaped, strict=True):
        if frozen.offset is not None:
            np.add(y, frozen.offset, out=y)
        if layer.has_update:
            layer.add_update(x, y)
    return shaped


def host_array(x: Any) -> Host:
    """The numbers of an array of mlx, computed if need be, or of numpy."""
    return cast(Host, on_host(x.astype(mx.float32))) if isinstance(x, mx.array) else x


def _given_back(x: Any, y: Host) -> Any:
    return mx.array(y) if isinstance(x, mx.array) else y
