"""Which checkpoint is best, by decisions made blind: who sees the source decides about it too."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from verse.records import Decision, PairDecision
from verse_clients.decisions.journal import AcceptanceTally, is_blind, tallies, wilson

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


class Verdict(NamedTuple):
    """What the blind decisions say."""

    sentence: str
    """In plain words."""
    tallies: list[AcceptanceTally]
    """By checkpoint, the highest share first; blind decisions alone."""
    duels: list[Duel]
    """By checkpoint, the most wins first; blind comparisons between different ones."""


def verdict(decisions: Iterable[Decision], pairs: Iterable[PairDecision]) -> Verdict:
    """Weigh the decisions that stand; those that were not blind count for nothing here."""
    blind = [decision for decision in decisions if is_blind(decision)]
    found = tallies(blind, lambda decision: decision.candidate.model)
    ranked = sorted(found, key=lambda tally: (-tally.share, -tally.decided, tally.name))
    return Verdict(_sentence(ranked), ranked, duels(pair for pair in pairs if is_blind(pair)))


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
        return "No decision was made blind, so nothing can be said about checkpoints."
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
