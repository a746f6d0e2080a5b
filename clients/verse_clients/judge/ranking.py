"""From judges' orders to a score, a rank and an interval, and which poems to compare next. Pure.

Strengths follow Plackett-Luce: of the poems that are left, the next best is drawn with odds
exp(strength). choix fits it (Maystre and Grossglauser 2015, I-LSR); an order of two poems is
Bradley-Terry. What the rubric says is added with a fixed weight: simulated with 60 poems, 60 orders
of five and a rubric that itself agrees with the truth at 0.62, it lifted the rank correlation with
the truth from 0.81 to 0.82.

Intervals come from a bootstrap over calls. Calls about the same poems, such as one asked in both
orders, are drawn together, for they are not independent. The rubric's own error is drawn as well.

A round of comparisons shows each poem once. In the first one the groups are drawn by lot. In later
ones each poem draws a strength from its own uncertainty, and neighbours in that draw meet: poems
whose intervals overlap, in ever new mixtures. Groups whose order is settled are left out. One batch
in ten is an earlier one in the reverse order: it tells how often the judge contradicts itself when
only the order changes. With batches of two, every pair is asked in both orders.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import pstdev
from typing import NamedTuple

import choix
import numpy as np
from numpy.typing import NDArray

from verse.records import RubricScores
from verse_clients.judge.ranked import Weights, mean_scores, total

MAX_CONTESTED = 2000
"""Poems that are compared, those nearest to the line: the fit has a matrix of so many squared."""
RUBRIC_WEIGHT = 0.5
"""Of one standard deviation of the totals, in logits."""
DRAWS = 200
_RUBRIC_ERROR = 0.75
"""Share of a total's spread that is taken for chance; judges and people agree at about 0.6."""
_PSEUDO_ORDERS = 0.6
"""Weight, shared among all poems, of the belief that they are equal; keeps strengths finite."""
_BOUNDS = (2.5, 97.5)

Floats = NDArray[np.float64]


Interval = tuple[float, float]
Batch = tuple[str, ...]
"""Ids in the order in which a judge sees them."""
_REVERSED_SHARE = 0.1
_SHUFFLES = 20
"""Tries for a new order; only few poems have so few."""


class Fit(NamedTuple):
    """What is known about the poems' order."""

    ids: tuple[str, ...]
    strengths: Floats
    """Logits, one a poem."""
    draws: Floats
    """The same from each bootstrap sample: (draws, poems)."""

    def intervals(self) -> list[tuple[float, float]]:
        """Where each strength lies with 95 % confidence."""
        low, high = np.percentile(self.draws, _BOUNDS, axis=0)
        return list(zip(low.tolist(), high.tolist(), strict=True))

    def ranks(self) -> list[int]:
        """Each poem's place, 1 for the strongest; ties go to the first."""
        return _ranks(self.strengths).tolist()

    def rank_intervals(self) -> list[tuple[int, int]]:
        """Where each rank lies with 95 % confidence; holds the rank itself."""
        drawn = np.stack([_ranks(draw) for draw in self.draws])
        low, high = np.percentile(drawn, _BOUNDS, axis=0)
        own = _ranks(self.strengths)
        lows = np.minimum(np.floor(low).astype(int), own)
        highs = np.maximum(np.ceil(high).astype(int), own)
        return list(zip(lows.tolist(), highs.tolist(), strict=True))


def fit(
    ids: Sequence[str],
    orders: Sequence[Sequence[str]],
    totals: Mapping[str, float] | None = None,
    *,
    num_draws: int = DRAWS,
    seed: int = 0,
) -> Fit:
    """Fit strengths to orders from best to worst.

    Args:
        ids: The poems.
        orders: What the judges said; at least one.
        totals: The rubric's word about each poem, in any unit; None for none.
        num_draws: Bootstrap samples.
        seed: Of the bootstrap.
    """
    place = {id_: number for number, id_ in enumerate(ids)}
    data = [tuple(place[id_] for id_ in order) for order in orders]
    prior = _prior(ids, totals)
    best = _strengths(len(ids), data)
    rng = random.Random(seed)
    draws = [
        _strengths(len(ids), _resampled(data, rng), best) + _with_error(prior, rng)
        for _ in range(num_draws)
    ]
    return Fit(tuple(ids), best + prior, np.stack(draws))


def num_groups(ids: Sequence[str], orders: Sequence[Sequence[str]]) -> int:
    """Into how many groups the poems fall that no comparison connects; 1 if all hang together."""
    group = {id_: {id_} for id_ in ids}
    for first, *others in orders:
        for other in others:
            if group[first] is not group[other]:
                group[first] |= group[other]
                group.update(dict.fromkeys(group[other], group[first]))
    return len({id(members) for members in group.values()})


def _strengths(
    num_poems: int, data: Sequence[tuple[int, ...]], start: Floats | None = None
) -> Floats:
    """Centred at 0. From a start near the end, one step is enough and much faster."""
    alpha = _PSEUDO_ORDERS / num_poems
    if start is not None:
        return choix.lsr_rankings(num_poems, data, alpha=alpha, initial_params=start)
    return choix.ilsr_rankings(num_poems, data, alpha=alpha, max_iter=1000, tol=1e-4)


def _resampled(data: Sequence[tuple[int, ...]], rng: random.Random) -> list[tuple[int, ...]]:
    clusters: dict[frozenset[int], list[tuple[int, ...]]] = defaultdict(list)
    for order in data:
        clusters[frozenset(order)].append(order)
    drawn = rng.choices(list(clusters.values()), k=len(clusters))
    return [order for cluster in drawn for order in cluster]


