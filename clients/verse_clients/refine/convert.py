"""From decisions to what the next training run learns; pure, and the same for the same input.

The poet's own poems all stay. Accepted and edited poems join them as far as the guard of
`verse_clients.screening` lets them, and as far as their share goes: every theme gets its first poem
before any gets its second. Preference pairs join as far as they take nothing over either.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import msgspec

from verse.poem_split import PoemSplit
from verse.records import JournalEntry, Poem, PreferencePair
from verse.replay import Replay, accepted_poems
from verse.similarity import NearDuplicates, comparison_key
from verse_clients.decisions.preferences import preference_pairs
from verse_clients.measures import first_line
from verse_clients.screening import Finding, Guard, Limits, Reason

_PRECISION = 1_000_000


class ShareLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the whole training set may hold at most."""

    max_synthetic: float = 0.5
    """Of model-written poems, edited ones included; 0 up to, but not, 1."""
    max_opening: float = 0.05
    """Of poems that begin with the same line, 0 to 1; one is always allowed."""


class Selection(NamedTuple):
    """What was taken and what not, each in the order the poems came in."""

    taken: list[Poem]
    openings: list[Poem]
    """Left out, because their opening line has its share."""
    surplus: list[Poem]
    """Left out, because model-written poems have their share."""


class RefusedPoem(msgspec.Struct, frozen=True, kw_only=True):
    """A poem that was accepted and is not learned all the same, and why."""

    poem: Poem
    why: Finding


class ConversionResult(msgspec.Struct, frozen=True, kw_only=True):
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
    refused: tuple[RefusedPoem, ...]
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
    shares: ShareLimits,
    limits: Limits,
) -> ConversionResult:
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
    return ConversionResult(
        originals=tuple(originals),
        training=tuple(training),
        valid=tuple(valid),
        additional=tuple(selection.taken),
        pairs=tuple(pairs),
        refused=tuple(
            RefusedPoem(poem=poem, why=refused[poem.id])
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
            taken.remember(f"《{poem.theme}》 ({poem.id})", poem.text)
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


def most_synthetic(num_originals: int, share: float) -> int:
    """How many poems of models go with so many of the poet's."""
    exact = Fraction(share).limit_denominator(_PRECISION)
    return int(exact * num_originals / (1 - exact))


def select(
    originals: Sequence[Poem], poems: Sequence[Poem], stars: dict[str, int], shares: ShareLimits
) -> Selection:
    """Choose from the poems of models.

    Args:
        originals: The poet's own poems to learn from; all of them stay.
        poems: Those of models, in the order they were accepted.
        stars: By a poem's `source`, 1 to 5; the rest have none.
        shares: What may not be exceeded.
    """
    ranked = by_claim(poems, stars)
    room = most_synthetic(len(originals), shares.max_synthetic)
    openings = _Openings(originals, shares.max_opening)
    fitting = openings.fitting(ranked, len(originals) + min(room, len(ranked)))
    # Fewer poems make a smaller share of each opening line: until nothing changes.
    while len(again := openings.fitting(ranked, len(originals) + min(room, len(fitting)))) < len(
        fitting
    ):
        fitting = again
    taken, surplus = _ids(fitting[:room]), _ids(fitting[room:])
    return Selection(
        [poem for poem in poems if poem.id in taken],
        [poem for poem in poems if poem.id not in taken | surplus],
        [poem for poem in poems if poem.id in surplus],
    )


def by_claim(poems: Iterable[Poem], stars: dict[str, int]) -> list[Poem]:
    """The poems that have the best claim to be learned first.

    Every theme gets its first poem before any gets its second; within a theme, what the poet edited
    comes before what was only accepted, then more stars, then the earlier decision.
    """
    themes: dict[str, list[tuple[bool, int, int, Poem]]] = defaultdict(list)
    for place, poem in enumerate(poems):
        claim = (poem.origin != "edited", -stars.get(poem.source, 0), place, poem)
        themes[poem.theme].append(claim)
    turns = [
        (turn, *claim)
        for claims in themes.values()
        for turn, claim in enumerate(sorted(claims, key=lambda claim: claim[:3]))
    ]
    return [claim[-1] for claim in sorted(turns, key=lambda claim: claim[:4])]


class _Openings:
    """Counts opening lines; those of the poet's own poems are counted first."""

    def __init__(self, originals: Iterable[Poem], max_share: float) -> None:
        self._originals = Counter(_opening(poem) for poem in originals)
        self._share = Fraction(max_share).limit_denominator(_PRECISION)

    def fitting(self, ranked: Iterable[Poem], size: int) -> list[Poem]:
        """The poems whose opening line stays within its share of `size` poems."""
        limit = max(1, int(self._share * size))
        counts = self._originals.copy()
        fitting: list[Poem] = []
        for poem in ranked:
            opening = _opening(poem)
            if counts[opening] < limit:
                counts[opening] += 1
                fitting.append(poem)
        return fitting


def _opening(poem: Poem) -> str:
    return comparison_key(first_line(poem.text))


def _ids(poems: Iterable[Poem]) -> set[str]:
    return {poem.id for poem in poems}
