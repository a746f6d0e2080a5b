"""Which poems a judge should order next, and in which order it gets to see them. Pure.

A round shows each poem once. In the first one the groups are drawn by lot. In later ones each poem
draws a strength from its own uncertainty, and neighbours in that draw meet: poems whose intervals
overlap, in ever new mixtures. Groups whose order is settled are left out.

One batch in ten is an earlier one in the reverse order. It tells how often the judge contradicts
itself when only the order changes. With batches of two, every pair is asked in both orders.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise

Interval = tuple[float, float]
Batch = tuple[str, ...]
"""Ids in the order in which a judge sees them."""

_REVERSED_SHARE = 0.1
_SHUFFLES = 20
"""Tries for a new order; only few poems have so few."""


def contested(totals: Mapping[str, float], keep: float, margin: float) -> list[str]:
    """Poems near the line between those to keep and the others, in the order of the totals.

    Args:
        totals: The rubric's word about each poem, 0 to 5.
        keep: The share that lies above the line, 0 to 1.
        margin: How far from the line a total may be, in points.
    """
    if not totals:
        return []
    ordered = sorted(totals, key=lambda id_: -totals[id_])
    line = totals[ordered[min(round(keep * len(ordered)), len(ordered) - 1)]]
    near = [id_ for id_ in ordered if abs(totals[id_] - line) <= margin]
    return near if len(near) > 1 else []


def first_round(ids: Sequence[str], size: int, rng: random.Random) -> list[Batch]:
    """Groups by lot; each poem is in one."""
    return _unseen(_groups(rng.sample(list(ids), len(ids)), size), size, set(), rng)


def next_round(
    intervals: Mapping[str, Interval],
    earlier: Sequence[Batch],
    size: int,
    rng: random.Random,
) -> list[Batch]:
    """Groups of poems that may change places; empty when all is settled or was asked.

    Args:
        intervals: Of each poem's strength.
        earlier: What this judge has seen already; it sees nothing twice.
        size: Poems in a batch.
        rng: Where chance comes from.
    """
    seen = set(earlier)
    drawn = {id_: rng.uniform(low, high) for id_, (low, high) in intervals.items()}
    groups = _groups(sorted(drawn, key=lambda id_: drawn[id_]), size)
    open_ = [group for group in groups if _may_change(group, intervals)]
    batches = _unseen(open_, size, seen, rng)
    if size > 2 and batches:
        turned = [batch[::-1] for batch in earlier if batch[::-1] not in seen | set(batches)]
        again = rng.sample(turned, min(_num_reversed(len(batches)), len(turned)))
        rng.shuffle(batches)
        batches[: len(again)] = again
    return batches


def num_batches(num_poems: int, size: int) -> int:
    """How many calls a round takes at most."""
    groups = -(-num_poems // size) if num_poems > 1 else 0
    return 2 * groups if size == 2 else groups


def _groups(ids: Sequence[str], size: int) -> list[Sequence[str]]:
    """Neighbours together, in groups as equal as can be, none of them of one."""
    number = max(1, min(-(-len(ids) // size), len(ids) // 2))
    bounds = [place * len(ids) // number for place in range(number + 1)]
    return [ids[low:high] for low, high in pairwise(bounds)]


def _unseen(
    groups: Sequence[Sequence[str]], size: int, seen: set[Batch], rng: random.Random
) -> list[Batch]:
    """Each group in an order that was not shown before; pairs in both orders."""
    batches: list[Batch] = []
    for group in groups:
        tries = (tuple(rng.sample(list(group), len(group))) for _ in range(_SHUFFLES))
        order = next((order for order in tries if len(order) > 1 and order not in seen), None)
        if order is not None:
            batches.append(order)
            if size == 2 and order[::-1] not in seen:
                batches.append(order[::-1])
    return batches


def _may_change(group: Sequence[str], intervals: Mapping[str, Interval]) -> bool:
    """Whether the intervals of any two overlap."""
    ordered = sorted(intervals[id_] for id_ in group)
    return any(one[1] > other[0] for one, other in pairwise(ordered))


def _num_reversed(num_batches_: int) -> int:
    return max(1, round(_REVERSED_SHARE * num_batches_))
