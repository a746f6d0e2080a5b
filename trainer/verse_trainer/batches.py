"""Which rows meet in which batch: every row in every epoch, rows of like length together.

Pure: a batch follows from the lengths, the seed and its step, so a run that goes on after a kill
asks for step 38 and gets the batch it would have got.
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

PAD_MULTIPLE = 8
"""Widths are rounded up to it, so that few shapes have to be compiled."""


def padded(length: int) -> int:
    """The width of a batch whose longest row has `length` tokens."""
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE


class BatchPlan:
    """The batches of a run, by step. Steps count from 1 and go through all epochs."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """Lay out batches of `batch_size` rows; the last one of an epoch may have fewer."""
        self._lengths = tuple(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._draw)

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every row was seen."""
        return -(-len(self._lengths) // self._batch_size)

    def batch(self, step: int) -> tuple[int, ...]:
        """Indices of the rows of one step."""
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        return self._epoch(epoch)[place]

    def longest_batch(self) -> tuple[int, ...]:
        """The longest rows there are, together: what takes the most memory."""
        return tuple(sorted(range(len(self._lengths)), key=self._width)[-self._batch_size :])

    def _width(self, row: int) -> int:
        return padded(self._lengths[row])

    def _draw(self, epoch: int) -> tuple[tuple[int, ...], ...]:
        """Shuffle the rows, bring those of one width together, cut, shuffle the batches."""
        # A text seeds it on every machine and in every Python alike.
        draw = random.Random(f"{self._seed}/{epoch}")
        rows = list(range(len(self._lengths)))
        draw.shuffle(rows)
        rows.sort(key=self._width)
        ends = [0, *accumulate(self._sizes(draw))]
        batches = [tuple(rows[start:end]) for start, end in pairwise(ends)]
        draw.shuffle(batches)
        return tuple(batches)

    def _sizes(self, draw: random.Random) -> list[int]:
        """The small batch may fall anywhere, or it would always be made of the longest rows."""
        full, rest = divmod(len(self._lengths), self._batch_size)
        sizes = [self._batch_size] * full
        if rest:
            sizes.insert(draw.randint(0, full), rest)
        return sizes
