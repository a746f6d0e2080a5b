"""From decisions to what the next training run learns; pure, and the same for the same input.

The poet's own poems all stay. Accepted and edited poems join them as far as `guard` and `selection`
let them; preference pairs join as far as they take nothing over either.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from verse.poem_split import PoemSplit
from verse.records import JournalEntry, Poem, PreferencePair
from verse.similarity import NearDuplicates
from verse_clients.decisions.journal import Replay, accepted_poems
from verse_clients.decisions.preferences import preference_pairs
from verse_clients.refine.selection import Shares, select
from verse_clients.screening import Finding, Guard, Limits, Reason


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A poem that was accepted and is not learned all the same, and why."""

    poem: Poem
    why: Finding


class Harvest(msgspec.Struct, frozen=True, kw_only=True):
    """All that comes out of the decisions."""

    originals: tuple[Poem, ...]
    """The poet's own, the valid ones included, in their file's order."""
    training: tuple[Poem, ...]
    """Those of them that are learned."""
    valid: tuple[Poem, ...]
    """Those that are measured with."""
    additional: tuple[Poem, ...]
    """What models wrote and the poet took, in the order of the decisions."""
    pairs: tuple[PreferencePair, ...]
    refused: tuple[Refused, ...]
    """In the order of the decisions."""
    refused_pairs: dict[Reason, int]
    """Pairs left out, by reason."""
    num_rejected: int
    """Poems that the poet rejected."""
    num_skipped: int

    @property
    def synthetic_share(self) -> float:
        """Of model-written poems in the training rows, 0 to 1."""
        num_rows = len(self.training) + len(self.additional)
        return len(self.additional) / num_rows if num_rows else 0.0


def convert(
    entries: Iterable[JournalEntry],
    poems: Sequence[Poem],
    split: PoemSplit | None,
    shares: Shares,
    limits: Limits,
) -> Harvest:
    """Turn decisions into rows and pairs.

    Args:
        entries: One journal, or several in the order of their rounds.
        poems: The training set so far; those of models in it are weighed again.
        split: Which of the poet's poems are measured with; None if that is not settled.
        shares: What the rows may hold at most.
        limits: From when on a likeness is too much.
    """
    replay = Replay(entries)
    originals = [poem for poem in poems if poem.origin == "poet"]
    training, valid = split.parts(originals) if split else (originals, [])
    guard = Guard(training, valid, limits)
    offered = [p for p in poems if p.origin != "poet"] + list(accepted_poems(replay))
    learnable, refused = _learnable(offered, guard, limits)
    stars = {poem.source: replay.stars(poem.source) or 0 for poem in learnable}
    selection = select(training, learnable, stars, shares)
    refused |= {poem.id: Finding("opening") for poem in selection.openings}
    refused |= {poem.id: Finding("share") for poem in selection.surplus}
    pairs, refused_pairs = _pairs(preference_pairs(replay), guard)
    actions = Counter(verdict.action for verdict in replay.verdicts())
    return Harvest(
        originals=tuple(originals),
        training=tuple(training),
        valid=tuple(valid),
        additional=tuple(selection.taken),
        pairs=tuple(pairs),
        refused=tuple(
            Refused(poem=poem, why=refused[poem.id])
            for poem in _distinct(offered)
            if poem.id in refused
        ),
        refused_pairs=refused_pairs,
        num_rejected=actions["reject"],
        num_skipped=actions["skip"],
    )


def _learnable(
    offered: Sequence[Poem], guard: Guard, limits: Limits
) -> tuple[list[Poem], dict[str, Finding]]:
    """What may be learned, and by id what may not; of near-duplicates an edited one stays."""
    refused: dict[str, Finding] = {}
    taken = NearDuplicates(limits.ratio)
    kept: set[str] = set()
    for poem in sorted(_distinct(offered), key=lambda poem: poem.origin != "edited"):
        why = guard.find(poem.text) or _near(taken, poem)
        if why is None:
            taken.add(f"《{poem.theme}》 ({poem.id})", poem.text)
            kept.add(poem.id)
        else:
            refused[poem.id] = why
    return [poem for poem in _distinct(offered) if poem.id in kept], refused


def _near(taken: NearDuplicates, poem: Poem) -> Finding | None:
    near = taken.find(poem.text)
    return None if near is None else Finding("near", near.key, ratio=near.ratio)


def _distinct(poems: Iterable[Poem]) -> Iterator[Poem]:
    """Each poem once: the same text on the same theme has the same id."""
    seen: set[str] = set()
    for poem in poems:
        if poem.id not in seen:
            seen.add(poem.id)
            yield poem


def _pairs(
    pairs: Iterable[PreferencePair], guard: Guard
) -> tuple[list[PreferencePair], dict[Reason, int]]:
    """Pairs of which neither side takes over: a rejected copy would unlearn the poet's poem."""
    kept: list[PreferencePair] = []
    refused: Counter[Reason] = Counter()
    for pair in pairs:
        why = guard.find(pair.chosen) or guard.find(pair.rejected)
        if why is None:
            kept.append(pair)
        else:
            refused[why.reason] += 1
    return kept, dict(refused)
