"""Which poems are worth a judge's and the poet's time: those that could be learned at all."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from verse.records import Candidate
from verse_clients.refine.wording import REASONS, because, counted
from verse_clients.screening import Finding, Guard, Reason, round_screen


class Filtered(NamedTuple):
    """What stays, and what does not and why, each in the order it came."""

    kept: list[Candidate]
    left: list[tuple[Candidate, Finding]]


def filter_candidates(
    candidates: Iterable[Candidate], guard: Guard, known: Iterable[Candidate], max_ratio: float
) -> Filtered:
    """Leave out what is cut off, copied, or nearly another poem.

    Args:
        candidates: What models wrote.
        guard: Knows the poet's poems.
        known: Poems that were decided in earlier rounds.
        max_ratio: Edit ratio from which two poems are nearly the same, 0 to 1.
    """
    screen = round_screen(guard, max_ratio)
    for candidate in known:
        screen.know(f"a poem decided before, 《{candidate.theme}》", candidate.text)
    filtered = Filtered([], [])
    for candidate in candidates:
        why = screen.find(candidate, f"《{candidate.theme}》 {candidate.id}")
        if why is None:
            filtered.kept.append(candidate)
        else:
            filtered.left.append((candidate, why))
    return filtered


def summary(filtered: Filtered) -> str:
    """What was left out, and why, as Markdown."""
    counts: Counter[Reason] = Counter(why.reason for _, why in filtered.left)
    lines = [f"# {counted(len(filtered.kept), 'poem')} stay", ""]
    lines += [
        f"- {counts[kind]} left out, {reason}" for kind, reason in REASONS.items() if counts[kind]
    ]
    lines += [""] + [
        f"- 《{candidate.theme}》 {candidate.id}: {because(why)}"
        for candidate, why in filtered.left
    ]
    return "\n".join(lines).rstrip() + "\n"
