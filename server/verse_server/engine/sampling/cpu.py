"""Draws in numpy, for a model that runs on the CPU.

mlx's kernels for the CPU take about 12 ns for one exponential and 100 ns for one element of a sort,
so that drawing for 32 rows by `top_p` cost as much as the whole forward of a small model. numpy
has vector instructions for both. The distribution is that of `sampling`. Pure: no mlx.

A row's logits differ in their last bits with what is computed beside it and with what of its prompt
was known. So tokens race: the largest of weight / exponential wins, as in `mx.random.categorical`.
Such a difference then decides about one token in a hundred thousand. Where one number falls among
running sums it decided one in 300 over a vocabulary of 12,000 and one in 50 over 152,000, since
each of the sums may move across the number: a seed would seldom give the same poem twice.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from verse_server.engine.types import SamplingParams

Weights = NDArray[np.float32]

_BLOCK = 128
_ONES = np.ones(_BLOCK, np.float32)
_TRIALS = 4
_ROWS_EACH = 4
"""Of one piece of work."""

Work = Sequence[Callable[[], None]]


def in_turn(pieces: Work) -> None:
    """One piece after the other."""
    for piece in pieces:
        piece()


class RandomNumbers(Protocol):
    """A row's own, whatever its neighbours draw."""

    def next_uniform(self) -> float:
        """In [0, 1)."""
        ...

    def next_uniforms(self, count: int) -> NDArray[np.float64]:
        """(count,) numbers in (0, 1)."""
        ...


def draw(
    logits: Weights | Sequence[Weights],
    params: Sequence[SamplingParams],
    numbers: Sequence[RandomNumbers],
    never_excluded: Sequence[int] = (),
    run: Callable[[Work], None] = in_turn,
) -> NDArray[np.int32]:
    """One token for each row.

    Args:
        logits: (batch, vocab), bias and penalties applied. A row whose largest is no finite number
            gets that one's place.
        params: How each row draws.
        numbers: Of each row.
        never_excluded: Tokens that XTC leaves alone.
        run: Does pieces of work, in any order, of some rows each.

    Returns:
        (batch,) token ids.
    """
    rows = list(zip(logits, params, numbers, strict=True))
    drawn = np.empty(len(rows), np.int32)

    def piece(places: slice) -> None:
        # What is far below the largest becomes minus infinity, which has weight 0.
        with np.errstate(over="ignore"):
            drawn[places] = [_drawn(*row, never_excluded) for row in rows[places]]

    starts = range(0, len(rows), _ROWS_EACH)
    run([lambda first=first: piece(slice(first, first + _ROWS_EACH)) for first in starts])
    return drawn


def _drawn(
    logits: Weights,
    params: SamplingParams,
    numbers: RandomNumbers,
    never_excluded: Sequence[int],
) -> int:
    largest = logits.max()
    if params.is_greedy or not np.isfinite(largest):
        return int(logits.argmax())
    weights = logits - largest
    weights /= params.temperature
    np.exp(weights, out=weights)
    if params.xtc_probability > 0 and numbers.next_uniform() < params.xtc_probability:
        return _place(_without_top_choices(logits, weights, params, never_excluded), numbers)
    if 0.5 <= params.top_p < 1 and not 0 < params.top_k < len(weights):
        place = _tried(weights, params, numbers)
        if place is not None:
            return place
    floor = _floor(weights, params)
    return _place(weights * (weights >= floor) if floor > 0 else weights, numbers)


def _without_top_choices(
    logits: Weights, weights: Weights, params: SamplingParams, never_excluded: Sequence[int]
) -> Weights:
    """The weights that XTC leaves, as mlx_lm's `apply_xtc`.

    Probabilities are those before temperature, of what top_k, top_p and min_p keep.
    """
    kept = weights >= _floor(weights, params)
    inside = np.where(kept, logits, -np.inf)
    probabilities = np.exp(inside - inside.max())
    probabilities /= probabilities.sum()
    above = probabilities[probabilities > params.xtc_threshold]
    if len(above):
        excluded = probabilities > above.min()
        excluded[list(never_excluded)] = False
        inside[excluded] = -np.inf
    # Of what is left the largest weight is 1 again: far below the excluded ones it may have been 0.
    return np.exp((inside - inside.max()) / params.temperature)


def _tried(weights: Weights, params: SamplingParams, numbers: RandomNumbers) -> int | None:
    """A draw from all weights that falls inside `top_p` and `min_p`; None if some tries do not.

    Rejection leaves the distribution as it is, and most tries succeed. Whether a token is inside
    takes a sum over those heavier than it, where finding the threshold takes a sort.
    """
    sums = _block_sums(weights)
    total = float(sums.sum())
    for _ in range(_TRIALS):
        place = _place(weights, numbers, sums)
        weight = float(weights[place])
        heavier = float(weights[weights > weight].sum())
        if weight >= params.min_p and (heavier < params.top_p * total or weight == 1):
            return place
    return None


def _block_sums(weights: Weights) -> NDArray[np.float64]:
    """Of each block; the last may be shorter."""
    num_whole = len(weights) // _BLOCK
    whole, rest = np.split(weights, [num_whole * _BLOCK])
    # A product of matrices adds up in a fifth of the time that `sum` takes.
    sums = (whole.reshape(num_whole, _BLOCK) @ _ONES).astype(np.float64)
    return np.append(sums, rest.sum(dtype=np.float64)) if len(rest) else sums


def _place(
    weights: Weights, numbers: RandomNumbers, sums: NDArray[np.float64] | None = None
) -> int:
    """The place that is drawn; never one of weight 0.

    The block first, then the place in it: a vocabulary of random numbers would take long to make.

    Args:
        weights: (vocab,).
        numbers: The row's.
        sums: Of the blocks, if they are known.
    """
    block = _winner(_block_sums(weights) if sums is None else sums, numbers)
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK]
    return block * _BLOCK + _winner(inside, numbers)


def _winner(weights: NDArray[np.floating[Any]], numbers: RandomNumbers) -> int:
    return int(np.argmax(weights / -np.log(numbers.next_uniforms(len(weights)))))


def _floor(weights: Weights, params: SamplingParams) -> float:
    """The smallest weight that is kept, where the largest is 1; 0 keeps all."""
    floor = params.min_p
    if 0 < params.top_k < len(weights):
        least = np.partition(weights, -params.top_k)[-params.top_k]
        floor = max(floor, float(least))
        if params.top_p < 1:
            floor = max(floor, _top_p_floor(weights[weights >= least], params.top_p))
    elif params.top_p < 1:
        floor = max(floor, _top_p_floor(weights, params.top_p))
    return floor


def _top_p_floor(weights: Weights, top_p: float) -> float:
    """The smallest of the heaviest weights that together reach the share `top_p`."""
    total = float(weights.sum())
    # Those below this bound have a share of 1 - top_p at most, even all together.
    bound = (1 - top_p) * total / len(weights)
    heaviest = np.sort(weights[weights >= bound])[::-1]
    sums = np.cumsum(heaviest, dtype=np.float64)
    last = np.searchsorted(sums, top_p * total, side="left")
    return float(heaviest[min(last, len(heaviest) - 1)])
