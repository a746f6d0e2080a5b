"""The order of the queue, and of pairs to compare. An order moves poems, it never drops one.

What a judge or a generator wrote stands in the order of its scores or sources, so the place in the
file tells of both. An order that is to be read blind follows from the words of the poems alone.

`active` is made for people who tire. Out of ten poems three are likely to be accepted
(they keep the spirits up), three are uncertain (they teach the most), three are unlike those around
them, and one is drawn at random (it keeps the estimates honest). Every twentieth place shows a poem
again that was decided before: does the poet still think so?
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import combinations
from statistics import median
from types import MappingProxyType

from verse.records import OrderName
from verse.replay import Replay
from verse.similarity import normalise, shingles
from verse_clients.curate.queue import Slot
from verse_clients.decisions.sources import Item

_REPEAT_EVERY = 20
_UNLIKE_TRIES = 6
"""Poems looked at to find one unlike its neighbours; all of them would take quadratic time."""
_UNLIKE_NEIGHBOURS = 4
_UNKNOWN = float("-inf")


def has_something_to_hide(items: Iterable[Item]) -> bool:
    """Whether poems differ in their source, or any has a score, a rank or a disagreement.

    If not, no order of them can tell anything.
    """
    items = list(items)
    judged = any((item.score, item.rank, item.disagreement) != (None, None, None) for item in items)
    return judged or len({item.source for item in items}) > 1


def default_order(items: Iterable[Item]) -> OrderName:
    """The order in which poems can be read blind."""
    return "shuffle" if has_something_to_hide(items) else "file"


def is_blind_order(order: OrderName, items: Iterable[Item]) -> bool:
    """Whether an order tells nothing of sources, scores and ranks."""
    return order in ("shuffle", "theme") or not has_something_to_hide(items)


def neutral(items: Sequence[Item], seed: int) -> list[Item]:
    """The items in an order that tells nothing: the file's own, unless that tells something."""
    return _shuffled(items, seed) if has_something_to_hide(items) else _in_file(items)


def arrange(items: Sequence[Item], order: OrderName, replay: Replay, seed: int) -> list[Slot]:
    """Put all items in the order asked for; poems of equal score keep the file's order."""
    if order == "active":
        return _active(neutral(items, seed), replay, random.Random(seed))
    if order == "shuffle":
        return [Slot(item) for item in _shuffled(items, seed)]
    if order == "theme":
        return [Slot(item) for item in _by_theme(neutral(items, seed))]
    return [Slot(item) for item in sorted(_in_file(items), key=_KEYS[order])]


