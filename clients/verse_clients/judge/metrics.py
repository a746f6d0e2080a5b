"""How well numbers stand for this poet's verdicts, and whether a judge means what it says. Pure.

Only decisions made blind count: one made with the score in view says how well the poet reads
numbers. A poem that was an example for the judge, or taught it its weights, does not count either.
A bootstrap draws poems, the taken and the rejected apart, so that no sample lacks either.

A judge that reads picks the first of five shuffled poems in a fifth of the calls, and says the same
about two poems whichever stands first.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, cast

import msgspec
import numpy as np
import scipy.stats
from numpy.typing import NDArray

from verse.records import Decision
from verse.replay import Replay, is_blind
from verse.similarity import normalise
from verse_clients.judge.ranked import (
    CRITERIA,
    LIKELIHOOD,
    MEASURES,
    Comparison,
    Interval,
    Ranked,
    RankedPoem,
    total,
)

_stats = cast(Any, scipy.stats)  # has no types

DRAWS = 1000
NUM_FOLDS = 5
_BOUNDS = (2.5, 97.5)
_SEED = 0

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


_MUCH = 1.5
"""Times chance from which picking the first is worth a warning."""
_ENOUGH_CALLS = 10
FINAL = "ranking"
"""Name of the scorer that is the ranking itself."""
_FEWEST_OF_A_KIND = 2
Kind = Literal["judge", "criterion", "baseline"]
Number = Callable[[RankedPoem], float | None]


class Estimate(NamedTuple):
    """A figure, and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def auc(scores: Floats, taken: Flags) -> Estimate:
    """ROC-AUC: the chance that a poem the poet took has the higher score; ties count half.

    Args:
        scores: One a poem.
        taken: Whether the poet took it; some of each.
    """
    positive, negative = scores[taken], scores[~taken]
    rng = np.random.default_rng(_SEED)
    drawn = _auc(_samples(positive, rng), _samples(negative, rng))
    return _estimate(float(_auc(positive, negative)), drawn)


def kappa(scores: Floats, taken: Flags) -> Estimate:
    """Cohen's kappa of "the score is above the line" with the poet's verdicts.

    The line of each fold is the best of the other folds, so no poem helps to draw its own.
    """
    said = np.zeros(len(scores), dtype=np.bool_)
    for fold in folds(taken):
        line = _best_line(scores[~fold], taken[~fold])
        said[fold] = scores[fold] >= line
    rng = np.random.default_rng(_SEED)
    yes, no = np.flatnonzero(taken), np.flatnonzero(~taken)
    drawn = np.array(
        [
            _kappa(said[chosen], taken[chosen])
            for chosen in np.concatenate([_samples(yes, rng), _samples(no, rng)], axis=1)
        ]
    )
    return _estimate(_kappa(said, taken), drawn)


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Rank correlation; None for fewer than three, or where one never changes."""
    if len(one) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(_stats.spearmanr(one, other).statistic)


def plain_kappa(one: Sequence[bool], other: Sequence[bool]) -> float:
    """Cohen's kappa of two judges' verdicts."""
    return _kappa(np.array(one, dtype=np.bool_), np.array(other, dtype=np.bool_))


def folds(taken: Flags, seed: int = _SEED) -> list[Flags]:
    """Five parts, with the poet's verdicts spread evenly; each as a mask."""
    rng = np.random.default_rng(seed)
    number = np.empty(len(taken), dtype=np.int64)
    for members in (np.flatnonzero(taken), np.flatnonzero(~taken)):
        number[rng.permutation(members)] = np.arange(len(members)) % NUM_FOLDS
    return [number == fold for fold in range(NUM_FOLDS) if (number == fold).any()]


def auc_gain(before: Floats, after: Floats, taken: Flags) -> Estimate:
    """How much larger the AUC of one score is than another's, over the same samples."""
    rng = np.random.default_rng(_SEED)
    yes, no = _samples(np.flatnonzero(taken), rng), _samples(np.flatnonzero(~taken), rng)
    drawn = _auc(after[yes], after[no]) - _auc(before[yes], before[no])
    value = _auc(after[taken], after[~taken]) - _auc(before[taken], before[~taken])
    return _estimate(float(value), drawn)


def _auc(positive: Floats, negative: Floats) -> Any:
    """By Mann and Whitney's U; the last axis holds the poems."""
    with np.errstate(all="ignore"):  # the p-value, not used here, fails where all scores are equal
        u = _stats.mannwhitneyu(positive, negative, axis=-1, method="asymptotic").statistic
    return u / (positive.shape[-1] * negative.shape[-1])


def _kappa(one: Flags, other: Flags) -> float:
    """0 where chance explains everything (Cohen 1960)."""
    agreed = float((one == other).mean())
    p, q = float(one.mean()), float(other.mean())
    by_chance = p * q + (1 - p) * (1 - q)
    return 0.0 if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)


