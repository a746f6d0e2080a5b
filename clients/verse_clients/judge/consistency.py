"""Whether a judge means what it says: how often it takes the first, or contradicts itself.

A judge that reads picks the first of five shuffled poems in a fifth of the calls, and says the same
about two poems whichever stands first.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from verse_clients.judge.ranked import Comparison

_MUCH = 1.5
"""Times chance from which picking the first is worth a warning."""
_ENOUGH_CALLS = 10


class Rate(NamedTuple):
    """So many of so many."""

    hits: int
    total: int

    @property
    def share(self) -> float | None:
        """0 to 1; None of nothing."""
        return self.hits / self.total if self.total else None

    def __str__(self) -> str:
        return "-" if self.share is None else f"{self.share:.0%} of {self.total}"


class Consistency(NamedTuple):
    """One judge's."""

    first_picks: Rate
    """Calls in which the poem shown first was put first."""
    chance: float
    """Share of first picks of a judge that does not care for the order."""
    flips: Rate
    """Of two poems shown in either order: the verdicts that changed with the order."""

    @property
    def prefers_first(self) -> bool:
        """Whether the place decides too often for chance."""
        picks = self.first_picks
        is_much = picks.hits > _MUCH * self.chance * picks.total
        return picks.total >= _ENOUGH_CALLS and is_much


def consistency(comparisons: Iterable[Comparison], judge: str | None = None) -> Consistency:
    """Of one judge, or of all together."""
    own = [each for each in comparisons if judge in (None, each.judge)]
    first = sum(each.ranking[0] == each.shown[0] for each in own)
    chance = sum(1 / len(each.shown) for each in own) / len(own) if own else 0.0
    return Consistency(Rate(first, len(own)), chance, _flips(own))


def _flips(comparisons: Sequence[Comparison]) -> Rate:
    """Over all pairs of calls of one judge that show two poems in opposite orders."""
    verdicts: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for each in comparisons:
        place = {id_: number for number, id_ in enumerate(each.ranking)}
        for number, one in enumerate(each.shown):
            for other in each.shown[number + 1 :]:
                verdicts[each.judge, one, other].append(place[one] < place[other])
    flipped = seen = 0
    for (judge, one, other), wins in verdicts.items():
        if one < other:
            losses = verdicts.get((judge, other, one), [])
            seen += len(wins) * len(losses)
            flipped += sum(win == loss for win in wins for loss in losses)
    return Rate(flipped, seen)
