"""What tokens lose, with the vocabulary in pieces: no array of (tokens, vocabulary) is ever whole.

For a hidden state h, the rows v of the output head and the target t, loss and gradient are

    log sum exp(h . v) - h . v_t          softmax(h . v) v - v_t

The second is attention over the vocabulary, with the head as both keys and values. So one pass
over its pieces that keeps the largest logit, the sum and the weighted rows so far, and rescales
them when a larger logit comes, gives both (the running softmax of Milakov and Gimelshein 2018). The
head is read once for loss and gradient, and no logit is computed twice. The head itself is frozen.

On a CPU `host_head.py` computes the same outside of a graph, several times as fast.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from verse.base_model import runs_on_cpu
from verse_trainer.blas import Floats

_PIECE_LOGITS = 4 << 20
_LEAST_PIECE, _LARGEST_PIECE = 1024, 16384


class _Piece(NamedTuple):
    """Some rows of the head."""

    logits: Callable[[mx.array], mx.array]
    """(tokens, hidden) to (tokens, rows)."""
    mix: Callable[[mx.array], mx.array]
    """(tokens, rows) weights to (tokens, hidden)."""


def token_losses(head: nn.Module, hidden: mx.array, targets: mx.array) -> mx.array:
    """(tokens,) float32, -log p(target); differentiable in `hidden`.

    Args:
        head: Linear or Embedding, plain or quantized, that is not trained.
        hidden: (tokens, hidden).
        targets: (tokens,) ids.
    """

    def losses(states: mx.array) -> list[mx.array]:
        return _with_directions(cast(Any, head), states, targets)

    def gradient(states: mx.array, cotangents: Any, outputs: Any) -> mx.array:
        return (cotangents[0][:, None] * outputs[1]).astype(states.dtype)

    differentiable: Any = cast(Any, mx).custom_function(losses)
    differentiable.vjp(gradient)
    return differentiable(hidden)[0]


def _with_directions(head: Any, states: mx.array, targets: mx.array) -> list[mx.array]:
    num_tokens = states.shape[0]
    largest = mx.full((num_tokens, 1), -float("inf"))
    total = mx.zeros((num_tokens, 1))
    mixed = mx.zeros(states.shape)
    for piece in _pieces(head, num_tokens, states.dtype):
        logits = piece.logits(states).astype(mx.float32)
        now = mx.maximum(largest, logits.max(axis=1, keepdims=True))
        weights, shrink = mx.exp(logits - now), mx.exp(largest - now)
        total = total * shrink + weights.sum(axis=1, keepdims=True)
        mixed = mixed * shrink + piece.mix(weights.astype(states.dtype)).astype(mx.float32)
        largest = now
    sums = (largest + mx.log(total))[:, 0]
    reached, wanted = targets_of(head, states, targets)
    return [sums - reached, mixed / total - wanted]


def targets_of(head: Any, states: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """(tokens,) logits of the targets and (tokens, hidden) their rows of the head."""
    wanted = rows_of(head, targets).astype(mx.float32)
    reached = (states.astype(mx.float32) * wanted).sum(axis=1)
    if (bias := bias_of(head)) is not None:
        reached = reached + bias[targets].astype(mx.float32)
    return reached, wanted


def _pieces(head: Any, num_tokens: int, dtype: mx.Dtype) -> Iterator[_Piece]:
    for part in _parts(head, num_tokens, _LARGEST_PIECE):
        yield _piece(head, part, dtype)


def _parts(head: Any, num_tokens: int, largest: int) -> Iterator[slice]:
    size = max(_LEAST_PIECE, min(largest, _PIECE_LOGITS // num_tokens))
    vocabulary = head.weight.shape[0]
    for start in range(0, vocabulary, size):
        yield slice(start, min(start + size, vocabulary))


def _piece(head: Any, part: slice, dtype: mx.Dtype) -> _Piece:
    bias = bias_of(head)
    if "scales" in head and not runs_on_cpu():
        biases = None if head.get("biases") is None else head.biases[part]
        packed = (head.weight[part], head.scales[part], biases)
        kind = {"group_size": head.group_size, "bits": head.bits, "mode": head.mode}

        def product(x: mx.array, transpose: bool) -> mx.array:
            return mx.quantized_matmul(x, *packed, transpose=transpose, **kind)
    else:
        weight = rows_of(head, part).astype(dtype)

        def product(x: mx.array, transpose: bool) -> mx.array:
            return x @ (weight.T if transpose else weight)

    def logits(states: mx.array) -> mx.array:
        plain = product(states, True)
        return plain if bias is None else plain + bias[part]

    def mix(weights: mx.array) -> mx.array:
        return product(weights, False)

    return _Piece(logits, mix)


def rows_of(head: Any, ids: mx.array | slice) -> mx.array:
    """(ids, hidden) rows of the head as numbers, unpacked if they are packed."""
    if "scales" not in head:
        return head.weight[ids]
    biases = None if head.get("biases") is None else head.biases[ids]
    return mx.dequantize(
        head.weight[ids], head.scales[ids], biases, head.group_size, head.bits, head.mode
    )


def bias_of(head: Any) -> mx.array | None:
    """(vocabulary,) what it adds to the logits, if anything."""
    return head.bias if "bias" in head else None


Places = slice | np.ndarray[Any, np.dtype[np.intp]]
"""Of rows."""


class Room:
    """Memory that is taken once, for a part's pieces one after the other."""

    def __init__(self) -> None:
        self._numbers = np.empty(0, np.float32)

    def of(self, shape: tuple[int, int]) -> Floats:
        """Some of it."""
        count = shape[0] * shape[1]
        if count > len(self._numbers):
            self._numbers = np.empty(count, np.float32)
        return self._numbers[:count].reshape(shape)


Read = Callable[[Places, Room], Floats]
"""Rows of the head as float32, which may lie in the room."""


def floats(array: mx.array) -> Floats:
    """The memory of an array."""
    return cast(Floats, np.array(array, copy=False))


def reader(head: Any) -> tuple[Read, bool]:
    """Who reads the head's rows, and whether several threads may, and in any order."""
    weight: mx.array = head.weight
    if "scales" in head:

        def unpack(part: Places, _room: Room) -> Floats:
            assert isinstance(part, slice)
            return floats(rows_of(head, part).astype(mx.float32))

        return unpack, False
    cast(Any, mx).eval(weight)
    is_bf16 = weight.dtype == mx.bfloat16
    stored: Any = floats(weight.view(mx.uint16) if is_bf16 else weight)

    def widen(part: Places, room: Room) -> Floats:
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
