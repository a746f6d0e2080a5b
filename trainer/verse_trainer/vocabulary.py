"""What tokens lose, with the vocabulary in pieces: no array of (tokens, vocabulary) is ever whole.

For a hidden state h, the rows v of the output head and the target t, loss and gradient are

    log sum exp(h . v) - h . v_t          softmax(h . v) v - v_t

The second is attention over the vocabulary, with the head as both keys and values. So one pass
over its pieces that keeps the largest logit, the sum and the weighted rows so far, and rescales
them when a larger logit comes, gives both (the running softmax of Milakov and Gimelshein 2018). The
head is read once for loss and gradient, and no logit is computed twice. The head itself is frozen.

On a CPU mlx takes 12 ns for an exponential and numpy one; there `host_losses` works on the pieces
in place.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from verse.base_model import runs_on_cpu

_PIECE_LOGITS = 4 << 20
_LEAST_PIECE, _LARGEST_PIECE = 1024, 16384
_ROOM_NUMBERS = 7 << 20
"""Of a piece of the head as float32: 28 MB, which the system does not clear anew each time."""


_Floats = np.ndarray[Any, np.dtype[np.float32]]


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
    reached, wanted = _targets_of(head, states, targets)
    return [sums - reached, mixed / total - wanted]


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
    num_tokens = hidden.shape[0]
    largest = np.full((num_tokens, 1), -np.inf, np.float32)
    total = np.zeros((num_tokens, 1), np.float32)
    mixed = np.zeros(hidden.shape, np.float32)
    for piece in _host_pieces(cast(Any, head), num_tokens, hidden.dtype):
        logits = piece.logits(hidden).astype(mx.float32)
        # The memory of `logits`, and so what `mix` reads.
        weights = cast(_Floats, np.array(logits, copy=False))
        now = np.maximum(largest, weights.max(axis=1, keepdims=True))
        np.subtract(weights, now, out=weights)
        np.exp(weights, out=weights)
        shrink = np.exp(largest - now)
        total = total * shrink + weights.sum(axis=1, keepdims=True)
        if with_gradient:
            mixed *= shrink
            mixed += np.array(piece.mix(logits).astype(mx.float32), copy=False)
        largest = now
    sums = mx.array((largest + np.log(total))[:, 0])
    reached, wanted = _targets_of(head, hidden, targets)
    return sums - reached, mx.array(mixed / total) - wanted if with_gradient else None


def _targets_of(head: Any, states: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """(tokens,) logits of the targets and (tokens, hidden) their rows of the head."""
    wanted = _rows_of(head, targets).astype(mx.float32)
    reached = (states.astype(mx.float32) * wanted).sum(axis=1)
    if (bias := _bias(head)) is not None:
        reached = reached + bias[targets].astype(mx.float32)
    return reached, wanted


def _pieces(head: Any, num_tokens: int, dtype: mx.Dtype) -> Iterator[_Piece]:
    for part in _parts(head, num_tokens, _LARGEST_PIECE):
        yield _piece(head, part, lambda rows: rows.astype(dtype))


def _host_pieces(head: Any, num_tokens: int, dtype: mx.Dtype) -> Iterator[_Piece]:
    """Each is to be evaluated before the next is asked for, which takes its memory."""
    if dtype != mx.float32 or head.weight.dtype not in (mx.bfloat16, mx.float16):
        yield from _pieces(head, num_tokens, dtype)
        return
    width = head.weight.shape[1]
    parts = list(_parts(head, num_tokens, max(_LEAST_PIECE, _ROOM_NUMBERS // width)))
    room = mx.array(np.empty((parts[0].stop, width), np.float32))
    for part in parts:
        yield _piece(head, part, lambda rows: _widened(rows, room))


def _widened(rows: mx.array, room: mx.array) -> mx.array:
    """Rows of 16 bits as float32, in memory that is there; mlx takes six times as long."""
    cast(Any, mx).eval(rows)
    wide = cast(_Floats, np.array(room, copy=False))[: rows.shape[0]]
    if rows.dtype == mx.bfloat16:
        bits = wide.view(np.uint32)
        np.copyto(bits, cast(Any, np.array(rows.view(mx.uint16), copy=False)))
        np.left_shift(bits, 16, out=bits)
    else:
        np.copyto(wide, cast(Any, np.array(rows, copy=False)))
    return room[: rows.shape[0]]


def _parts(head: Any, num_tokens: int, largest: int) -> Iterator[slice]:
    size = max(_LEAST_PIECE, min(largest, _PIECE_LOGITS // num_tokens))
    vocabulary = head.weight.shape[0]
    for start in range(0, vocabulary, size):
        yield slice(start, min(start + size, vocabulary))


def _piece(head: Any, part: slice, widened: Callable[[mx.array], mx.array]) -> _Piece:
    bias = _bias(head)
    if "scales" in head and not runs_on_cpu():
        biases = None if head.get("biases") is None else head.biases[part]
        packed = (head.weight[part], head.scales[part], biases)
        kind = {"group_size": head.group_size, "bits": head.bits, "mode": head.mode}

        def product(x: mx.array, transpose: bool) -> mx.array:
            return mx.quantized_matmul(x, *packed, transpose=transpose, **kind)
    else:
        weight = widened(_rows_of(head, part))

        def product(x: mx.array, transpose: bool) -> mx.array:
            return x @ (weight.T if transpose else weight)

    def logits(states: mx.array) -> mx.array:
        plain = product(states, True)
        return plain if bias is None else plain + bias[part]

    def mix(weights: mx.array) -> mx.array:
        return product(weights, False)

    return _Piece(logits, mix)


def _rows_of(head: Any, ids: mx.array | slice) -> mx.array:
    """(ids, hidden) rows of the head as numbers, unpacked if they are packed."""
    if "scales" not in head:
        return head.weight[ids]
    biases = None if head.get("biases") is None else head.biases[ids]
    return mx.dequantize(
        head.weight[ids], head.scales[ids], biases, head.group_size, head.bits, head.mode
    )


def _bias(head: Any) -> mx.array | None:
    return head.bias if "bias" in head else None