def _best_line(scores: Floats, taken: Flags) -> float:
    lines = np.unique(scores)
    return float(max(lines, key=lambda line: _kappa(scores >= line, taken)))


def _samples(values: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    return values[rng.integers(len(values), size=(DRAWS, len(values)))]


def _estimate(value: float, drawn: Floats) -> Estimate:
    low, high = np.percentile(drawn, _BOUNDS)
    return Estimate(value, float(low), float(high))


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


class Scorer(msgspec.Struct, frozen=True, kw_only=True):
    """One number that could stand for the poet's verdict, and how well it does."""

    name: str
    kind: Kind
    auc: Estimate
    kappa: Estimate


class Verdicts(msgspec.Struct, frozen=True):
    """What the poet decided without seeing where a poem comes from."""

    taken: dict[str, bool]
    """By candidate, in the order of the journal; the last blind verdict counts."""
    not_blind: frozenset[str]
    """Candidates decided otherwise only."""


def blind_verdicts(replay: Replay) -> Verdicts:
    """All verdicts of a journal that can be held against a judge."""
    taken: dict[str, bool] = {}
    others: set[str] = set()
    for entry in replay.in_effect():
        if isinstance(entry, Decision) and entry.action in ("accept", "edit", "reject"):
            if is_blind(entry):
                taken[entry.candidate.id] = entry.action != "reject"
            else:
                others.add(entry.candidate.id)
    return Verdicts(taken, frozenset(others - taken.keys()))


def fit_for_agreement(ranked: Ranked, verdicts: Verdicts) -> list[RankedPoem]:
    """Poems with a score and a blind verdict that the judging did not use."""
    return [
        poem
        for poem in ranked.poems
        if poem.candidate.id in verdicts.taken and poem.score is not None and poem.seen is None
    ]


def length_of(poem: RankedPoem) -> int:
    """Characters, without punctuation and spaces."""
    return len(normalise(poem.candidate.text))


def scorers(
    ranked: Ranked, poems: Sequence[RankedPoem], taken: Sequence[bool]
) -> tuple[Scorer, ...]:
    """All numbers that could stand for the verdicts; none if the poet did not do both."""
    if min(sum(taken), len(taken) - sum(taken)) < _FEWEST_OF_A_KIND:
        return ()
    rng = random.Random(0)
    dice = {poem.candidate.id: rng.random() for poem in ranked.poems}
    numbers: dict[tuple[str, Kind], Number] = {
        (FINAL, "judge"): lambda poem: poem.score,
        ("rubric total", "judge"): lambda poem: poem.total if poem.rubric else None,
        **{(name, "judge"): number for name, number in totals(ranked).items()},
        **{(name, "criterion"): _criterion(name) for name in CRITERIA},
        **{(f"{LIKELIHOOD} {name}", "criterion"): _measure(name) for name in MEASURES},
        ("longest", "baseline"): length_of,
        ("shortest", "baseline"): lambda poem: -length_of(poem),
        ("random", "baseline"): lambda poem: dice[poem.candidate.id],
    }
    made = (_scorer(name, kind, number, poems, taken) for (name, kind), number in numbers.items())
    return tuple(scorer for scorer in made if scorer is not None)


def _scorer(
    name: str,
    kind: Kind,
    number: Number,
    poems: Sequence[RankedPoem],
    taken: Sequence[bool],
) -> Scorer | None:
    rows = [(value, took) for poem, took in zip(poems, taken, strict=True)
            if (value := number(poem)) is not None]  # fmt: skip
    scores = np.array([value for value, _ in rows], dtype=np.float64)
    flags = np.array([took for _, took in rows], dtype=np.bool_)
    if min(flags.sum(), (~flags).sum()) < _FEWEST_OF_A_KIND:
        return None
    return Scorer(name=name, kind=kind, auc=auc(scores, flags), kappa=kappa(scores, flags))


def totals(ranked: Ranked) -> dict[str, Number]:
    """Each judge's total, where there are several judges."""
    if len(ranked.judges) < 2:
        return {}
    return {judge.name: total_of(ranked, judge.name) for judge in ranked.judges}


def total_of(ranked: Ranked, judge: str) -> Number:
    """One judge's total by the ranking's weights."""
    if judge == LIKELIHOOD:
        return lambda poem: poem.likelihood.total if poem.likelihood else None

    def number(poem: RankedPoem) -> float | None:
        scores = poem.by_judge.get(judge)
        return None if scores is None else total(scores, ranked.weights)

    return number


def _criterion(name: str) -> Number:
    return lambda poem: None if poem.rubric is None else float(getattr(poem.rubric, name))


def _measure(name: str) -> Number:
    def number(poem: RankedPoem) -> float | None:
        found: Interval | None = getattr(poem.likelihood, name) if poem.likelihood else None
        return None if found is None else found[0]

    return number