def _prior(ids: Sequence[str], totals: Mapping[str, float] | None) -> Floats:
    if totals is None:
        return np.zeros(len(ids))
    values = np.array([totals[id_] for id_ in ids], dtype=np.float64)
    spread = float(values.std())
    return RUBRIC_WEIGHT * (values - values.mean()) / spread if spread else np.zeros(len(ids))


def _with_error(prior: Floats, rng: random.Random) -> Floats:
    if not prior.any():
        return prior
    noise = np.array([rng.gauss(0.0, RUBRIC_WEIGHT * _RUBRIC_ERROR) for _ in prior])
    return prior + noise


def _ranks(strengths: Floats) -> NDArray[np.int64]:
    places = np.empty(len(strengths), dtype=np.int64)
    places[np.argsort(-strengths, kind="stable")] = np.arange(1, len(strengths) + 1)
    return places


class Rubric:
    """What the judges said about each poem by itself."""

    def __init__(self, weights: Weights) -> None:
        """Know nothing yet."""
        self.weights = weights
        self._scores: dict[str, dict[str, RubricScores]] = {}
        self._computed: dict[str, float] = {}

    def add(self, judge: str, poem: str, scores: RubricScores) -> None:
        """Take in one judge's scores for one poem."""
        self._scores.setdefault(poem, {})[judge] = scores

    def add_total(self, poem: str, total_: float) -> None:
        """Take in a total that was computed, 0 to 5; it counts like one judge's."""
        self._computed[poem] = total_

    def by_judge(self, poem: str) -> dict[str, RubricScores]:
        """The scores of all judges that gave some."""
        return self._scores.get(poem, {})

    def totals(self) -> dict[str, float]:
        """The mean total of each poem that any judge scored."""
        return {poem: self.total(poem) for poem in {**self._scores, **self._computed}}

    def total(self, poem: str) -> float:
        """The mean total of a poem that some judge scored."""
        asked = self.by_judge(poem)
        mean = total(mean_scores(asked.values()), self.weights) if asked else 0.0
        if poem not in self._computed:
            return mean
        return (mean * len(asked) + self._computed[poem]) / (len(asked) + 1)

    def disagreement(self, poem: str) -> float | None:
        """Standard deviation of the judges' totals; None for fewer than two."""
        totals = [total(scores, self.weights) for scores in self.by_judge(poem).values()]
        totals += [self._computed[poem]] if poem in self._computed else []
        return pstdev(totals) if len(totals) > 1 else None

    def commonest(self) -> dict[str, tuple[int, int]]:
        """How many poems got the scores that each judge gave most often, and of how many."""
        given: defaultdict[str, Counter[RubricScores]] = defaultdict(Counter)
        for by_judge in self._scores.values():
            for judge, scores in by_judge.items():
                given[judge][scores] += 1
        return {judge: (max(each.values()), each.total()) for judge, each in given.items()}


class RankedPosition(NamedTuple):
    """Where a poem stands."""

    rank: int
    score: float
    interval: tuple[int, int] | None = None
    strength: float | None = None


def positions(totals: Mapping[str, float], fitted: Fit | None) -> dict[str, RankedPosition]:
    """Where each poem stands that has a total.

    Poems that were compared stand in the order of their strengths, where their totals put them as a
    group; they share out the group's totals as scores. The others keep the order of their totals.
    """
    by_total = sorted(totals, key=lambda id_: -totals[id_])  # ties stay in the order of the files
    found = {id_: RankedPosition(rank, totals[id_]) for rank, id_ in enumerate(by_total, 1)}
    if fitted is None:
        return found
    compared = set(fitted.ids)
    group = [id_ for id_ in by_total if id_ in compared]
    ahead = sum(id_ not in compared and totals[id_] > totals[group[0]] for id_ in by_total)
    rows = zip(fitted.ids, fitted.ranks(), fitted.strengths, fitted.rank_intervals(), strict=True)
    for id_, rank, strength, (low, high) in rows:
        score = totals[group[rank - 1]]
        interval = (ahead + low, ahead + high)
        found[id_] = RankedPosition(ahead + rank, score, interval, float(strength))
    return found


def with_intervals(
    found: Mapping[str, RankedPosition], intervals: Mapping[str, tuple[int, int]]
) -> dict[str, RankedPosition]:
    """Positions, with intervals for the poems that were not compared and have one."""
    return {
        id_: position._replace(interval=position.interval or intervals.get(id_))
        for id_, position in found.items()
    }


def fit_contested(
    contested: Sequence[str],
    orders: Sequence[Sequence[str]],
    totals: Mapping[str, float],
    *,
    num_draws: int,
) -> Fit | None:
    """Fit the contested poems; None if no order is known."""
    if not orders:
        return None
    near = {id_: totals[id_] for id_ in contested}
    return fit(contested, orders, near, num_draws=num_draws)


def num_comparisons(orders: Sequence[Sequence[str]]) -> Counter[str]:
    """In how many orders each poem is."""
    return Counter(id_ for order in orders for id_ in order)


def contested_poems(totals: Mapping[str, float], keep: float, margin: float) -> list[str]:
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
    if len(near) > MAX_CONTESTED:
        nearest = sorted(near, key=lambda id_: abs(totals[id_] - line))[:MAX_CONTESTED]
        kept = set(nearest)
        near = [id_ for id_ in near if id_ in kept]
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
