"""Which earlier texts share enough neighbouring characters with a new one; compact, and in numpy.

A pair counts as often as it occurs: the second of its kind in a text is another one than the first.
Pairs are kept in buckets by a hash, so a hundred thousand poems take forty megabytes whatever they
are about. Two pairs that meet in a bucket make a count too large and never too small: what is found
has to be compared anyway, and nothing is passed over.
"""

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_BUCKET_BITS = 17
_NUM_BUCKETS = 1 << _BUCKET_BITS
_FACTORS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)
_NUMBER = np.dtype(np.uint32)
_AT_ONCE = 4096
"""Texts whose pairs are sorted together: what that takes beside the index stays a few megabytes."""

Numbers = NDArray[np.uint32]


class _Segment(NamedTuple):
    """Texts that came at once: the numbers of each bucket lie together."""

    starts: Numbers
    """Where in `holders` each bucket begins, and where the last one ends."""
    holders: Numbers


class PairIndex:
    """Texts by their pairs, numbered from 0 in the order they were added."""

    def __init__(self) -> None:
        """Know no text yet."""
        self._segments: list[_Segment] = []
        self._holders: dict[int, array[int]] = {}
        self._sizes = np.zeros(_NUM_BUCKETS, dtype=_NUMBER)
        self._lengths = array("I")
        self.num_looked_at = 0
        """Entries of all buckets that were read so far: what searching cost."""

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, text: str) -> None:
        """Know a text from now on."""
        number = len(self._lengths)
        buckets = _buckets_of(text)
        for bucket in buckets.tolist():
            holders = self._holders.get(bucket)
            if holders is None:
                holders = self._holders[bucket] = array("I")
            holders.append(number)
        self._sizes[buckets] += 1  # once where two pairs meet: it says only which are rare
        self._lengths.append(len(text))

    def extend(self, texts: Sequence[str]) -> None:
        """Know many texts from now on: as `add` of each, in a tenth of the time."""
        first = len(self._lengths)
        pieces = [
            _buckets(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)
        ]
        if not pieces:
            return
        sizes = sum(np.bincount(buckets, minlength=_NUM_BUCKETS) for buckets, _ in pieces)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(_NUMBER)
        free, holders = starts[:-1].copy(), np.empty(int(starts[-1]), dtype=_NUMBER)
        for place, (buckets, texts_) in enumerate(pieces):
            order = np.argsort(buckets, kind="stable")
            sorted_ = buckets[order]
            within = _before_in_row(sorted_)
            holders[free[sorted_] + within] = texts_[order] + _NUMBER.type(first + place * _AT_ONCE)
            free += np.bincount(buckets, minlength=_NUM_BUCKETS).astype(_NUMBER)
        self._segments.append(_Segment(starts, holders))
        self._sizes += np.diff(starts)
        self._lengths.extend(map(len, texts))

    def lengths(self) -> NDArray[Any]:
        """Of all texts, in characters; not to be kept while texts are added."""
        return np.frombuffer(self._lengths, dtype=_NUMBER)

    def shared(self, text: str, spared: int, at_least: float) -> tuple[Numbers, NDArray[np.intp]]:
        """The texts that share enough pairs with this one, and how many at least, but for some.

        Args:
            text: The new one.
            spared: So many of its pairs, those that most texts have, are not looked at; each may be
                shared as well.
            at_least: So many of the others.
        """
        buckets = _buckets_of(text)
        rarest = buckets[np.argsort(self._sizes[buckets], kind="stable")]
        found = list(self._holders_of(rarest[: max(0, len(rarest) - spared)]))
        if not found:
            return np.empty(0, dtype=_NUMBER), np.empty(0, dtype=np.intp)
        numbers = np.concatenate(found)
        self.num_looked_at += len(numbers)
        numbers.sort()
        starts = np.flatnonzero(np.diff(numbers, prepend=_NUMBER.type(numbers[0] + 1)))
        counts = np.diff(starts, append=len(numbers))
        enough = counts >= at_least
        return numbers[starts[enough]], counts[enough]

    def _holders_of(self, buckets: Numbers) -> Iterator[Numbers]:
        """Who have these pairs; nothing empty."""
        for starts, holders in self._segments:
            ends = starts[buckets + 1].tolist()
            for start, end in zip(starts[buckets].tolist(), ends, strict=True):
                if start < end:
                    yield holders[start:end]
        for bucket in buckets.tolist():
            if added := self._holders.get(bucket):
                yield np.frombuffer(added, dtype=_NUMBER)


@lru_cache(4)
def _buckets_of(text: str) -> Numbers:
    """Of one text; a new one is asked for, and then added."""
    return _buckets([text])[0]


def _buckets(texts: Sequence[str]) -> tuple[Numbers, Numbers]:
    """One for each pair of neighbours, told apart by how often its text had the pair before.

    Returns:
        The buckets, and the place of the text that each is of.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=_NUMBER)
    places = np.repeat(np.arange(len(texts), dtype=_NUMBER), [len(text) for text in texts])
    inside = places[1:] == places[:-1]
    pairs = (codes[:-1] * _NUMBER.type(_FACTORS[0]) ^ codes[1:] * _NUMBER.type(_FACTORS[1]))[inside]
    places = places[:-1][inside]
    of_text = places.astype(np.uint64) << np.uint64(32) | pairs
    order = np.argsort(of_text, kind="stable")
    before = np.empty_like(pairs)
    before[order] = _before_in_row(of_text[order])
    mixed = (pairs ^ before * _NUMBER.type(_FACTORS[2])) * _NUMBER.type(_FACTORS[0])
    return mixed >> _NUMBER.type(32 - _BUCKET_BITS), places


def _before_in_row(in_order: NDArray[Any]) -> Numbers:
    """For each of some sorted numbers, how many of the same stand before it."""
    steps = np.arange(len(in_order), dtype=_NUMBER)
    is_first = np.ones(len(in_order), dtype=np.bool_)
    is_first[1:] = in_order[1:] != in_order[:-1]
    return steps - np.maximum.accumulate(np.where(is_first, steps, 0))
