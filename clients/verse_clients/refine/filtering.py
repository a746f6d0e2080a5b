"""Which poems are worth a judge's and the poet's time: those that could be learned at all."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from verse.records import Candidate
from verse.similarity import NearDuplicates
from verse.thinking import holds_tag
from verse_clients.refine.guard import Guard, Kind, Refusal
from verse_clients.refine.wording import REASONS, because, counted


class Filtered(NamedTuple):
    """What stays, and what does not and why, each in the order it came."""

    kept: list[Candidate]
    left: list[tuple[Candidate, Refusal]]


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
    seen = NearDuplicates(max_ratio)
    for candidate in known:
        seen.add(f"a poem decided before, 《{candidate.theme}》", candidate.text)
    filtered = Filtered([], [])
    for candidate in candidates:
        why = _reason(candidate, guard, seen)
        if why is None:
            filtered.kept.append(candidate)
        else:
            filtered.left.append((candidate, why))
    return filtered


def summary(filtered: Filtered) -> str:
    """What was left out, and why, as Markdown."""
    counts: Counter[Kind] = Counter(why.kind for _, why in filtered.left)
    lines = [f"# {counted(len(filtered.kept), 'poem')} stay", ""]
    lines += [
        f"- {counts[kind]} left out, {reason}" for kind, reason in REASONS.items() if counts[kind]
    ]
    lines += [""] + [
        f"- 《{candidate.theme}》 {candidate.id}: {because(why)}"
        for candidate, why in filtered.left
    ]
    return "\n".join(lines).rstrip() + "\n"


_BLOCKED: dict[str, Kind] = {
    "duplicate": "twin",
    "copy": "copy",
    "empty": "empty",
    "thought": "thought",
}


def _reason(candidate: Candidate, guard: Guard, seen: NearDuplicates) -> Refusal | None:
    if candidate.blocked is not None:  # by `verse generate`, whose limits may be others
        other = candidate.duplicate_of or candidate.copied_from or ""
        return Refusal(_BLOCKED[candidate.blocked], other, candidate.copied_run)
    if candidate.finish_reason == "length":
        return Refusal("cut")
    if holds_tag(candidate.text):
        return Refusal("thought")
    why = guard.refusal(candidate.text)
    if why is not None:
        return why
    twin = seen.add(f"《{candidate.theme}》 {candidate.id}", candidate.text)
    return None if twin is None else Refusal("twin", twin.key, ratio=twin.ratio)
