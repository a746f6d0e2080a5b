"""What stands in for the frozen layers of a model whose weights are packed.

They take and give arrays of mlx or of numpy, whichever they are given; what is of mlx is computed
first. Nothing is differentiated through them.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from verse.cpu_weights.integer_product import numkong
from verse.cpu_weights.packed import Activations, Host, PackedKind, PackedWeight, scaled_chunks
from verse.cpu_weights.threads import Piece, Threads
from verse.cpu_weights.weight_cache import KeptMatrix
from verse.safetensors_header import SafetensorsHeaderError, read_header

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


ExactRows = Callable[[NDArray[Any]], Host]
"""Ids of any shape -> their rows of a table, one axis more, float32."""

_EXACT_SHARE = 0.04
"""Logits this near to the largest, as a share of it, are computed anew: 8 bits are off by less."""
_EXACT_MOST = 256
"""Of a row; where more are that near, nothing much is decided between them."""


class PackedEmbedding(nn.Module):
    """Stands in for a frozen Embedding: a table to look rows up, and the head where it is tied."""

    def __init__(self, table: ExactRows, head: "PackedHead | None") -> None:
        super().__init__()
        self._parts = table, head

    @property
    def num_bytes(self) -> int:
        """What the head takes."""
        head = self._parts[1]
        return 0 if head is None else head.num_bytes

    def __call__(self, tokens: mx.array) -> Host:
        """(batch, tokens) ids -> (batch, tokens, dims) float32 on the host."""
        return self._parts[0](cast(Any, np.array(tokens)))

    def as_linear(self, x: Any) -> Any:
        """See `PackedHead`."""
        head = self._parts[1]
        assert head is not None
        return head(x)


class PackedHead(nn.Module):
    """Stands in for the output layer, tied or of its own."""

    def __init__(
        self, linear: PackedLinear, exact: ExactRows | None = None, scales: Host | None = None
    ) -> None:
        """Take weights, where rows are to be had unrounded, and by what columns were multiplied."""
        super().__init__()
        self._head = linear, exact, None if scales is None else cast(Host, 1 / scales)

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return self._head[0].num_bytes

    @property
    def linear(self) -> PackedLinear:
        """The packed weights."""
        return self._head[0]

    def __call__(self, x: Any) -> Any:
        """Of an array of mlx the logits, of one on the host `HostLogits`."""
        return (
            mx.array(self.logits(host_array(x))) if isinstance(x, mx.array) else HostLogits(x, self)
        )

    def logits(self, hidden: Host) -> Host:
        """(..., dims) -> (..., vocab); those near the largest as exact as the model's file."""
        linear, exact, shrunk = self._head
        logits = products([linear], hidden if shrunk is None else hidden * shrunk)[0]
        if exact is not None:
            rows = logits.reshape(-1, logits.shape[-1])
            for row, of_row in zip(rows, hidden.reshape(-1, hidden.shape[-1]), strict=True):
                largest = float(row.max())
                least = largest - _EXACT_SHARE * abs(largest)
                near = cast(Any, np.flatnonzero(row >= least))
                if len(near) <= _EXACT_MOST:
                    row[near] = np.ascontiguousarray(exact(near)) @ of_row
        return logits


class HostLogits:
    """(batch, tokens, vocab) that are multiplied only where somebody looks.

    Of a prompt nobody needs any but the last token's, and a head is a quarter of a small model.
    """

    def __init__(self, hidden: Host, head: PackedHead) -> None:
        self._hidden = hidden
        self._head = head

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of all."""
        return (*self._hidden.shape[:2], self._head.linear.matrix.out_dims)

    def __getitem__(self, index: Any) -> mx.array:
        """Those of some rows, by the first two axes."""
        return mx.array(self.on_host(index))

    def on_host(self, index: Any) -> Host:
        """The same without mlx."""
        return self._head.logits(np.ascontiguousarray(self._hidden[index]))


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


def products(layers: Sequence[HostLinear], x: Host) -> list[Host]:
    """What several layers make of the same rows, adapters included, in one go.

    Args:
        layers: At least one.
        x: (..., in_dims).

    Returns:
        (..., out_dims) of each.
    """
    packed = [layer.packed for layer in layers]
    threads = packed[0].threads
    activations = Activations(np.ascontiguousarray(x).reshape(-1, x.shape[-1]), threads)
    outs: list[Host] = []
    pieces: list[Piece] = []
    for layer in packed:
        out = np.empty((len(activations.rows), layer.matrix.out_dims), np.float32)
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


_FLOATS = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
_WORDS: dict[Any, Any] = {mx.float32: np.float32, mx.float16: np.float16, mx.bfloat16: np.uint16}


class EmbeddingFile:
    """A plain table inside a safetensors file, which stays open: replacing it changes nothing."""

    def __init__(self, file: Path, start: int, shape: tuple[int, int], dtype: Any) -> None:
        self._file = os.open(file, os.O_RDONLY)
        self._start = start
        self._shape = shape
        self._dtype = dtype

    @classmethod
    def find(
        cls, folder: Path, embedding: Layer, name: str = "embed_tokens"
    ) -> "EmbeddingFile | None":
        """The table of a model folder; None if none is clearly that one."""
        if is_quantized(embedding):
            return None
        try:
            return cls._found(folder, embedding, f"{name}.weight")
        except SafetensorsHeaderError:  # larger than what is read so
            return None

    @classmethod
    def _found(cls, folder: Path, embedding: Layer, wanted: str) -> "EmbeddingFile | None":
        shape = tuple(embedding["weight"].shape)
        found: list[EmbeddingFile] = []
        for file in sorted(folder.glob("model*.safetensors")):
            header = read_header(file)
            for name, tensor in header.tensors.items():
                is_it = name.endswith(wanted) and tensor.shape == shape
                if is_it and tensor.dtype in _FLOATS:
                    start = header.data_start + tensor.data_offsets[0]
                    found.append(cls(file, start, shape, _FLOATS[tensor.dtype]))
        return found[0] if len(found) == 1 else None

    def __call__(self, tokens: NDArray[Any]) -> Host:
        """Ids of any shape -> one axis more, float32."""
        flat = tokens.reshape(-1)
        words = _WORDS[self._dtype]
        row_bytes = self._shape[1] * np.dtype(words).itemsize
        known, where = np.unique(flat, return_inverse=True)
        parts = [os.pread(self._file, row_bytes, self._start + int(t) * row_bytes) for t in known]
        if any(len(part) != row_bytes for part in parts):
            raise OSError("The model's file has been cut short; start the server again.")
        rows = np.frombuffer(b"".join(parts), words).reshape(len(known), -1)
        return _as_float32(rows, self._dtype)[where].reshape(*tokens.shape, -1)


class EmbeddingTable:
    """A table in memory, in the form the folder has it, quantized or not."""

    def __init__(self, embedding: Layer) -> None:
        self._embedding = embedding

    def __call__(self, tokens: NDArray[Any]) -> Host:
        """Ids of any shape -> one axis more, float32."""
        rows = self._embedding(mx.array(tokens))
        return cast(Host, np.array(rows.astype(mx.float32)))


def _as_float32(rows: NDArray[Any], dtype: Any) -> Host:
    if dtype == mx.bfloat16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32)


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
