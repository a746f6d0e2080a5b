"""All figures of a report: tallies, which checkpoint is best, measures, warnings; pure.

A checkpoint is judged by decisions made blind: who sees the source decides about it too.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from verse.records import Decision, PairDecision
from verse.replay import Replay, is_blind, last_comparisons
from verse_clients.decisions.tallies import AcceptanceTally, overall, tallies, wilson
from verse_clients.measures import Measures, ReferenceSet, equal_samples
from verse_clients.report.gather import Round

MIN_DECISIONS = 10
"""Of one checkpoint, before it can be called anything."""


class Duel(NamedTuple):
    """How a checkpoint fared side by side with others."""

    name: str
    won: int
    lost: int
    tied: int

    @property
    def interval(self) -> tuple[float, float]:
        """Where its share of the decided comparisons lies with 95 % confidence."""
        return wilson(self.won, self.won + self.lost)


class BlindVerdict(NamedTuple):
    """What the blind decisions say."""

    sentence: str
    """In plain words."""
    tallies: list[AcceptanceTally]
    """By checkpoint, the highest share first; blind decisions alone."""
    duels: list[Duel]
    """By checkpoint, the most wins first; blind comparisons between different ones."""


def verdict(decisions: Iterable[Decision], pairs: Iterable[PairDecision]) -> BlindVerdict:
    """Weigh the decisions that stand; those that were not blind count for nothing here."""
    blind = [decision for decision in decisions if is_blind(decision)]
    found = tallies(blind, lambda decision: decision.candidate.model)
    ranked = sorted(found, key=lambda tally: (-tally.share, -tally.decided, tally.name))
    return BlindVerdict(_sentence(ranked), ranked, duels(pair for pair in pairs if is_blind(pair)))


def duels(pairs: Iterable[PairDecision]) -> list[Duel]:
    """Wins and losses by checkpoint, of pairs that are of two checkpoints."""
    won: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    tied: Counter[str] = Counter()
    for pair in pairs:
        left, right = pair.left.model, pair.right.model
        if left == right:
            continue
        if pair.verdict in ("left", "right"):
            winner, loser = (left, right) if pair.verdict == "left" else (right, left)
            won[winner] += 1
            lost[loser] += 1
        else:
            tied.update((left, right))
    names = sorted({*won, *lost, *tied}, key=lambda name: (-won[name], lost[name], name))
    return [Duel(name, won[name], lost[name], tied[name]) for name in names]


def percent_interval(interval: tuple[float, float]) -> str:
    """`34-48 %`."""
    return f"{100 * interval[0]:.0f}-{100 * interval[1]:.0f} %"


def _sentence(ranked: Sequence[AcceptanceTally]) -> str:
    if not ranked:
        return (
            "No decision was made blind, so nothing can be said about checkpoints; decisions of "
            "journals that do not record the order shown do not count as blind."
        )
    known = [tally for tally in ranked if tally.decided >= MIN_DECISIONS]
    if not known:
        return f"No checkpoint has {MIN_DECISIONS} blind decisions yet; read more."
    best, *rest = known
    facts = (
        f"{best.share:.0%} ({percent_interval(best.interval)}) of its {best.decided} poems "
        "were accepted"
    )
    if not rest:
        return f"Only {best.name} was read blind often enough: {facts}."
    rivals = [tally.name for tally in rest if tally.interval[1] >= best.interval[0]]
    if rivals:
        return f"{best.name} leads, but {', '.join(rivals)} may be as good: {facts}."
    return f"{best.name} is the best: {facts}, and no other's interval reaches that far."


_MIN_POEMS = 20
"""Fewer say nothing about diversity."""
_FALL = 0.1
"""Of its value before, from which a fall is reported."""
_RISE = 0.02
"""In copies or repeated first lines, from which a rise is reported; 0 to 1."""
_FEWEST = 2
"""Poems that a rise must be of: one more may be chance."""


class RoundFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One round."""

    name: str
    tally: AcceptanceTally
    num_written: int
    measures: Measures | None
    """Of as many poems as the smallest round has; None where there are too few."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """All rounds."""

    overall: AcceptanceTally
    by: dict[str, list[AcceptanceTally]]
    """Adapter, checkpoint, theme and variant, each with its tallies."""
    verdict: BlindVerdict
    rounds: list[RoundFigures]
    sample_size: int
    """Poems of each round that `measures` are of."""
    warnings: list[str]


GROUPS: dict[str, Callable[[Decision], str]] = {
    "adapter": lambda decision: decision.candidate.adapter or "base",
    "checkpoint": lambda decision: decision.candidate.model,
    "theme": lambda decision: decision.candidate.theme,
    "variant": lambda decision: decision.candidate.variant or "the theme alone",
}


def figures(rounds: Sequence[Round]) -> Figures:
    """Work out a report from its rounds, the oldest first."""
    entries = [entry for one in rounds for entry in one.entries]
    decided = list(Replay(entries).verdicts())
    blind = [entry for entry in entries if is_blind(entry)]
    sizes = [len(one.written) for one in rounds if len(one.written) >= _MIN_POEMS]
    measured = _measured(rounds)
    found = [
        RoundFigures(
            name=one.name,
            tally=overall(Replay(one.entries).verdicts()),
            num_written=len(one.written),
            measures=measured.get(number),
        )
        for number, one in enumerate(rounds)
    ]
    return Figures(
        overall=overall(decided),
        by={group: tallies(decided, name) for group, name in GROUPS.items()},
        # The last word that was blind: one that was not says nothing, and takes nothing back.
        verdict=verdict(Replay(blind).verdicts(), last_comparisons(Replay(blind).pairs())),
        rounds=found,
        sample_size=min(sizes, default=0),
        warnings=warnings(found),
    )


def warnings(rounds: Sequence[RoundFigures]) -> list[str]:
    """What became worse from one round to the next, and from the first to the last.

    Many small steps down make a large one.
    """
    found: list[str] = []
    known = [(one.name, one.measures) for one in rounds if one.measures is not None]
    ends = [(known[0], known[-1])] if len(known) > 2 else []
    for (before_name, before), (name, now) in (*pairwise(known), *ends):
        worse = _worse(before, now)
        found += [f"Round {name} beside {before_name}: {problem}." for problem in worse]
    return found


def _measured(rounds: Sequence[Round]) -> dict[int, Measures]:
    """By a round's place: names may be the same twice."""
    texts = {
        str(number): list(one.written)
        for number, one in enumerate(rounds)
        if len(one.written) >= _MIN_POEMS
    }
    return {
        int(number): ReferenceSet(rounds[int(number)].training).measure(sample)
        for number, sample in equal_samples(texts).items()
    }


def _worse(before: Measures, now: Measures) -> list[str]:
    found: list[str] = []
    old, new = before.diversity, now.diversity
    if _fell(old.distinct_3, new.distinct_3):
        found.append(
            f"the poems are less varied (distinct-3 {old.distinct_3:.3f} -> {new.distinct_3:.3f})"
        )
    if _rose(old.commonest_first_line_share, new.commonest_first_line_share, new.num_poems):
        found.append(
            f"{new.commonest_first_line_share:.0%} of the poems begin with "
            f"《{new.commonest_first_line}》, {old.commonest_first_line_share:.0%} had the same "
            "first line before"
        )
    if _rose(before.copy_rate, now.copy_rate, new.num_poems):
        found.append(f"more poems copy the poet's ({before.copy_rate:.0%} -> {now.copy_rate:.0%})")
    if _fell(before.similarity, now.similarity):
        found.append(
            "the poems have less of the poet's language "
            f"({before.similarity:.1%} -> {now.similarity:.1%})"
        )
    return found


def _rose(before: float, now: float, num_poems: int) -> bool:
    return now - before > _RISE and round((now - before) * num_poems) >= _FEWEST


def _fell(before: float, now: float) -> bool:
    return before > 0 and now < (1 - _FALL) * before
