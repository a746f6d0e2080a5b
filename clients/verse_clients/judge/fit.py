"""Strengths of poems from the orders that judges gave them, with intervals.

Plackett-Luce: of the poems that are left, the next best is drawn with odds exp(strength). choix
fits it (Maystre and Grossglauser 2015, I-LSR); an order of two poems is Bradley-Terry. What the
rubric says is added with a fixed weight: simulated with 60 poems, 60 orders of five and a rubric
that itself agrees with the truth at 0.62, it lifted the rank correlation with the truth from 0.81
to 0.82.

Intervals come from a bootstrap over calls. Calls about the same poems, such as one asked in both
orders, are drawn together, for they are not independent. The rubric's own error is drawn as well.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import choix
import numpy as np
from numpy.typing import NDArray

RUBRIC_WEIGHT = 0.5
"""Of one standard deviation of the totals, in logits."""
DRAWS = 200
_RUBRIC_ERROR = 0.75
"""Share of a total's spread that is taken for chance; judges and people agree at about 0.6."""
_PSEUDO_ORDERS = 0.6
"""Weight, shared among all poems, of the belief that they are equal; keeps strengths finite."""
_BOUNDS = (2.5, 97.5)

Floats = NDArray[np.float64]


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
