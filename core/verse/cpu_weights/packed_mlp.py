"""An MLP in 8 bits, from a norm to down's product, in one piece of work for each thread.

A share has some columns of gate and up and the same rows of down, so no thread waits for another
between them, and Python has nothing to do but to start it. What the shares give is added up in
their order. Each row is computed by itself: alone or in company, the same bits.
"""

import functools
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any, Literal, NamedTuple, cast

import mlx.nn as nn
import numpy as np

from verse.cpu_weights.integer_product import (
    MIDDLE,
    WEIGHT,
    OnnxProduct,
    Run,
    fastest_product,
    given_columns,
    integer_product,
    session_run,
)
from verse.cpu_weights.layers import HostLinear, HostNorm, add_updates, products
from verse.cpu_weights.onnx_graph import OnnxGraph
from verse.cpu_weights.packed import Activations, Host, PackedWeight, block_size, hadamard
from verse.cpu_weights.threads import Piece, Threads
from verse.cpu_weights.weight_cache import Quantized

_STEPS = 127
_HALF = 256
_LEAST = 1e-30
"""Instead of the largest number of a row of zeros, which would be divided by."""
ROWS_AT_ONCE = 128
"""What is between the products is five times as wide as the rows are."""
_SHARE_COLUMNS = 2432
"""About: what a product gives for a batch stays in the processor's cache."""
_LEAST_BLOCK = 16
"""Numbers that a vector instruction takes at once; of fewer, the last of a row go another way."""


class _Share(NamedTuple):
    """Some columns of gate and up, the same rows of down."""

    columns: slice
    first: Run
    """`hidden` (rows, dims) -> `both` (rows, 2 columns), gate's and then up's."""
    last: Run
    """`both` -> `y` (rows, dims), and `between` (rows, columns), which is multiplied by down."""
    given: tuple[Any, ...]
    """To be kept as long as the sessions are."""

    def __call__(self, hidden: Host) -> Host:
        """(rows, dims) -> (rows, dims)."""
        both = self.first(["both"], {"hidden": hidden}, None)[0]
        return self.last(["y"], {"both": both}, None)[0]


MatrixOfMlp = Literal["gate_proj", "up_proj", "down_proj"]
MATRICES: tuple[MatrixOfMlp, ...] = ("gate_proj", "up_proj", "down_proj")


