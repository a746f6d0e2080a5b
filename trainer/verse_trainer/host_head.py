"""What tokens lose, computed by numpy and OpenBLAS on a CPU: `vocabulary.py` outside of a graph.

On a CPU mlx takes 12 ns for an exponential and numpy one. The vocabulary is shared out among the
cores: each goes through its piece by piece, in memory of its own that stays near the processor, and
at the end the sums of all are brought to one scale and added, in the same order every time.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from verse_trainer.blas import Floats, multiply, multiply_and_add, one_thread_each, threads
from verse_trainer.vocabulary import bias_of, rows_of, targets_of

PIECE_LOGITS = 1 << 20
LEAST_PIECE, LARGEST_PIECE = 512, 8192
ROOM_NUMBERS = 4 << 20
"""Of a piece of the head as float32, 16 MB, where it is stored in fewer bits."""
_MOST_CORES = 4
"""That have pieces of this size; more have smaller ones, so that all together take no more."""


class _Sums(NamedTuple):
    """Over some of the vocabulary."""

    largest: Floats
    """(tokens, 1) logits that the sums are relative to: none is larger."""
    total: Floats
    """(tokens, 1) sums of the exponentials."""
    mixed: Floats
    """(tokens, hidden) rows of the head, weighted by them."""


def host_losses(
    head: nn.Module, hidden: mx.array, targets: mx.array, *, with_gradient: bool
) -> tuple[mx.array, mx.array | None]:
    """(tokens,) -log p(target) and (tokens, hidden) its gradient, computed now, not in a graph.

    Args:
        head: As for `token_losses`.
        hidden: (tokens, hidden).
        targets: (tokens,) ids.
        with_gradient: Else there is None.
    """
    reached, wanted = targets_of(head, hidden, targets)
    cast(Any, mx).eval(hidden, reached, wanted)
    states = np.ascontiguousarray(_floats(hidden.astype(mx.float32)))
    start = _floats(reached)[:, None]
    read, is_parallel = _reader(cast(Any, head))
    bias = bias_of(head)
    biases = None if bias is None else _floats(bias.astype(mx.float32))
    parts = _parts(cast(Any, head).weight.shape[0], 2 * threads().num_threads)
    found: dict[int, _Sums] = {}

    def work(number: int) -> None:
        found[number] = _sums(read, biases, states, start, parts[number], with_gradient)

    pieces = [lambda number=number: work(number) for number in range(len(parts))]
    if is_parallel:
        with one_thread_each():
            threads().run(pieces)
    else:  # mlx unpacks the rows, which only the thread that it runs in may ask for
        for piece in pieces:
            piece()
    sums = _added([found[number] for number in range(len(parts))])
    losses = mx.array((sums.largest + np.log(sums.total))[:, 0]) - reached
    if not with_gradient:
        return losses, None
    return losses, mx.array(sums.mixed / sums.total) - wanted


@np.errstate(over="ignore", invalid="ignore")  # whoever sees the loss tells it
def _sums(
    read: "_Read",
    bias: Floats | None,
    states: Floats,
    start: Floats,
    part: slice,
    with_gradient: bool,
) -> _Sums:
    num_tokens, width = states.shape
    largest, total = start, np.zeros((num_tokens, 1), np.float32)
    mixed = np.zeros((num_tokens, width if with_gradient else 0), np.float32)
    size = _piece_size(num_tokens, width)
    room = np.empty(num_tokens * min(size, part.stop - part.start), np.float32)
    widened = _Room()
    for first in range(part.start, part.stop, size):
        piece = slice(first, min(first + size, part.stop))
        rows = read(piece, widened)
        weights = room[: num_tokens * len(rows)].reshape(num_tokens, len(rows))
        multiply(states, rows, weights)
        if bias is not None:
            weights += bias[piece]
        now = np.maximum(largest, weights.max(axis=1, keepdims=True))
        if not np.array_equal(now, largest):
            shrink = np.exp(largest - now)
            total *= shrink
            mixed *= shrink
            largest = now
        weights -= largest
        np.exp(weights, out=weights)
        total += weights.sum(axis=1, keepdims=True)
        if with_gradient:
            multiply_and_add(weights, rows, mixed)
    return _Sums(largest, total, mixed)


@np.errstate(over="ignore", invalid="ignore")
def _added(sums: list[_Sums]) -> _Sums:
    largest = np.maximum.reduce([each.largest for each in sums])
    shrinks = [np.exp(each.largest - largest) for each in sums]
    total, mixed = np.zeros_like(sums[0].total), np.zeros_like(sums[0].mixed)
    for each, shrink in zip(sums, shrinks, strict=True):
        total += each.total * shrink
        mixed += each.mixed * shrink
    return _Sums(largest, total, mixed)


def _parts(vocabulary: int, count: int) -> list[slice]:
    ends = [vocabulary * number // count for number in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends) if pair[0] < pair[1]]


def _piece_size(num_tokens: int, width: int) -> int:
    share = min(1.0, _MOST_CORES / threads().num_threads)
    of_logits, of_rows = PIECE_LOGITS * share / num_tokens, ROOM_NUMBERS * share / width
    return max(LEAST_PIECE, min(LARGEST_PIECE, int(of_logits), int(of_rows)))


class _Room:
    """Memory that is taken once, for a part's pieces one after the other."""

    def __init__(self) -> None:
        self._numbers = np.empty(0, np.float32)

    def of(self, shape: tuple[int, int]) -> Floats:
        """Some of it."""
        count = shape[0] * shape[1]
        if count > len(self._numbers):
            self._numbers = np.empty(count, np.float32)
        return self._numbers[:count].reshape(shape)


def _floats(array: mx.array) -> Floats:
    """The memory of an array."""
    return cast(Floats, np.array(array, copy=False))


_Read = Callable[[slice, _Room], Floats]
"""Rows of the head as float32, which may lie in the room."""


def _reader(head: Any) -> tuple[_Read, bool]:
    """Who reads the head's rows, and whether several threads may."""
    weight: mx.array = head.weight
    if "scales" in head:

        def unpack(part: slice, _room: _Room) -> Floats:
            return _floats(rows_of(head, part).astype(mx.float32))

        return unpack, False
    cast(Any, mx).eval(weight)
    is_bf16 = weight.dtype == mx.bfloat16
    stored: Any = _floats(weight.view(mx.uint16) if is_bf16 else weight)

    def widen(part: slice, room: _Room) -> Floats:
        rows = stored[part]
        if rows.dtype == np.float32:
            return np.ascontiguousarray(rows)
        wide = room.of(rows.shape)
        if is_bf16:
            bits = wide.view(np.uint32)
            np.copyto(bits, rows)
            np.left_shift(bits, 16, out=bits)
        else:
            np.copyto(wide, rows)
        return wide

    return widen, True
