"""Which two poems to show side by side: the same theme, neither rejected, not compared before."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

from verse_clients.decisions.journal import Replay
from verse_clients.decisions.sources import Item

_MAX_COMPARISONS = 3
"""Of one poem: more tell little that is new."""

Pair = tuple[Item, Item]


def next_pair(items: Sequence[Item], replay: Replay, rng: random.Random) -> Pair | None:
    """The next pair worth comparing, left and right by chance; None when all are compared."""
    compared = {frozenset((pair.left.id, pair.right.id)) for pair in replay.pairs()}
    times = Counter(poem for pair in compared for poem in pair)
    for group in _themes(items, replay):
        pair = _least_compared(group, compared, times)
        if pair is not None:
            return pair if rng.random() < 0.5 else (pair[1], pair[0])
    return None


def _themes(items: Sequence[Item], replay: Replay) -> list[list[Item]]:
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        verdict = replay.verdict(item.id)
        if verdict is None or verdict.action != "reject":
            groups[item.candidate.theme].append(item)
    return list(groups.values())


def _least_compared(
    group: Sequence[Item], compared: set[frozenset[str]], times: Counter[str]
) -> Pair | None:
    ready = [item for item in group if times[item.id] < _MAX_COMPARISONS]
    ready.sort(key=lambda item: times[item.id])
    for one, other in combinations(ready, 2):
        differs = one.candidate.text != other.candidate.text
        if differs and frozenset((one.id, other.id)) not in compared:
            return one, other
    return None
