"""How well numbers about poems stand for this poet's verdicts, beside trivial numbers. Pure.

Only decisions made blind count: one made with the score in view says how well the poet reads
numbers. A poem that was an example for the judge, or taught it its weights, does not count either.
"""

import random
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np

from verse.records import Decision
from verse.similarity import normalise
from verse_clients.decisions.journal import Replay, is_blind
from verse_clients.judge.criteria import CRITERIA, total
from verse_clients.judge.figures import Estimate, auc, kappa
from verse_clients.judge.ranked import Ranked, RankedPoem

FINAL = "ranking"
"""Name of the scorer that is the ranking itself."""
_FEWEST_OF_A_KIND = 2

Kind = Literal["judge", "criterion", "baseline"]
Number = Callable[[RankedPoem], float | None]


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
    for entry in replay.standing():
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
        ("rubric total", "judge"): lambda poem: poem.total,
        **{(name, "judge"): number for name, number in totals(ranked).items()},
        **{(name, "criterion"): _criterion(name) for name in CRITERIA},
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

    def number(poem: RankedPoem) -> float | None:
        scores = poem.by_judge.get(judge)
        return None if scores is None else total(scores, ranked.weights)

    return number


def _criterion(name: str) -> Number:
    return lambda poem: None if poem.rubric is None else float(getattr(poem.rubric, name))
