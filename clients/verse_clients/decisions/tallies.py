"""The decisions, counted. Which of them count is said by `verse.replay`."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from math import sqrt
from typing import NamedTuple

from verse.records import Decision

_Z = 1.959964  # 95 %
_COLUMN = {"accept": 0, "edit": 1, "reject": 2}


class AcceptanceTally(NamedTuple):
    """How one source, or all of them, fared."""

    name: str
    accepted: int
    edited: int
    rejected: int

    @property
    def decided(self) -> int:
        """All verdicts; a skip is none."""
        return self.accepted + self.edited + self.rejected

    @property
    def share(self) -> float:
        """Accepted, edited or not, of all decided; 0 to 1."""
        return (self.accepted + self.edited) / self.decided if self.decided else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share lies with 95 % confidence."""
        return wilson(self.accepted + self.edited, self.decided)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The score interval at 95 %; it stays sensible with few trials (Wilson 1927)."""
    if not trials:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z * _Z
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z * sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def is_verdict(decision: Decision) -> bool:
    """Whether it accepts or rejects; a skip and stars do neither."""
    return decision.action in _COLUMN


def tallies(
    decisions: Iterable[Decision], name: Callable[[Decision], str]
) -> list[AcceptanceTally]:
    """One tally for each name, the most decided first; what is no verdict is passed over."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for decision in decisions:
        if is_verdict(decision):
            counts[name(decision)][_COLUMN[decision.action]] += 1
    found = [AcceptanceTally(name, *count) for name, count in counts.items()]
    return sorted(found, key=lambda tally: (-tally.decided, tally.name))


def overall(decisions: Iterable[Decision]) -> AcceptanceTally:
    """All of them together."""
    found = tallies(decisions, lambda _: "all")
    return found[0] if found else AcceptanceTally("all", 0, 0, 0)
