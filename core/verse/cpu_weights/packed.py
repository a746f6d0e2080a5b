"""A matrix of weights in the layout that this processor multiplies fastest.

numkong packs rows once and multiplies them with the best instructions there are, chosen at run time
(AMX, AVX-512, AVX2, NEON). What is packed is the only copy kept. Two kinds:

- `bf16`: weights and activations in bfloat16, sums in float32.
- `int8`: weights in 8 bits with a scale for each row. Activations take 16 bits, as two rows of 8,
  because their outliers do not fit into 8; products and sums are exact integers.

Each row of a product is computed by itself, in the same order whatever stands beside it: alone or
in company, the same bits.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from verse.cpu_weights.threads import Piece, Threads

try:
    import numkong as _numkong
except ImportError:  # `packing` says so before anything is packed
    _numkong = None

numkong = cast(Any, _numkong)
"""Its types know neither `dots_pack` nor what a Tensor may be given to."""

Host = NDArray[np.float32]
PackedKind = Literal["bf16", "int8"]

_BLOCK_BYTES = 1 << 20
"""Of weights in one piece of work: long beside handing it over, short beside a step."""
_STEPS = 127
_LOW_STEPS = 2 * _STEPS
"""One step of the high half in steps of the low one, so that both keep within 8 bits."""


class Activations:
    """Rows to multiply, converted once for all weights they meet."""

    def __init__(self, rows: Host) -> None:
        """Take (rows, in_dims), float32, contiguous."""
        self.rows = rows
        self._bf16: Any = None
        self._int8: tuple[Any, Host] | None = None

    @property
    def bf16(self) -> Any:
        """(rows, in_dims), as numkong takes it."""
        if self._bf16 is None:
            self._bf16 = numkong.astype(self.rows, "bf16")
        return self._bf16

    @property
    def int8(self) -> tuple[NDArray[np.int8], Host]:
        """(2 * rows, in_dims), the high halves and then the low ones; (rows, 1) the low step."""
        if self._int8 is None:
            largest = np.abs(self.rows).max(axis=1, keepdims=True)
            step = largest / np.float32(_STEPS * _LOW_STEPS)
            np.copyto(step, 1, where=(step == 0) | ~np.isfinite(step))
            counted = np.rint(self.rows / step)
            high = np.rint(counted / np.float32(_LOW_STEPS))
            halves = np.concatenate([high, counted - high * np.float32(_LOW_STEPS)])
            self._int8 = halves.astype(np.int8), step
        return self._int8


class PackedWeight:
    """(out_dims, in_dims), packed in blocks of rows."""

    def __init__(self, kind: PackedKind, in_dims: int) -> None:
        """Begin an empty one; see `pack`."""
        self.kind: PackedKind = kind
        self.in_dims = in_dims
        self.out_dims = 0
        self._blocks: list[tuple[int, int, Any]] = []
        self._steps: list[Host] = []
        """int8: of each block's rows."""

    @classmethod
    def pack(
        cls, kind: PackedKind, shape: tuple[int, int], chunks: Iterable[Any], threads: Threads
    ) -> "PackedWeight":
        """Pack rows that come in chunks.

        Args:
            kind: Of the numbers.
            shape: (out_dims, in_dims).
            chunks: (some rows, in_dims) each, in order: numpy's float32, or numkong's bfloat16.
            threads: Who does it.
        """
        weight = cls(kind, shape[1])
        rows_each = num_block_rows(kind, shape, threads.num_threads)
        for chunk in chunks:
            weight._add(list(_pieces_of(chunk, rows_each)), threads)
        if weight.out_dims != shape[0]:
            raise ValueError(f"chunks end at row {weight.out_dims} of {shape[0]}")
        return weight

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        packed = sum(int(block.nbytes) for _, _, block in self._blocks)
        return packed + sum(steps.nbytes for steps in self._steps)

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
        threads.run(self.pieces(Activations(np.ascontiguousarray(rows)), out))
        return out

    def _int8_pieces(self, x: Activations, out: Host) -> list[Piece]:
        halves, low_step = x.int8
        num_rows = len(out)

        def multiply(first: int, last: int, block: Any, steps: Host) -> None:
            sums = np.asarray(numkong.dots_packed(halves, block))
            target = out[:, first:last]
            np.multiply(
                sums[:num_rows], np.float32(_LOW_STEPS), out=target, casting="unsafe",
                dtype=np.float32,
            )  # fmt: skip
            target += sums[num_rows:]
            target *= steps
            target *= low_step

        pairs = zip(self._blocks, self._steps, strict=True)
        return [lambda b=block, s=steps: multiply(*b, s) for block, steps in pairs]

    def _add(self, chunks: list[Any], threads: Threads) -> None:
        packed: list[tuple[Any, Host | None] | None] = [None] * len(chunks)

        def pack(index: int) -> None:
            packed[index] = _packed(self.kind, chunks[index])

        threads.run([lambda i=index: pack(i) for index in range(len(chunks))])
        for block, steps in cast(list[tuple[Any, Host | None]], packed):
            last = self.out_dims + int(block.width)
            self._blocks.append((self.out_dims, last, block))
            self.out_dims = last
            if steps is not None:
                self._steps.append(steps)


def num_block_rows(kind: PackedKind, shape: tuple[int, int], num_threads: int) -> int:
    """Rows of one piece: about a megabyte, and at least two pieces for each thread."""
    row_bytes = shape[1] * (2 if kind == "bf16" else 1)
    of_bytes = max(1, _BLOCK_BYTES // row_bytes)
    even = -(-shape[0] // (2 * num_threads))
    return max(16, min(of_bytes, even) // 16 * 16)


def _pieces_of(chunk: Any, rows_each: int) -> Iterator[Any]:
    for first in range(0, int(chunk.shape[0]), rows_each):
        yield chunk[first : first + rows_each]


def _packed(kind: PackedKind, rows: Any) -> tuple[Any, Host | None]:
    """One block, and for int8 the steps of its rows."""
    if kind == "bf16":
        if isinstance(rows, np.ndarray):
            rows = numkong.astype(np.ascontiguousarray(cast(Host, rows)), "bf16")
        return numkong.dots_pack(rows, dtype="bf16"), None
    if not isinstance(rows, np.ndarray):
        rows = np.asarray(numkong.astype(rows, "f32"), np.float32)
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    steps = largest / np.float32(_STEPS)
    steps[steps == 0] = 1
    scaled = rows * (1 / steps)[:, None]
    return numkong.dots_pack(np.rint(scaled, out=scaled).astype(np.int8), dtype="int8"), steps