def _in_file(items: Iterable[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.number)


def _shuffled(items: Iterable[Item], seed: int) -> list[Item]:
    """Shuffle by the poems' words: their places in the file may be ranks."""

    def key(item: Item) -> tuple[bytes, str]:
        words = f"{seed}\0{item.candidate.theme}\0{item.candidate.text}"
        return blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest(), item.id

    return sorted(items, key=key)


def _by_theme(items: Iterable[Item]) -> list[Item]:
    themes: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        themes[item.candidate.theme].append(item)
    return [item for group in themes.values() for item in group]


def _judged_score(item: Item) -> float:
    """Score, or rank where a file only has ranks."""
    if item.score is not None:
        return item.score
    return _UNKNOWN if item.rank is None else -float(item.rank)


def _disagreement(item: Item) -> float:
    return _UNKNOWN if item.disagreement is None else item.disagreement


_KEYS: Mapping[OrderName, Callable[[Item], float]] = MappingProxyType(
    {
        "file": lambda _: 0,
        "score": lambda item: -_judged_score(item),
        "disagreement": lambda item: -_disagreement(item),
    }
)


def _active(items: Sequence[Item], replay: Replay, rng: random.Random) -> list[Slot]:
    decided = [item for item in items if replay.verdict(item.id)]
    remaining = [item for item in items if not replay.verdict(item.id)]
    mixed = _mix(remaining, _promise(items, replay), rng)
    return [*(Slot(item) for item in decided), *_with_repeats(mixed, decided, replay, rng)]


def _mix(items: list[Item], promise: dict[str, float], rng: random.Random) -> list[Item]:
    """Take in turn from four rankings of the same items until all are taken."""
    middle = median(promise[item.id] for item in items) if items else 0.0
    likely = sorted(items, key=lambda item: promise[item.id], reverse=True)
    uncertain = sorted(items, key=lambda item: _certainty(item, promise[item.id] - middle))
    shuffled = rng.sample(items, len(items))
    unlike = _Unlike(items, rng)
    queues = {"likely": iter(likely), "uncertain": iter(uncertain), "random": iter(shuffled)}
    pattern = ("likely", "uncertain", "unlike") * 3 + ("random",)
    mixed: list[Item] = []
    taken: set[str] = set()
    while len(mixed) < len(items):
        kind = pattern[len(mixed) % len(pattern)]
        if kind == "unlike":
            item = unlike.take(mixed[-_UNLIKE_NEIGHBOURS:], taken)
        else:
            item = next(item for item in queues[kind] if item.id not in taken)
        taken.add(item.id)
        mixed.append(item)
    return mixed


def _certainty(item: Item, distance: float) -> tuple[float, float]:
    """Least where judges disagree most, then where the promise is middling."""
    return (-(item.disagreement or 0.0), abs(distance))


def _promise(items: Sequence[Item], replay: Replay) -> dict[str, float]:
    """The judges' word where there is one, else how often this source was accepted so far."""
    if any(_judged_score(item) != _UNKNOWN for item in items):
        floor = min(_judged_score(item) for item in items if _judged_score(item) != _UNKNOWN)
        return {item.id: max(_judged_score(item), floor) for item in items}
    accepted: dict[str, int] = defaultdict(int)
    decided: dict[str, int] = defaultdict(int)
    for item in items:
        verdict = replay.verdict(item.id)
        if verdict is not None and verdict.action != "skip":
            decided[item.source] += 1
            accepted[item.source] += verdict.action in ("accept", "edit")
    # One success and one failure are added: a source with two decisions is not at 0 or 1 yet.
    return {i.id: (accepted[i.source] + 1) / (decided[i.source] + 2) for i in items}


class _Unlike:
    """Hands out items that share few pairs of characters with those shown just before."""

    def __init__(self, items: Sequence[Item], rng: random.Random) -> None:
        self._pool = rng.sample(items, len(items))

    def take(self, neighbours: Sequence[Item], taken: set[str]) -> Item:
        self._drop_taken(taken)
        tried = self._pool[-_UNLIKE_TRIES:]
        around = [self._parts(item) for item in neighbours]
        return min(tried, key=lambda item: self._nearest(item, around))

    def _drop_taken(self, taken: set[str]) -> None:
        """Fill the end of the pool with items that are still to be had."""
        kept: list[Item] = []
        while self._pool and len(kept) < _UNLIKE_TRIES:
            item = self._pool.pop()
            if item.id not in taken:
                kept.append(item)
        self._pool.extend(reversed(kept))

    def _parts(self, item: Item) -> frozenset[str]:
        return _pairs_of(item.candidate.text)

    def _nearest(self, item: Item, around: Sequence[frozenset[str]]) -> float:
        own = self._parts(item)
        return max((len(own & other) / (len(own | other) or 1) for other in around), default=0.0)


@lru_cache(4 * _UNLIKE_TRIES)  # those around and those tried; all of a large file are too many
def _pairs_of(text: str) -> frozenset[str]:
    return shingles(normalise(text), 2)


def _with_repeats(
    mixed: Sequence[Item], decided: Sequence[Item], replay: Replay, rng: random.Random
) -> list[Slot]:
    """Show a decided poem again after every nineteen others."""
    again = [item for item in decided if _may_repeat(item, replay)]
    repeats = iter(rng.sample(again, len(again)))
    slots: list[Slot] = []
    for place, item in enumerate(mixed, start=1):
        slots.append(Slot(item))
        if place % (_REPEAT_EVERY - 1) == 0 and (repeated := next(repeats, None)) is not None:
            slots.append(Slot(repeated, repeat=True))
    return slots


def _may_repeat(item: Item, replay: Replay) -> bool:
    verdict = replay.verdict(item.id)
    return verdict is not None and verdict.action != "skip" and not verdict.repeat


_MAX_COMPARISONS = 3
"""Of one poem: more tell little that is new."""

Pair = tuple[Item, Item]


def next_pair(items: Sequence[Item], replay: Replay, rng: random.Random) -> Pair | None:
    """The next pair worth comparing, left and right by chance; None when all are compared."""
    compared = {frozenset((pair.left.id, pair.right.id)) for pair in replay.pairs()}
    times = Counter(poem for pair in compared for poem in pair)
    for group in _comparable(items, replay):
        pair = _least_compared(group, compared, times)
        if pair is not None:
            return pair if rng.random() < 0.5 else (pair[1], pair[0])
    return None


def _comparable(items: Sequence[Item], replay: Replay) -> list[list[Item]]:
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
