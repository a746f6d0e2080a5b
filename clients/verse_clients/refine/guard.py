"""What must never be learned: copies of the poet's poems, and anything of the frozen valid set.

A copy teaches the model to recite; a leak makes the valid loss a lie for all rounds to come. So the
search is exhaustive, unlike the quick one of `near_duplicates`: a hundred poems allow it.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from rapidfuzz import fuzz, process

from verse.records import Poem
from verse_clients.comparison_key import comparison_key
from verse_clients.copies import CopyCheck, CopyLimits
from verse_clients.near_duplicates import Twin

Kind = Literal["empty", "thought", "cut", "leak", "copy", "twin", "opening", "share"]
"""Why a poem was left out: no text; a model's thinking in it; ended by the token limit; too near
the valid set, a poem of the poet's or another one that was taken; its opening line or model-written
poems have their share."""


class Limits(NamedTuple):
    """From when on a likeness is too much."""

    copies: CopyLimits = CopyLimits()
    ratio: float = 0.8
    """Edit ratio from which two poems are nearly the same, 0 to 1; it also finds short ones."""


class Refusal(NamedTuple):
    """Why a text may not be learned."""

    kind: Kind
    other: str = ""
    """The poem it resembles."""
    run: str = ""
    """The characters taken over, if there is a run of them."""
    ratio: float = 0.0
    """How alike the two are, or how much of the poem is taken over; 0 to 1."""


class Closest:
    """Texts by name; finds the one most like another text, and misses none."""

    def __init__(self, min_ratio: float) -> None:
        """Texts with an edit ratio below `min_ratio`, 0 to 1, count as different."""
        self._cutoff = 100 * min_ratio
        self._texts: dict[str, str] = {}

    def add(self, name: str, text: str) -> None:
        """Make a text known."""
        self._texts[name] = comparison_key(text)

    def find(self, text: str) -> Twin | None:
        """The text most like this one; None if none is like enough."""
        best = process.extractOne(
            comparison_key(text), self._texts, scorer=fuzz.ratio, score_cutoff=self._cutoff
        )
        return None if best is None else Twin(best[2], best[1] / 100)


class _Fence:
    """One collection of poems that nothing may take over from."""

    def __init__(self, kind: Kind, poems: Iterable[Poem], limits: Limits) -> None:
        self._kind: Kind = kind
        self._copies = CopyCheck(limits.copies)
        self._likest = Closest(limits.ratio)
        for number, poem in enumerate(poems, 1):
            name = f"《{poem.theme}》 ({number})"
            self._copies.add(name, poem.text)
            self._likest.add(name, poem.text)

    def refusal(self, text: str) -> Refusal | None:
        twin = self._likest.find(text)
        if twin is not None:
            return Refusal(self._kind, twin.key, ratio=twin.ratio)
        copy = self._copies.find(text)
        if copy is None or not copy.is_blocked:
            return None
        return Refusal(self._kind, copy.source, copy.run, copy.share)


class Guard:
    """Says of a text whether it may be learned."""

    def __init__(
        self,
        training: Iterable[Poem] = (),
        valid: Iterable[Poem] = (),
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        """Know the poet's poems that are learned from, and those kept to measure with."""
        self._valid = _Fence("leak", valid, limits)
        self._training = _Fence("copy", training, limits)

    def refusal(self, text: str) -> Refusal | None:
        """Why a text may not be learned; None if it may."""
        if not comparison_key(text):
            return Refusal("empty")
        return self._valid.refusal(text) or self._training.refusal(text)
