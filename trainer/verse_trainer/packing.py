"""Rows of a batch without padding: their tokens one behind the other, a common beginning once.

    prefix | row 1 | row 2 | ... | filling

All rows of a run begin with the same tokens: the frame of the prompt and the system message. They
attend to themselves alone, so their keys and values are the same for every row; computed once, they
get the sum of all rows' gradients, which is what computing them for each row gives. Only attention
needs rows side by side; `gather` and `scatter` lead there and back.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from verse_trainer.encoding import EncodedRow

_WORTHWHILE = 8
"""Tokens of a common beginning below which sharing it brings nothing."""


class Layout(NamedTuple):
    """Where the tokens of some rows are."""

    gather: mx.array
    """(rows, width) places of each row's tokens; whatever stands at 0 fills its end."""
    scatter: mx.array
    """(tokens,) places in the prefix followed by the gathered rows, flat."""


class PackedBatch(NamedTuple):
    """Some rows as arrays."""

    inputs: mx.array
    """(tokens,) ids, or (tokens, hidden) states from the layers below."""
    gather: mx.array
    scatter: mx.array
    """As of `Layout`."""
    places: mx.array
    """(targets,) places whose next token is learned; filled up with 0."""
    targets: mx.array
    """(targets,) ids of these next tokens."""
    owners: mx.array
    """(targets,) number of the row; of what only fills up, the number of rows."""

    @property
    def layout(self) -> Layout:
        """Of the inputs."""
        return Layout(self.gather, self.scatter)


class Multiples(NamedTuple):
    """What sizes are rounded up to, so that few shapes have to be compiled."""

    tokens: int
    width: int
    targets: int


EXACT = Multiples(1, 1, 1)
ROUNDED = Multiples(64, 8, 32)


def common_prefix(rows: Iterable[EncodedRow]) -> int:
    """Tokens that all rows begin with and none of them is asked to predict from; 0 for too few."""
    first: tuple[int, ...] | None = None
    length = 0
    for row in rows:
        if first is None:
            first, length = row.token_ids, row.targets[0] - 1
        length = min(length, row.targets[0] - 1)
        while first[:length] != row.token_ids[:length]:
            length -= 1
    return length if length >= _WORTHWHILE else 0


def lay_out(lengths: Sequence[int], prefix: int, multiples: Multiples) -> Layout:
    """Place rows of so many tokens, the prefix not counted."""
    width = _rounded(max(lengths), multiples.width)
    total = _rounded(prefix + sum(lengths), multiples.tokens)
    gather = np.zeros((len(lengths), width), np.int32)
    scatter = np.zeros(total, np.int32)
    scatter[:prefix] = np.arange(prefix)
    start = prefix
    for number, length in enumerate(lengths):
        gather[number, :length] = np.arange(start, start + length)
        scatter[start : start + length] = prefix + number * width + np.arange(length)
        start += length
    return Layout(mx.array(gather), mx.array(scatter))


def pack(
    rows: Sequence[EncodedRow],
    prefix: int,
    multiples: Multiples,
    states: Callable[[Sequence[EncodedRow], int], mx.array] | None = None,
) -> PackedBatch:
    """Put rows one behind the other.

    Args:
        rows: At least one.
        prefix: Tokens they all begin with.
        multiples: What sizes are rounded up to.
        states: Gives what the layers below make of these rows, (tokens, hidden), given how many
            tokens there shall be; None to begin with the token ids.
    """
    layout = lay_out([row.length - prefix for row in rows], prefix, multiples)
    total = layout.scatter.shape[0]
    counts = [len(row.targets) for row in rows]
    num_targets = _rounded(sum(counts), multiples.targets)
    places, targets = np.zeros(num_targets, np.int32), np.zeros(num_targets, np.int32)
    owners = np.full(num_targets, len(rows), np.int32)
    owners[: sum(counts)] = np.repeat(np.arange(len(rows)), counts)
    start, done = 0, 0  # of a row's own first token if it stood alone, and of its targets
    for row, count in zip(rows, counts, strict=True):
        learned = np.array(row.targets)
        places[done : done + count] = start + learned - 1
        targets[done : done + count] = np.array(row.token_ids)[learned]
        start, done = start + row.length - prefix, done + count
    inputs = token_ids(rows, prefix, total) if states is None else states(rows, total)
    return PackedBatch(inputs, *layout, mx.array(places), mx.array(targets), mx.array(owners))


def token_ids(rows: Sequence[EncodedRow], prefix: int, total: int) -> mx.array:
    """(total,) the ids that the rows are read as."""
    ids = np.zeros(total, np.int32)
    ids[:prefix] = rows[0].token_ids[:prefix]
    start = prefix
    for row in rows:
        end = start + row.length - prefix
        ids[start:end] = row.token_ids[prefix:-1]
        start = end
    return mx.array(ids)


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