class MlpNumbers:
    """What an MLP is packed from, in the memory that it is packed from; to be used again."""

    def __init__(self, dims: int, width: int, num_threads: int) -> None:
        """Make room.

        Args:
            dims: Of what goes in and comes out.
            width: Of what is between.
            num_threads: That will multiply.
        """
        self.columns = spans(width, num_threads)
        sizes = [columns.stop - columns.start for columns in self.columns]
        self.wide = [np.empty((2 * size, dims), np.int8) for size in sizes]
        self.wide_steps = [np.empty(2 * size, np.float32) for size in sizes]
        self.narrow = [np.empty((dims, size), np.int8) for size in sizes]
        self.narrow_steps = np.empty(dims, np.float32)

    def take(self, name: MatrixOfMlp, first: int, rows: Quantized) -> None:
        """Copy some rows of a matrix, from the first on."""
        last = first + len(rows.steps)
        if name == "down_proj":
            self.narrow_steps[first:last] = rows.steps
            for narrow, columns in zip(self.narrow, self.columns, strict=True):
                narrow[first:last] = rows.numbers[:, columns]
            return
        for wide, steps, columns in zip(self.wide, self.wide_steps, self.columns, strict=True):
            begin, end = max(first, columns.start), min(last, columns.stop)
            if begin < end:
                shift = (0 if name == "gate_proj" else len(wide) // 2) - columns.start
                wide[begin + shift : end + shift] = rows.numbers[begin - first : end - first]
                steps[begin + shift : end + shift] = rows.steps[begin - first : end - first]


class PackedMlp:
    """down(silu(gate(norm(x))) * up(norm(x)))."""

    def __init__(
        self, numbers: MlpNumbers, norm: tuple[Host, np.float32], threads: Threads
    ) -> None:
        """Pack it.

        Args:
            numbers: Of its matrices; copied.
            norm: RMSNorm's weight, and what it adds to the mean.
            threads: Who packs and who multiplies.
        """
        self.width = numbers.columns[-1].stop
        self._threads = threads
        shares: list[_Share | None] = [None] * len(numbers.columns)

        def pack(index: int) -> None:
            shares[index] = _share(index, numbers, norm)

        threads.run([lambda i=index: pack(i) for index in range(len(shares))])
        self._shares = cast(list[_Share], shares)

    def __call__(self, hidden: Host) -> Host:
        """(rows, dims), before the norm -> (rows, dims)."""
        return self._summed(hidden, lambda share, rows: share(hidden[rows]))

    def gate_and_up(self, hidden: Host) -> tuple[Host, Host]:
        """The first half, where something is added to it: (rows, columns) of each."""
        gated, upper = (np.empty((len(hidden), self.width), np.float32) for _ in range(2))

        def piece(share: _Share, rows: slice) -> None:
            both = share.first(["both"], {"hidden": hidden[rows]}, None)[0]
            gated[rows, share.columns], upper[rows, share.columns] = np.hsplit(both, 2)

        pairs = product(_pieces(hidden), self._shares)
        self._threads.run([lambda s=share, r=rows: piece(s, r) for rows, share in pairs])
        return gated, upper

    def down(self, gated: Host, upper: Host) -> tuple[Host, Host]:
        """The second half: (rows, dims), and (rows, columns) of what was multiplied."""
        between = np.empty_like(gated)

        def piece(share: _Share, rows: slice) -> Host:
            both = np.hstack((gated[rows, share.columns], upper[rows, share.columns]))
            y, between[rows, share.columns] = share.last(["y", "between"], {"both": both}, None)
            return y

        return self._summed(gated, piece), between

    def _summed(self, x: Host, piece: Callable[[_Share, slice], Host]) -> Host:
        """Of pieces of rows what all shares make of them together."""
        pieces = _pieces(x)
        found: list[list[Any]] = [[None] * len(self._shares) for _ in pieces]

        def add(of_piece: int, of_share: int) -> None:
            found[of_piece][of_share] = piece(self._shares[of_share], pieces[of_piece])

        pairs = product(range(len(pieces)), range(len(self._shares)))
        self._threads.run([lambda p=pair: add(*p) for pair in pairs])
        sums = [functools.reduce(np.add, of_shares) for of_shares in found]
        return sums[0] if len(sums) == 1 else np.concatenate(sums)


def _pieces(rows: Host) -> list[slice]:
    return [slice(first, first + ROWS_AT_ONCE) for first in range(0, len(rows), ROWS_AT_ONCE)]


def spans(width: int, num_threads: int) -> list[slice]:
    """Whole blocks, as many shares as all threads do in equal turns."""
    size = block_size(width)
    turns = max(1, round(width / _SHARE_COLUMNS / num_threads))
    num_blocks = width // size
    # Of at least two blocks each: see `_halves`.
    num_shares = max(1, min(turns * num_threads, num_blocks // 2))
    ends = [num_blocks * (index + 1) // num_shares * size for index in range(num_shares)]
    return [slice(first, last) for first, last in pairwise([0, *ends])]


def _share(index: int, numbers: MlpNumbers, norm: tuple[Host, np.float32]) -> _Share:
    # One after the other: `given_columns` may use the same memory again.
    wide, narrow = numbers.wide[index], numbers.narrow[index]
    given_wide = given_columns(wide)
    model = _first_model(wide.shape, numbers.wide_steps[index], norm)
    first = session_run(model, given_wide)
    given_narrow = given_columns(narrow)
    size = block_size(numbers.columns[-1].stop)
    last = session_run(_last_model(narrow.shape, size, numbers.narrow_steps), given_narrow)
    return _Share(numbers.columns[index], first, last, (given_wide, given_narrow))


def _first_model(shape: tuple[int, ...], steps: Host, norm: tuple[Host, np.float32]) -> bytes:
    width, dims = shape
    graph, (weight, eps) = OnnxGraph(), norm
    hidden = graph.input("hidden", np.float32, ("rows", dims))
    normed = graph.node(
        "SimplifiedLayerNormalization",
        hidden,
        graph.constant(weight),
        axis=1,
        epsilon=float(eps),
    )
    rows = _halves(graph, normed, dims, block_size(dims))
    given = graph.weight(WEIGHT, np.int8, (dims, width))
    both = _rotated_product(graph, rows, given, steps)
    graph.output("both", both, np.float32, ("rows", width))
    return graph.serialized()


def _last_model(shape: tuple[int, ...], size: int, steps: Host) -> bytes:
    dims, width = shape
    graph = OnnxGraph()
    both = graph.input("both", np.float32, ("rows", 2 * width))
    gated, upper = graph.nodes("Split", both, num_outputs=2, axis=1)
    between = graph.node("Mul", graph.node("QuickGelu", gated, alpha=1.0), upper)
    rows = _halves(graph, between, width, size)
    given = graph.weight(WEIGHT, np.int8, (width, dims))
    y = _rotated_product(graph, rows, given, steps)
    graph.output("between", between, np.float32, ("rows", width))
    graph.output("y", y, np.float32, ("rows", dims))
    return graph.serialized()


def _halves(graph: OnnxGraph, x: str, dims: int, size: int) -> tuple[str, str, str]:
    """Rows in 8 bits.

    Args:
        graph: To add to.
        x: (rows, dims) float32.
        dims: Of each row; at least two blocks, since a single row takes another way than several
            in a product of matrices, and blocks are its rows.
        size: Of a block that is rotated.

    Returns:
        (2 rows, dims) uint8, `MIDDLE` more than they are, the high halves and then the low ones;
        (rows, 1) float32 what 1 means in the former, and in the latter.
    """
    in_blocks = graph.node("Reshape", x, _int64(graph, -1, dims // size, size))
    turned = graph.node("MatMul", in_blocks, graph.constant(hadamard(size)))
    rows = graph.node("Reshape", turned, _int64(graph, -1, dims))
    largest = graph.node("ReduceMax", graph.node("Abs", rows), axes=(1,), keepdims=0)
    high_step = graph.node(
        "Mul", graph.node("Max", largest, _float(graph, _LEAST)), _float(graph, 1 / _STEPS)
    )
    low_step = graph.node("Mul", high_step, _float(graph, 1 / _HALF))
    middle = graph.node(
        "Expand", graph.constant(np.full(1, MIDDLE, np.uint8)), graph.node("Shape", high_step)
    )
    high = graph.node("QuantizeLinear", rows, high_step, middle, axis=0)
    of_high = graph.node("DequantizeLinear", high, high_step, middle, axis=0)
    rest = graph.node("Sub", rows, of_high)
    low = graph.node("QuantizeLinear", rest, low_step, middle, axis=0)
    column = _int64(graph, -1, 1)
    steps = [graph.node("Reshape", step, column) for step in (high_step, low_step)]
    return graph.node("Concat", high, low, axis=0), steps[0], steps[1]


def _rotated_product(graph: OnnxGraph, rows: tuple[str, str, str], weight: str, steps: Host) -> str:
    """(rows, out_dims) float32.

    Args:
        graph: To add to.
        rows: From `_halves`.
        weight: (in_dims, out_dims) int8.
        steps: (out_dims,) of the weight.
    """
    both, high_step, low_step = rows
    product = integer_product(graph, both, weight, steps)
    high, low = graph.nodes("Split", product, num_outputs=2, axis=0)
    return graph.node("Add", graph.node("Mul", high, high_step), graph.node("Mul", low, low_step))


def _int64(graph: OnnxGraph, *numbers: int) -> str:
    return graph.constant(np.array(numbers, np.int64))


def _float(graph: OnnxGraph, number: float) -> str:
    return graph.constant(np.array([number], np.float32))


class WeightOfMlp(PackedWeight):
    """One matrix of a `PackedMlp`, which alone multiplies by it."""

    def __init__(self, shape: tuple[int, int]) -> None:
        """Of (out_dims, in_dims)."""
        super().__init__("int8", shape[1])
        self.out_dims = shape[0]

    @property
    def num_bytes(self) -> int:
        """See `PackedWeight`."""
        return self.out_dims * (self.in_dims + np.float32().nbytes)

    def pieces(self, x: Activations, out: Host) -> list[Piece]:
        """Of one matrix alone there are none.

        Raises:
            TypeError: in any case.
        """
        raise TypeError(
            f"rows of {x.rows.shape} for {out.shape} belong to the MLP that is packed as a whole"
        )


_TRIED = (256, 256)
_TRIED_ROWS = 33


def can_pack(dims: int, width: int) -> bool:
    """Whether an MLP of this size may be packed so, on this processor."""
    is_wide = dims >= 2 * block_size(dims) and width >= 2 * block_size(width)
    return is_wide and min(map(block_size, (dims, width))) >= _LEAST_BLOCK and _keeps_bits()


@functools.cache
def _keeps_bits() -> bool:
    """Whether a row alone gives the bits that it gives among others."""
    if fastest_product() is not OnnxProduct:
        return False
    random, (dims, width) = np.random.default_rng(0), _TRIED

    numbers = MlpNumbers(dims, width, 1)
    for name in MATRICES:
        shape = (dims, width) if name == "down_proj" else (width, dims)
        weight = random.integers(-127, 128, shape).astype(np.int8)
        numbers.take(name, 0, Quantized(weight, np.full(shape[0], 1e-3, np.float32)))
    norm = random.standard_normal(dims, np.float32), np.float32(1e-6)
    mlp = PackedMlp(numbers, norm, Threads(1))
    rows = random.standard_normal((_TRIED_ROWS, dims), np.float32)
    alone = np.concatenate([mlp(rows[row : row + 1]) for row in range(len(rows))])
    return all(np.array_equal(mlp(rows[:count]), alone[:count]) for count in (2, 3, 7, 16, 33))


class HostSwiGLU(nn.Module):
    """Stands in for down(silu(gate(norm(x))) * up(norm(x)))."""

    def __init__(
        self, mlp: Any, norm: HostNorm, threads: Threads, whole: PackedMlp | None = None
    ) -> None:
        """Take over the layers, or `whole`, in which they are packed together."""
        super().__init__()
        for name in MATRICES:
            self[name] = mlp[name]
        self.norm = norm
        self._threads = threads
        self._whole = whole

    def __call__(self, hidden: Host) -> Host:
        """(batch, tokens, dims) -> (batch, tokens, dims)."""
        gate, up, down = (cast(HostLinear, self[name]) for name in MATRICES)
        has_update = gate.has_update or up.has_update or down.has_update
        if self._whole is not None:
            rows = np.ascontiguousarray(hidden).reshape(-1, hidden.shape[-1])
            if has_update:
                return self._whole_with_updates(self._whole, hidden, rows)
            return self._whole(rows).reshape(hidden.shape)
        x = self.norm(hidden)
        if has_update:
            return products([down], self._with_updates(x, gate, up))[0]
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        parts = [
            products([down], self._at_once(rows[first : first + ROWS_AT_ONCE], gate, up))[0]
            for first in range(0, len(rows), ROWS_AT_ONCE)
        ]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(x.shape)

    def _whole_with_updates(self, whole: PackedMlp, hidden: Host, rows: Host) -> Host:
        gate, up, down = (cast(HostLinear, self[name]) for name in MATRICES)
        wide = *hidden.shape[:-1], whole.width
        gated, upper = (part.reshape(wide) for part in whole.gate_and_up(rows))
        add_updates([gate, up], self.norm(hidden), [gated, upper], self._threads)
        y, between = whole.down(*(part.reshape(-1, whole.width) for part in (gated, upper)))
        y = y.reshape(hidden.shape)
        add_updates([down], between.reshape(wide), [y], self._threads)
        return y

    def _with_updates(self, x: Host, gate: HostLinear, up: HostLinear) -> Host:
        gated, upper = products([gate, up], x)
        rows = (gated.reshape(-1, gated.shape[-1]), upper.reshape(-1, upper.shape[-1]))
        width = rows[0].shape[1]
        each = -(-width // (2 * self._threads.num_threads))
        parts = [slice(first, first + each) for first in range(0, width, each)]
        self._threads.run([lambda p=p: _swiglu(rows[0][:, p], rows[1][:, p]) for p in parts])
        return gated

    def _at_once(self, x: Host, gate: HostLinear, up: HostLinear) -> Host:
        """Each piece goes on from its product, which is still in the processor's cache."""
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        of_gate, of_up = gate.packed, up.packed
        width = of_gate.matrix.out_dims
        gated, upper = (np.empty((len(rows), width), np.float32) for _ in range(2))
        activations = Activations(rows, self._threads)
        pairs = zip(
            of_gate.matrix.pieces(activations, gated),
            of_up.matrix.pieces(activations, upper),
            of_gate.matrix.spans,
            strict=True,
        )

        def piece(of_gated: Piece, of_upper: Piece, span: slice) -> None:
            of_gated()
            of_upper()
            for part, linear in ((gated, of_gate), (upper, of_up)):
                if linear.offset is not None:
                    part[:, span] += linear.offset[span]
            _swiglu(gated[:, span], upper[:, span])

        self._threads.run([lambda p=pair: piece(*p) for pair in pairs])
        return gated.reshape(*x.shape[:-1], width)


def _swiglu(gate: Host, up: Host) -> None:
    """Into gate: gate / (1 + exp(-gate)) * up."""
    with np.errstate(over="ignore"):  # exp of much is infinite, and the quotient then 0
        denominator = np.exp(-gate)
    denominator += 1
    gate /= denominator
    gate *= up
