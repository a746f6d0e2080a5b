"""How far judges agree with this poet, with each other and with themselves. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import median

import msgspec

from verse.records import JournalEntry
from verse_clients.decisions.journal import Replay, is_blind, last_comparisons
from verse_clients.judge.metrics import (
    FINAL,
    Consistency,
    Number,
    Rate,
    Scorer,
    blind_verdicts,
    consistency,
    fit_for_agreement,
    length_of,
    plain_kappa,
    scorers,
    spearman,
    total_of,
    totals,
)
from verse_clients.judge.ranked import Ranked, RankedPoem

ENOUGH = 50
"""Decisions; with fewer, an AUC of 0.75 has a standard error of more than 0.07."""


class JudgeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one judge is like, whatever the poet thinks."""

    name: str
    consistency: Consistency
    length: float | None
    """Spearman's correlation of its totals with the poems' lengths."""


class Between(msgspec.Struct, frozen=True, kw_only=True):
    """How far two judges agree."""

    one: str
    other: str
    num_poems: int
    spearman: float | None
    """Of their totals."""
    kappa: float
    """Of "above the judge's own median"."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report; no scorers if the poet did not both take and reject."""

    num_decisions: int
    """That count."""
    num_taken: int
    num_not_blind: int
    """Poems decided with their source or score in view only."""
    num_used: int
    """Poems decided blind that the judging itself used."""
    num_elsewhere: int
    """Poems decided blind that the ranking does not know or has no score for."""
    filtered_taken: Rate
    """Of the poems the filters left out and the poet decided: those the poet took."""
    scorers: tuple[Scorer, ...] = ()
    judges: tuple[JudgeFigures, ...] = ()
    between: tuple[Between, ...] = ()
    pairs: Rate
    """Of the poems the poet compared side by side: where the ranking says the same."""
    length: float | None
    """Spearman's correlation of the ranking with the poems' lengths."""
    verdict: str
    taste: str

    def scorer(self, name: str) -> Scorer | None:
        """A scorer by its name."""
        return next((scorer for scorer in self.scorers if scorer.name == name), None)


def make_report(ranked: Ranked, entries: Iterable[JournalEntry]) -> Report:
    """Hold a ranking against the poet's decisions."""
    replay = Replay(entries)
    verdicts = blind_verdicts(replay)
    poems = fit_for_agreement(ranked, verdicts)
    taken = [verdicts.taken[poem.candidate.id] for poem in poems]
    filtered = [
        verdicts.taken[poem.candidate.id]
        for poem in ranked.poems
        if poem.filtered and poem.candidate.id in verdicts.taken
    ]
    used = [p for p in ranked.poems if p.seen is not None and p.candidate.id in verdicts.taken]
    found = scorers(ranked, poems, taken)
    return Report(
        num_decisions=len(poems),
        num_taken=sum(taken),
        num_not_blind=len(verdicts.not_blind),
        num_used=len(used),
        num_elsewhere=len(verdicts.taken) - len(poems) - len(filtered) - len(used),
        filtered_taken=Rate(sum(filtered), len(filtered)),
        scorers=found,
        judges=tuple(_figures(ranked, judge.name) for judge in ranked.judges),
        between=tuple(_between(ranked)),
        pairs=_pairs(ranked, replay),
        length=_length_correlation(ranked.poems, lambda poem: poem.score),
        verdict=_verdict(found, len(poems)),
        taste=_taste(found, len(poems)),
    )


def _figures(ranked: Ranked, judge: str) -> JudgeFigures:
    return JudgeFigures(
        name=judge,
        consistency=consistency(ranked.comparisons, judge),
        length=_length_correlation(ranked.poems, total_of(ranked, judge)),
    )


def _length_correlation(poems: Iterable[RankedPoem], number: Number) -> float | None:
    rows = [(value, length_of(p)) for p in poems if (value := number(p)) is not None]
    return spearman([value for value, _ in rows], [length for _, length in rows])


def _between(ranked: Ranked) -> Iterable[Between]:
    for one, other in combinations(totals(ranked).items(), 2):
        both = ((one[1](poem), other[1](poem)) for poem in ranked.poems)
        rows = [(a, b) for a, b in both if a is not None and b is not None]
        if rows:
            firsts, seconds = [a for a, _ in rows], [b for _, b in rows]
            yield Between(
                one=one[0],
                other=other[0],
                num_poems=len(rows),
                spearman=spearman(firsts, seconds),
                kappa=plain_kappa(_above_median(firsts), _above_median(seconds)),
            )


def _above_median(values: Sequence[float]) -> list[bool]:
    middle = median(values)
    return [value > middle for value in values]


def _pairs(ranked: Ranked, replay: Replay) -> Rate:
    ranks: Mapping[str, int] = {
        poem.candidate.id: poem.rank for poem in ranked.poems if poem.rank and poem.seen is None
    }
    same = [
        (ranks[pair.left.id] < ranks[pair.right.id]) == (pair.verdict == "left")
        for pair in last_comparisons(pair for pair in replay.pairs() if is_blind(pair))
        if pair.verdict in ("left", "right")
        if pair.left.id in ranks and pair.right.id in ranks
    ]
    return Rate(sum(same), len(same))


def _verdict(all_: Sequence[Scorer], number: int) -> str:
    found = {scorer.name: scorer.auc for scorer in all_}
    final = found.get(FINAL)
    if final is None:
        return "No verdict: the poet has to take some poems of this ranking and reject others."
    if number < ENOUGH:
        return f"Not enough decisions: {number} of {ENOUGH}; the figures can be chance."
    if final.low <= 0.5 <= final.high:
        return f"Ignore this judge: its agreement with the poet, {final}, can be chance (0.5)."
    if final.high < 0.5:
        return f"The poet takes what this judge puts last: AUC {final}."
    longest = max(found["longest"].value, found["shortest"].value)
    if final.value <= longest:
        return f"Counting characters ({longest:.2f}) tells the poet's taste as well: {final}."
    return f"This judge agrees with the poet: AUC {final}; 0.5 is chance, 1 is perfect."


def _taste(all_: Sequence[Scorer], number: int) -> str:
    criteria = [scorer for scorer in all_ if scorer.kind == "criterion"]
    if not criteria or number < ENOUGH:
        return "Which criterion tells this poet's taste is not known yet."
    best = max(criteria, key=lambda scorer: scorer.auc.value)
    if best.auc.low <= 0.5:
        return "No single criterion tells this poet's taste."
    return f"What tells this poet's taste best is {best.name}: AUC {best.auc}."
