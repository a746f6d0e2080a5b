"""Which earlier texts share enough neighbouring characters with a new one; compact, and in numpy.

A pair counts as often as it occurs: the second of its kind in a text is another one than the first.
Pairs are kept in buckets by a hash, so a hundred thousand poems take forty megabytes whatever they
are about. Two pairs that meet in a bucket make a count too large and never too small: what is found
has to be compared anyway, and nothing is passed over.
"""

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BUCKET_BITS = 17
_FACTORS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)
_NUMBER = np.dtype(np.uint32)

Numbers = NDArray[np.uint32]


class PairIndex:
    """Texts by their pairs, numbered from 0 in the order they were added."""

    def __init__(self) -> None:
        """Know no text yet."""
        self._holders: dict[int, array[int]] = {}
        self._sizes = np.zeros(1 << _BUCKET_BITS, dtype=_NUMBER)
        self._lengths = array("I")
        self.num_looked_at = 0
        """Entries of all buckets that were read so far: what searching cost."""

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, text: str) -> None:
        """Know a text from now on."""
        number = len(self._lengths)
        buckets = _buckets(text)
        for bucket in buckets.tolist():
            holders = self._holders.get(bucket)
            if holders is None:
                holders = self._holders[bucket] = array("I")
            holders.append(number)
        np.add.at(self._sizes, buckets, 1)
        self._lengths.append(len(text))

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
        buckets = _buckets(text)
        rarest = buckets[np.argsort(self._sizes[buckets], kind="stable")]
        looked_at = rarest[: max(0, len(rarest) - spared)].tolist()
        holders = (self._holders.get(bucket) for bucket in looked_at)
        found = [np.frombuffer(each, dtype=_NUMBER) for each in holders if each]
        if not found:
            return np.empty(0, dtype=_NUMBER), np.empty(0, dtype=np.intp)
        numbers = np.concatenate(found)
        self.num_looked_at += len(numbers)
        numbers.sort()
        starts = np.flatnonzero(np.diff(numbers, prepend=_NUMBER.type(numbers[0] + 1)))
        counts = np.diff(starts, append=len(numbers))
        enough = counts >= at_least
        return numbers[starts[enough]], counts[enough]


def _buckets(text: str) -> Numbers:
    """One for each pair of neighbours, told apart by how often the pair stood before."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=_NUMBER)
    pairs = codes[:-1] * _NUMBER.type(_FACTORS[0]) ^ codes[1:] * _NUMBER.type(_FACTORS[1])
    order = np.argsort(pairs, kind="stable")
    in_order = pairs[order]
    places = np.arange(len(pairs), dtype=_NUMBER)
    is_first = np.ones(len(pairs), dtype=np.bool_)
    is_first[1:] = in_order[1:] != in_order[:-1]
    before = np.empty_like(places)
    before[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    mixed = (pairs ^ before * _NUMBER.type(_FACTORS[2])) * _NUMBER.type(_FACTORS[0])
    return mixed >> _NUMBER.type(32 - _BUCKET_BITS)
