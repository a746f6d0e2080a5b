"""A matrix of weights in the layout that this processor multiplies fastest.

Rows are packed once and multiplied with the best instructions there are, chosen at run time (AMX,
AVX-512, AVX2, NEON). What is packed is the only copy kept. Two kinds:

- `bf16`: weights and activations in bfloat16, sums in float32.
- `int8`: weights in 8 bits with a scale for each row. Both sides are rotated first, which changes
  no product and spreads the few large numbers of a row over their neighbours (as QuaRot does), so
  that its scale fits all. Activations take 16 bits, as two rows of 8; sums are exact integers.

Each row of a product is computed by itself, in the same order whatever stands beside it: alone or
in company, the same bits.
"""

import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from verse.cpu_weights.integer_product import (
    MIDDLE,
    IntegerProduct,
    fastest_product,
    numkong,
)
from verse.cpu_weights.threads import Piece, Threads
from verse.cpu_weights.weight_cache import Quantized

Host = NDArray[np.float32]
PackedKind = Literal["bf16", "int8"]

_BLOCK_BYTES = 2 << 20
"""Of weights in one piece of work, about: long beside handing it over, short beside a step."""
_LEAST_BYTES = 256 << 10
"""Of a matrix in several pieces."""
_ROWS_AT_ONCE = 128
"""Of activations: what both halves give stays in the processor's cache until it is added."""
_LEAST_CONVERTED = 16 << 10
"""Numbers of activations that one thread converts."""
_STEPS = 127
_HALF = 256
"""One step of the high half in steps of the low one."""
_COUNTED = _STEPS * _HALF
"""Steps of the largest number of a row of activations."""
_ROTATED = 128
"""Numbers that are rotated together, at most."""


