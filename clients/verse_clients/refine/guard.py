"""What must never be learned: copies of the poet's poems, and anything of the frozen valid set.

A copy teaches the model to recite; a leak makes the valid loss a lie for all rounds to come. What
is known is compared exactly, so another known poem never lets a text pass.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from verse.records import Poem
from verse.similarity import NearDuplicates, comparison_key
from verse_clients.copies import CopyCheck, CopyLimits

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


class _Fence:
    """One collection of poems that nothing may take over from."""

    def __init__(self, kind: Kind, poems: Iterable[Poem], limits: Limits) -> None:
        self._kind: Kind = kind
        self._copies = CopyCheck(limits.copies)
        self._near = NearDuplicates(limits.ratio)
        for number, poem in enumerate(poems, 1):
            name = f"《{poem.theme}》 ({number})"
            self._copies.add(name, poem.text)
            self._near.add(name, poem.text)

    def refusal(self, text: str) -> Refusal | None:
        near = self._near.find(text)
        if near is not None:
            return Refusal(self._kind, near.key, ratio=near.ratio)
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
