"""What can be said of a collection of model-written poems beside the poet's own."""

from collections.abc import Iterable, Sequence

import msgspec

from verse.diversity import Diversity, diversity
from verse.similarity import CopyIndex, comparison_key, shingles

MIN_RUN = 8
"""Characters from which a shared run is counted as taken over."""
_SHINGLE = 3


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one collection; only collections of like size compare."""

    diversity: Diversity
    copy_rate: float
    """Share of the poems that have 8 or more characters in a row from one of the poet's, 0 to 1."""
    similarity: float
    """Share of the runs of 3 characters that the poet's poems have too, 0 to 1: how much of the
    poet's language is in them."""


class Yardstick:
    """Measures collections beside the same poems of the poet."""

    def __init__(self, training: Iterable[str]) -> None:
        """Know the poet's poems."""
        self._copies = CopyIndex(MIN_RUN)
        self._shingles: set[str] = set()
        for number, text in enumerate(training):
            self._copies.add(str(number), text)
            self._shingles |= shingles(comparison_key(text), _SHINGLE)

    def measure(self, texts: Sequence[str]) -> Measures:
        """Measure one collection."""
        found = [shingles(comparison_key(text), _SHINGLE) for text in texts]
        num_shared = sum(len(runs & self._shingles) for runs in found)
        num_copies = sum(self._copies.find(text) is not None for text in texts)
        return Measures(
            diversity=diversity(texts),
            copy_rate=num_copies / len(texts) if texts else 0.0,
            similarity=num_shared / max(1, sum(map(len, found))),
        )