class Activations:
    """Rows to multiply, converted once for all weights they meet."""

    def __init__(self, rows: Host, threads: Threads) -> None:
        """Take (rows, in_dims), float32, contiguous."""
        self.rows = rows
        self._threads = threads
        self._bf16: Any = None
        self._int8: tuple[NDArray[np.uint8], Host] | None = None

    @property
    def bf16(self) -> Any:
        """(rows, in_dims), as numkong takes it."""
        if self._bf16 is None:
            self._bf16 = numkong.astype(self.rows, "bf16")
        return self._bf16

    @property
    def int8(self) -> tuple[NDArray[np.uint8], Host]:
        """(2, rows, in_dims), the high halves and the low ones; (rows, 1) the low step."""
        if self._int8 is None:
            num_rows, dims = self.rows.shape
            both = np.empty((2, num_rows, dims), np.uint8)
            step = np.empty((num_rows, 1), np.float32)
            least = -(-_LEAST_CONVERTED // dims)
            each = max(least, -(-num_rows // self._threads.num_threads))
            parts = [slice(first, first + each) for first in range(0, num_rows, each)]
            self._threads.run(
                [lambda p=p: _halve(self.rows[p], both[:, p], step[p]) for p in parts]
            )
            self._int8 = both, step
        return self._int8


def _halve(rows: Host, both: NDArray[np.uint8], step: Host) -> None:
    """Write the high and the low halves of rows, and what 1 means in the low one."""
    rows = rotated(rows)
    np.maximum(rows.max(axis=1), -rows.min(axis=1), out=step[:, 0])
    step /= np.float32(_COUNTED)
    np.copyto(step, 1, where=(step == 0) | ~np.isfinite(step))
    # Both halves are `MIDDLE` more than they are, so that neither is below 0.
    rows *= 1 / step
    rows += np.float32(MIDDLE * (_HALF + 1) + 0.5)
    with np.errstate(invalid="ignore"):  # a row that is not finite stays without meaning
        halves = rows.astype(np.uint16).view(np.uint8).reshape(*rows.shape, 2)
    low, high = (0, 1) if sys.byteorder == "little" else (1, 0)
    both[0], both[1] = halves[:, :, high], halves[:, :, low]


class PackedWeight:
    """(out_dims, in_dims), packed in blocks of rows."""

    def __init__(self, kind: PackedKind, in_dims: int) -> None:
        """Begin an empty one; see `pack`."""
        self.kind: PackedKind = kind
        self.in_dims = in_dims
        self.out_dims = 0
        self._blocks: list[tuple[int, int, Any]] = []

    @classmethod
    def pack(
        cls,
        kind: PackedKind,
        shape: tuple[int, int],
        chunks: Iterable[Any],
        threads: Threads,
        keep: Callable[[int, Quantized], None] | None = None,
    ) -> "PackedWeight":
        """Pack rows that come in chunks.

        Args:
            kind: Of the numbers.
            shape: (out_dims, in_dims).
            chunks: (some rows, in_dims) each, in order: numpy's float32, numkong's bfloat16, or
                what `quantized` has made of either.
            threads: Who does it.
            keep: Given what `quantized` made of each chunk, and its first row.
        """
        weight = cls(kind, shape[1])
        rows_each = num_block_rows(kind, shape, threads.num_threads)
        for chunk in chunks:
            first = weight.out_dims
            made = weight._add(list(_pieces_of(chunk, rows_each)), threads)
            if keep is not None and not isinstance(chunk, Quantized):
                keep(first, Quantized(*map(np.concatenate, zip(*made, strict=True))))
        if weight.out_dims != shape[0]:
            raise ValueError(f"chunks end at row {weight.out_dims} of {shape[0]}")
        return weight

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        of_blocks = (block for _, _, block in self._blocks)
        if self.kind == "bf16":
            return sum(int(block.nbytes) for block in of_blocks)
        return sum(cast(IntegerProduct, block).num_bytes for block in of_blocks)

    @property
    def spans(self) -> list[slice]:
        """Which rows each of the `pieces` is about."""
        return [slice(first, last) for first, last, _ in self._blocks]

    def pieces(self, x: Activations, out: Host) -> list[Piece]:
        """The work of out[:] = x @ self.T, where out is (rows, out_dims)."""
        if self.kind == "bf16":
            rows = x.bf16

            def multiply(first: int, last: int, block: Any) -> None:
                out[:, first:last] = np.asarray(numkong.dots_packed(rows, block))

            return [lambda b=block: multiply(*b) for block in self._blocks]
        return self._int8_pieces(x, out)

    def multiplied(self, rows: Host, threads: Threads) -> Host:
        """What (rows, in_dims) @ self.T is: (rows, out_dims), float32 as they are."""
        out = np.empty((len(rows), self.out_dims), np.float32)
        threads.run(self.pieces(Activations(np.ascontiguousarray(rows), threads), out))
        return out

    def _int8_pieces(self, x: Activations, out: Host) -> list[Piece]:
        both, low_step = x.int8
        high_step = low_step * np.float32(_HALF)

        def multiply(first: int, last: int, block: IntegerProduct) -> None:
            for start in range(0, len(out), _ROWS_AT_ONCE):
                rows = slice(start, start + _ROWS_AT_ONCE)
                products = block(both[:, rows].reshape(-1, self.in_dims))
                num_rows = len(products) // 2
                target, low = out[rows, first:last], products[num_rows:]
                np.multiply(products[:num_rows], high_step[rows], out=target)
                low *= low_step[rows]
                target += low

        return [lambda b=block: multiply(*b) for block in self._blocks]

    def _add(self, pieces: list[Any], threads: Threads) -> list[Quantized]:
        """Append rows; what 8 bits made of each piece."""
        packed: list[Any] = [None] * len(pieces)
        made: dict[int, Quantized] = {}

        def pack(index: int) -> None:
            if self.kind == "bf16":
                packed[index] = _packed_bf16(pieces[index])
            else:
                made[index] = quantized(pieces[index])
                packed[index] = fastest_product()(*made[index])

        threads.run([lambda i=index: pack(i) for index in range(len(pieces))])
        for piece, block in zip(pieces, packed, strict=True):
            last = self.out_dims + num_rows_of(piece)
            self._blocks.append((self.out_dims, last, block))
            self.out_dims = last
        return [made[index] for index in sorted(made)]


def quantized_chunks(
    chunks: Iterable[Any],
    threads: Threads,
    keep: Callable[[int, Quantized], None] | None = None,
) -> Iterator[tuple[int, Quantized]]:
    """The first row of each chunk, and the chunk in 8 bits; see `PackedWeight.pack`."""
    first = 0
    for chunk in chunks:
        whole = chunk if isinstance(chunk, Quantized) else _quantized_by_all(chunk, threads)
        if keep is not None and whole is not chunk:
            keep(first, whole)
        yield first, whole
        first += len(whole.steps)


def _quantized_by_all(chunk: Any, threads: Threads) -> Quantized:
    pieces = list(_pieces_of(chunk, -(-num_rows_of(chunk) // threads.num_threads)))
    made: list[Any] = [None] * len(pieces)

    def make(index: int) -> None:
        made[index] = quantized(pieces[index])

    threads.run([lambda i=index: make(i) for index in range(len(pieces))])
    return Quantized(*map(np.concatenate, zip(*made, strict=True)))


def num_block_rows(kind: PackedKind, shape: tuple[int, int], num_threads: int) -> int:
    """Rows of one piece: about two megabytes, and as many pieces as all threads do in equal turns.

    Fewer and longer ones would be faster yet, but for what is done with the product in the
    processor's cache. What is too little to be worth handing over is one piece.
    """
    num_bytes = shape[0] * shape[1] * (2 if kind == "bf16" else 1)
    if num_bytes < _LEAST_BYTES:
        return -(-shape[0] // 16) * 16
    turns = max(1, round(num_bytes / _BLOCK_BYTES / num_threads))
    each = -(-shape[0] // (turns * num_threads))
    return -(-each // 16) * 16


def _pieces_of(chunk: Any, rows_each: int) -> Iterator[Any]:
    for first in range(0, num_rows_of(chunk), rows_each):
        rows = slice(first, first + rows_each)
        if isinstance(chunk, Quantized):
            yield Quantized(chunk.numbers[rows], chunk.steps[rows])
        else:
            yield chunk[rows]


def num_rows_of(chunk: Any) -> int:
    """Of a piece or chunk of any kind."""
    return len(chunk.steps) if isinstance(chunk, Quantized) else int(chunk.shape[0])


def _packed_bf16(rows: Any) -> Any:
    if isinstance(rows, np.ndarray):
        rows = numkong.astype(np.ascontiguousarray(cast(Host, rows)), "bf16")
    return numkong.dots_pack(rows, dtype="bf16")


def quantized(rows: Any) -> Quantized:
    """Rows in 8 bits, rotated; those that are so already as they are."""
    if isinstance(rows, Quantized):
        return rows
    rows = _rotated_at_once(float32_rows(rows))
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    steps = largest / np.float32(_STEPS)
    steps[steps == 0] = 1
    scaled = rows * (1 / steps)[:, None]
    return Quantized(np.rint(scaled, out=scaled).astype(np.int8), steps)


def float32_rows(rows: Any) -> Host:
    """What is of numpy as it is, what is of numkong converted."""
    if isinstance(rows, np.ndarray):
        return cast(Host, rows)
    return np.asarray(numkong.astype(rows, "f32"), np.float32)


def scaled_chunks(chunks: Iterable[Any], scales: Host | None) -> Iterator[Any]:
    """Each row times (in_dims,) scales, if any; what is in 8 bits has been so already."""
    for chunk in chunks:
        if scales is None or isinstance(chunk, Quantized):
            yield chunk
        else:
            yield float32_rows(chunk) * scales


def rotated(rows: Host) -> Host:
    """(rows, dims) times an orthogonal matrix: blocks of Hadamard's, as large as divide the dims.

    Each row by itself, in one way: the same bits in any company.
    """
    num_rows, dims = rows.shape
    size = block_size(dims)
    blocks = np.ascontiguousarray(rows).reshape(num_rows, -1, size)
    return np.matmul(blocks, hadamard(size)).reshape(num_rows, dims)


def _rotated_at_once(rows: Host) -> Host:
    """The same in one product, half as dear: nobody asks for the bits of a row of weights."""
    size = block_size(rows.shape[1])
    return np.matmul(rows.reshape(-1, size), hadamard(size)).reshape(rows.shape)


def block_size(dims: int) -> int:
    """Numbers of a row that are rotated together."""
    return math.gcd(dims, _ROTATED)


@functools.cache
def hadamard(size: int) -> Host:
    """(size, size), a power of two; Sylvester's construction, of length 1 in each row."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return cast(Host, matrix / np.float32(math.sqrt(size)))
