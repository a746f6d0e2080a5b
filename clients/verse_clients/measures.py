"""What can be said of a collection of poems, alone and beside the poet's own; in characters.

No segmenter and no model is needed. The measures of variety follow Shaib et al. 2024 (arXiv
2403.00553): n-gram diversity, self-repetition of long runs, and how far a compressor gets. All of
them depend on how much text there is, so only compare collections of the same number of poems;
`equal_samples` draws them.
"""

import random
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from verse.similarity import CopyIndex, comparison_key, normalise, shingles

MIN_RUN = 8
"""Characters from which a shared run is counted as taken over."""
_SHINGLE = 3
_LONG_RUN = 6
"""Characters: in the original project's honest outputs no poem shared more with a training poem."""
_MAX_N = 4
MAX_SAMPLE = 2000
"""Poems of a collection that are enough to measure it: the runs of a hundred thousand fill a
memory."""


class Diversity(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said of a collection; shares and ratios of nothing are 0."""

    num_poems: int
    distinct_1: float
    """Different characters over all characters, 0 to 1."""
    distinct_2: float
    distinct_3: float
    distinct_4: float
    self_repetition: float
    """Share of the runs of 6 characters that another poem has too, 0 to 1."""
    compression_ratio: float
    """Bytes over zlib's; higher is more of the same. Prose of one poet is near 2."""
    commonest_first_line: str
    """As the first poem that begins with it writes it."""
    commonest_first_line_share: float
    """Of the poems, 0 to 1."""


def diversity(texts: Iterable[str]) -> Diversity:
    """Measure a collection. Punctuation, spaces and line breaks count for nothing."""
    poems = list(texts)
    plain = [normalise(poem) for poem in poems]
    line, share = _commonest_first_line(poems)
    distinct = {f"distinct_{n}": _distinct(plain, n) for n in range(1, _MAX_N + 1)}
    return Diversity(
        num_poems=len(poems),
        **distinct,
        self_repetition=_self_repetition(plain),
        compression_ratio=_compression_ratio(plain),
        commonest_first_line=line,
        commonest_first_line_share=share,
    )


def equal_samples(groups: Mapping[str, Sequence[str]], seed: int = 0) -> dict[str, list[str]]:
    """As many poems of each group as the smallest has, drawn by chance: fit to be compared."""
    size = min((len(poems) for poems in groups.values()), default=0)
    size = min(size, MAX_SAMPLE)
    # Each group is drawn by a generator of its own, so that a new group changes no other's sample.
    return {
        name: random.Random(f"{seed} {name}").sample(list(poems), size)
        for name, poems in groups.items()
    }


def first_line(text: str) -> str:
    """The first line that says something; empty if none does."""
    return next((line.strip() for line in text.splitlines() if normalise(line)), "")


def _distinct(plain: Sequence[str], size: int) -> float:
    """Runs never cross from one poem into the next."""
    runs = Counter(
        poem[start : start + size] for poem in plain for start in range(len(poem) - size + 1)
    )
    return len(runs) / runs.total() if runs else 0.0


def _self_repetition(plain: Sequence[str]) -> float:
    """A run repeated within one poem is a refrain, and counts for nothing."""
    holders = Counter(run for poem in plain for run in shingles(poem, _LONG_RUN))
    shared = sum(count for count in holders.values() if count > 1)
    return shared / holders.total() if holders else 0.0


def _compression_ratio(plain: Sequence[str]) -> float:
    data = "\n".join(poem for poem in plain if poem).encode()
    return len(data) / len(zlib.compress(data, 9)) if data else 0.0


def _commonest_first_line(poems: Sequence[str]) -> tuple[str, float]:
    lines = [first_line(poem) for poem in poems]
    counts = Counter(normalise(line) for line in lines if line)
    if not counts:
        return "", 0.0
    commonest, count = counts.most_common(1)[0]
    written = next(line for line in lines if normalise(line) == commonest)
    return written, count / len(poems)


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one collection; only collections of like size compare."""

    diversity: Diversity
    copy_rate: float
    """Share of the poems that have 8 or more characters in a row from one of the poet's, 0 to 1."""
    similarity: float
    """Share of the runs of 3 characters that the poet's poems have too, 0 to 1: how much of the
    poet's language is in them."""


class ReferenceSet:
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
