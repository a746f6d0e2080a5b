"""Everything together: from what the judges said to a score, a rank and an interval. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import pstdev
from typing import NamedTuple

from verse.records import RubricScores
from verse_clients.judge.criteria import Weights, mean_scores, total
from verse_clients.judge.fit import Fit, fit


class Rubric:
    """What the judges said about each poem by itself."""

    def __init__(self, weights: Weights) -> None:
        """Know nothing yet."""
        self.weights = weights
        self._scores: dict[str, dict[str, RubricScores]] = {}

    def add(self, judge: str, poem: str, scores: RubricScores) -> None:
        """Take in one judge's scores for one poem."""
        self._scores.setdefault(poem, {})[judge] = scores

    def by_judge(self, poem: str) -> dict[str, RubricScores]:
        """The scores of all judges that gave some."""
        return self._scores.get(poem, {})

    def totals(self) -> dict[str, float]:
        """The mean total of each poem that any judge scored."""
        return {poem: self.total(poem) for poem in self._scores}

    def total(self, poem: str) -> float:
        """The mean total of a poem that some judge scored."""
        return total(mean_scores(self._scores[poem].values()), self.weights)

    def disagreement(self, poem: str) -> float | None:
        """Standard deviation of the judges' totals; None for fewer than two."""
        totals = [total(scores, self.weights) for scores in self.by_judge(poem).values()]
        return pstdev(totals) if len(totals) > 1 else None


class Place(NamedTuple):
    """Where a poem stands."""

    rank: int
    score: float
    interval: tuple[int, int] | None = None
    strength: float | None = None


def places(totals: Mapping[str, float], fitted: Fit | None) -> dict[str, Place]:
    """Where each poem stands that has a total.

    Poems that were compared stand in the order of their strengths, where their totals put them as a
    group; they share out the group's totals as scores. The others keep the order of their totals.
    """
    by_total = sorted(totals, key=lambda id_: -totals[id_])  # ties stay in the order of the files
    standing = {id_: Place(rank, totals[id_]) for rank, id_ in enumerate(by_total, 1)}
    if fitted is None:
        return standing
    compared = set(fitted.ids)
    group = [id_ for id_ in by_total if id_ in compared]
    ahead = sum(id_ not in compared and totals[id_] > totals[group[0]] for id_ in by_total)
    rows = zip(fitted.ids, fitted.ranks(), fitted.strengths, fitted.rank_intervals(), strict=True)
    for id_, rank, strength, (low, high) in rows:
        score = totals[group[rank - 1]]
        interval = (ahead + low, ahead + high)
        standing[id_] = Place(ahead + rank, score, interval, float(strength))
    return standing


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
