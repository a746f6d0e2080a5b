"""Which of the poems that may be learned are: model-written ones are kept to their share.

A model that learns from itself narrows (Ferbach et al. 2024, on curated retraining), so the poet's
own poems all stay, poems of models make up at most a share, and no opening line more than its
share. What is left out follows from the poems alone: no chance is involved.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

import msgspec

from verse.records import Poem
from verse.similarity import comparison_key
from verse_clients.measures import first_line

_PRECISION = 1_000_000


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """What the whole training set may hold at most."""

    max_synthetic: float = 0.5
    """Of model-written poems, edited ones included; 0 up to, but not, 1."""
    max_opening: float = 0.05
    """Of poems that begin with the same line, 0 to 1; one is always allowed."""


class Selection(NamedTuple):
    """What was taken and what not, each in the order the poems came in."""

    taken: list[Poem]
    openings: list[Poem]
    """Left out, because their opening line has its share."""
    surplus: list[Poem]
    """Left out, because model-written poems have their share."""


def most_synthetic(num_originals: int, share: float) -> int:
    """How many poems of models go with so many of the poet's."""
    exact = Fraction(share).limit_denominator(_PRECISION)
    return int(exact * num_originals / (1 - exact))


def select(
    originals: Sequence[Poem], poems: Sequence[Poem], stars: dict[str, int], shares: Shares
) -> Selection:
    """Choose from the poems of models.

    Args:
        originals: The poet's own poems to learn from; all of them stay.
        poems: Those of models, in the order they were accepted.
        stars: By a poem's `source`, 1 to 5; the rest have none.
        shares: What may not be exceeded.
    """
    ranked = by_claim(poems, stars)
    room = most_synthetic(len(originals), shares.max_synthetic)
    openings = _Openings(originals, shares.max_opening)
    fitting = openings.fitting(ranked, len(originals) + min(room, len(ranked)))
    # Fewer poems make a smaller share of each opening line: until nothing changes.
    while len(again := openings.fitting(ranked, len(originals) + min(room, len(fitting)))) < len(
        fitting
    ):
        fitting = again
    taken, surplus = _ids(fitting[:room]), _ids(fitting[room:])
    return Selection(
        [poem for poem in poems if poem.id in taken],
        [poem for poem in poems if poem.id not in taken | surplus],
        [poem for poem in poems if poem.id in surplus],
    )


def by_claim(poems: Iterable[Poem], stars: dict[str, int]) -> list[Poem]:
    """The poems that have the best claim to be learned first.

    Every theme gets its first poem before any gets its second; within a theme, what the poet edited
    comes before what was only accepted, then more stars, then the earlier decision.
    """
    themes: dict[str, list[tuple[bool, int, int, Poem]]] = defaultdict(list)
    for place, poem in enumerate(poems):
        claim = (poem.origin != "edited", -stars.get(poem.source, 0), place, poem)
        themes[poem.theme].append(claim)
    turns = [
        (turn, *claim)
        for claims in themes.values()
        for turn, claim in enumerate(sorted(claims, key=lambda claim: claim[:3]))
    ]
    return [claim[-1] for claim in sorted(turns, key=lambda claim: claim[:4])]


class _Openings:
    """Counts opening lines; those of the poet's own poems are counted first."""

    def __init__(self, originals: Iterable[Poem], max_share: float) -> None:
        self._originals = Counter(_opening(poem) for poem in originals)
        self._share = Fraction(max_share).limit_denominator(_PRECISION)

    def fitting(self, ranked: Iterable[Poem], size: int) -> list[Poem]:
        """The poems whose opening line stays within its share of `size` poems."""
        limit = max(1, int(self._share * size))
        counts = self._originals.copy()
        fitting: list[Poem] = []
        for poem in ranked:
            opening = _opening(poem)
            if counts[opening] < limit:
                counts[opening] += 1
                fitting.append(poem)
        return fitting


def _opening(poem: Poem) -> str:
    return comparison_key(first_line(poem.text))


def _ids(poems: Iterable[Poem]) -> set[str]:
    return {poem.id for poem in poems}
