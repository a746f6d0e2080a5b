"""What tokens lose, computed by numpy and OpenBLAS on a CPU: `vocabulary.py` outside of a graph.

On a CPU mlx takes 12 ns for an exponential and numpy one. The vocabulary is shared out among the
cores: each goes through its piece by piece, in memory of its own that stays near the processor, and
at the end the sums of all are brought to one scale and added, in the same order every time.

Nearly all of 150 thousand words have next to no chance after the tokens of a poem. Where the
processor multiplies integers several times as fast as floats, the logits of a large vocabulary are
screened: estimated first, a few hundredths off, from rows and hidden states in 8 bits. Words that
any of the tokens gives a chance of 1 in 100,000, about an eighth of them, are then computed in
float32. The others, together a hundredth of the probability, count as estimated, and pull the
gradient as the mean of their rows does. On a Qwen a loss is 5 millionths of itself off by that and
a gradient a thousandth of its length, for less than half of the time. (Chen et al., Learning to
Screen for Fast Softmax Inference, 2019, train a model to find the words.)
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from verse.cpu_weights.integer_product import (
    MIDDLE,
    IntegerProduct,
    fastest_product,
    give_back_memory,
    has_fast_integers,
)
from verse.cpu_weights.packed import quantized, rotated
from verse_trainer.blas import Floats, multiply, multiply_and_add, one_thread_each, threads
from verse_trainer.vocabulary import Places, Read, Room, bias_of, floats, reader, targets_of

PIECE_LOGITS = 1 << 20
LEAST_PIECE, LARGEST_PIECE = 512, 8192
ROOM_NUMBERS = 4 << 20
"""Of a piece of the head as float32, 16 MB, where it is stored in fewer bits."""
_MOST_CORES = 4
"""That have pieces of this size; more have smaller ones, so that all together take no more."""

LEAST_VOCABULARY = 1 << 16
"""Below, there is little to leave out."""
_PIECE = 2048
"""Rows of the head in one product."""
_MOST_TOKENS = 64
"""Screened together; of each, an estimate for every word is kept meanwhile."""
_LEAST_CHANCE = 1e-5
_STEPS = 127
"""Of an integer, for the largest number of a row."""

_Made = TypeVar("_Made")
_unwarned = np.errstate(over="ignore", invalid="ignore")
"""Whoever sees the loss tells that it is not finite."""


class Sums(NamedTuple):
    """Over the vocabulary, or some of it."""

    largest: Floats
    """(tokens, 1) logits that the sums are relative to: none is much larger."""
    total: Floats
    """(tokens, 1) sums of the exponentials."""
    mixed: Floats
    """(tokens, hidden) rows of the head, weighted by them."""


def host_losses(
    head: nn.Module,
    hidden: mx.array,
    targets: mx.array,
    *,
    with_gradient: bool,
    screen: "VocabularyScreen | None" = None,
) -> tuple[mx.array, mx.array | None]:
    """(tokens,) -log p(target) and (tokens, hidden) its gradient, computed now, not in a graph.

    Args:
        head: As for `token_losses`.
        hidden: (tokens, hidden).
        targets: (tokens,) ids.
        with_gradient: Else there is None.
        screen: Of the head, to compute only the words that matter; None for all.
    """
    reached, wanted = targets_of(head, hidden, targets)
    cast(Any, mx).eval(hidden, reached, wanted)
    states = np.ascontiguousarray(floats(hidden.astype(mx.float32)))
    if screen is None:
        sums = _whole_sums(head, states, floats(reached)[:, None], with_gradient)
    else:
        sums = screen.sums(states, with_gradient=with_gradient)
    losses = mx.array((sums.largest + np.log(sums.total))[:, 0]) - reached
    if not with_gradient:
        return losses, None
    return losses, mx.array(sums.mixed / sums.total) - wanted


def screen_of(head: nn.Module) -> "VocabularyScreen | None":
    """What `host_losses` takes where it is faster with one."""
    if not _is_worthwhile(head):
        return None
    read, _ = reader(cast(Any, head))
    return VocabularyScreen(read, _biases(head), cast(Any, head).weight.shape[0])


def _biases(head: nn.Module) -> Floats | None:
    bias = bias_of(head)
    return None if bias is None else floats(bias.astype(mx.float32))


def _whole_sums(head: nn.Module, states: Floats, start: Floats, with_gradient: bool) -> Sums:
    read, is_parallel = reader(cast(Any, head))
    biases = _biases(head)
    parts = _parts(cast(Any, head).weight.shape[0], 2 * threads().num_threads)
    found: dict[int, Sums] = {}

    def work(number: int) -> None:
        found[number] = _sums(read, biases, states, start, parts[number], with_gradient)

    pieces = [lambda number=number: work(number) for number in range(len(parts))]
    if is_parallel:
        with one_thread_each():
            threads().run(pieces)
    else:  # mlx unpacks the rows, which only the thread that it runs in may ask for
        for piece in pieces:
            piece()
    return _added([found[number] for number in range(len(parts))])


@np.errstate(over="ignore", invalid="ignore")  # whoever sees the loss tells it
def _sums(
    read: Read,
    bias: Floats | None,
    states: Floats,
    start: Floats,
    part: slice,
    with_gradient: bool,
) -> Sums:
    num_tokens, width = states.shape
    largest, total = start, np.zeros((num_tokens, 1), np.float32)
    mixed = np.zeros((num_tokens, width if with_gradient else 0), np.float32)
    size = _piece_size(num_tokens, width)
    room = np.empty(num_tokens * min(size, part.stop - part.start), np.float32)
    widened = Room()
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
    return Sums(largest, total, mixed)


@np.errstate(over="ignore", invalid="ignore")
def _added(sums: list[Sums]) -> Sums:
    largest = np.maximum.reduce([each.largest for each in sums])
    shrinks = [np.exp(each.largest - largest) for each in sums]
    total, mixed = np.zeros_like(sums[0].total), np.zeros_like(sums[0].mixed)
    for each, shrink in zip(sums, shrinks, strict=True):
        total += each.total * shrink
        mixed += each.mixed * shrink
    return Sums(largest, total, mixed)


def _parts(vocabulary: int, count: int) -> list[slice]:
    ends = [vocabulary * number // count for number in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends) if pair[0] < pair[1]]


def _piece_size(num_tokens: int, width: int) -> int:
    share = min(1.0, _MOST_CORES / threads().num_threads)
    of_logits, of_rows = PIECE_LOGITS * share / num_tokens, ROOM_NUMBERS * share / width
    return max(LEAST_PIECE, min(LARGEST_PIECE, int(of_logits), int(of_rows)))


def _is_worthwhile(head: Any) -> bool:
    """Whether a head is large, is stored as numbers, and meets a processor that is fast at it."""
    is_large = head.weight.shape[0] >= LEAST_VOCABULARY
    return is_large and "scales" not in head and has_fast_integers()


class _Estimate(NamedTuple):
    """Of some words."""

    weights: Floats
    """(tokens, words) exponentials of their logits, relative to the largest."""
    largest: Floats
    """(tokens, 1) logits."""
    total: Floats
    """(tokens, 1) sums of the weights."""


class VocabularyScreen:
    """The head in 8 bits, beside the one that is read."""

    def __init__(self, read: Read, bias: Floats | None, num_words: int) -> None:
        """Pack the rows."""
        self._read, self._bias = read, bias
        ends = [*range(0, num_words, _PIECE), num_words]
        self._parts = [slice(*pair) for pair in pairwise(ends)]
        kind = fastest_product()

        def pack(number: int) -> tuple[IntegerProduct, Floats]:
            rows = read(self._parts[number], Room())
            return kind(*quantized(rows)), rows.sum(axis=0)

        with one_thread_each():
            self._packed = _all_of(pack, len(self._parts))
        give_back_memory()

    @property
    def num_bytes(self) -> int:
        """What it takes, and the estimates while it is used."""
        packed = sum(product.num_bytes + rows.nbytes for product, rows in self._packed)
        return packed + _MOST_TOKENS * self._parts[-1].stop * np.float32().nbytes

    def sums(self, states: Floats, *, with_gradient: bool) -> Sums:
        """Over the whole vocabulary, for (tokens, hidden); without gradient nothing is mixed."""
        num_tokens = len(states)
        count = -(-num_tokens // _MOST_TOKENS)
        ends = [num_tokens * number // count for number in range(count + 1)]
        with one_thread_each():
            found = [self._of_some(states[slice(*pair)], with_gradient) for pair in pairwise(ends)]
        return Sums(*map(np.concatenate, zip(*found, strict=True)))

    def _of_some(self, states: Floats, with_gradient: bool) -> Sums:
        estimates = self._estimates(states)
        logarithm = _logarithm(estimates)
        num_shares = 2 * threads().num_threads

        def work(share: int) -> tuple[Floats, Floats]:
            numbers = range(share, len(self._parts), num_shares)
            return self._exact(states, estimates, logarithm, numbers, with_gradient)

        totals, mixed = zip(*_all_of(work, num_shares), strict=True)
        return Sums(logarithm, np.sum(totals, axis=0), np.sum(mixed, axis=0))

    def _estimates(self, states: Floats) -> list[_Estimate]:
        integers, step = _in_8_bits(states)

        @_unwarned
        def estimate(number: int) -> _Estimate:
            product, _ = self._packed[number]
            weights = product(integers)
            weights *= step
            if self._bias is not None:
                weights += self._bias[self._parts[number]]
            largest = weights.max(axis=1, keepdims=True)
            weights -= largest
            np.exp(weights, out=weights)
            return _Estimate(weights, largest, weights.sum(axis=1, keepdims=True))

        return _all_of(estimate, len(self._parts))

    @_unwarned
    def _exact(
        self,
        states: Floats,
        estimates: list[_Estimate],
        logarithm: Floats,
        numbers: Iterable[int],
        with_gradient: bool,
    ) -> tuple[Floats, Floats]:
        """Totals and mixed rows of some pieces, relative to the logarithm of the estimated sum."""
        num_tokens, width = states.shape
        total = np.zeros((num_tokens, 1), np.float32)
        mixed = np.zeros((num_tokens, width if with_gradient else 0), np.float32)
        room = Room()
        for number in numbers:
            part, (chances, largest, _) = self._parts[number], estimates[number]
            chances *= np.exp(largest - logarithm)
            words = np.flatnonzero(chances.max(axis=0) >= _LEAST_CHANCE)
            chances[:, words] = 0
            others = chances.sum(axis=1, keepdims=True)
            total += others
            rows = self._read(words + part.start, room)
            if with_gradient and len(words) < chances.shape[1]:
                sum_of_others = self._packed[number][1] - rows.sum(axis=0)
                mixed += others * (sum_of_others / (chances.shape[1] - len(words)))
            if len(words):
                weights = self._weights(states, rows, words + part.start, logarithm)
                total += weights.sum(axis=1, keepdims=True)
                if with_gradient:
                    multiply_and_add(weights, rows, mixed)
        return total, mixed

    def _weights(self, states: Floats, rows: Floats, words: Places, logarithm: Floats) -> Floats:
        weights = np.empty((len(states), len(rows)), np.float32)
        multiply(states, rows, weights)
        if self._bias is not None:
            weights += self._bias[words]
        weights -= logarithm
        return np.exp(weights, out=weights)


def _all_of(work: Callable[[int], _Made], count: int) -> list[_Made]:
    """What the numbers below `count` give, worked on by all cores."""
    made: dict[int, _Made] = {}

    def put(number: int) -> None:
        made[number] = work(number)

    threads().run([lambda n=number: put(n) for number in range(count)])
    return [made[number] for number in range(count)]


@_unwarned
def _logarithm(estimates: list[_Estimate]) -> Floats:
    """(tokens, 1) of the sum over all words."""
    tops = np.concatenate([each.largest for each in estimates], axis=1)
    sums = np.concatenate([each.total for each in estimates], axis=1)
    top = tops.max(axis=1, keepdims=True)
    return top + np.log((sums * np.exp(tops - top)).sum(axis=1, keepdims=True))


@_unwarned
def _in_8_bits(states: Floats) -> tuple[NDArray[np.uint8], Floats]:
    """Rotated as the head's rows are, `MIDDLE` more than they are; and (tokens, 1) what 1 means."""
    states = rotated(states)
    step = np.abs(states).max(axis=1, keepdims=True) / np.float32(_STEPS)
    step[step == 0] = 1
    return (np.rint(states / step) + MIDDLE).astype(np.uint8), step
