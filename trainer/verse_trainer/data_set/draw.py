"""Which poems validate: pure, on poems alone.

The draw orders groups of alike poems by a hash of seed and ids, so neither the order in the file
nor Python's version matters. What was drawn once stays drawn.
"""

from collections.abc import Sequence

import msgspec

from verse.ids import content_id
from verse.poem_split import PoemSplit
from verse.records import Poem
from verse.similarity import similar_groups, similar_pairs
from verse_trainer.errors import DataSetError

_MAX_SHARE_OF_DRAWABLE = 0.5


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a split makes of a file of poems; each poem is in one of the three."""

    train: tuple[Poem, ...]
    valid: tuple[Poem, ...]
    left_out: tuple[tuple[Poem, Poem], ...]
    """Poems that are not learned, each with the validation poem it is alike to."""


def draw(poems: Sequence[Poem], share: float, seed: int) -> PoemSplit:
    """Draw the poems to measure with, alike ones together.

    The poet's own are preferred: a model is not measured by what a model wrote.

    Args:
        poems: No id twice.
        share: Of the poems, above 0 and below 1.
        seed: Another one draws other poems.

    Raises:
        DataSetError: there are not two poems that differ.
    """
    drawable = _drawable(poems)
    wanted = max(1, min(round(share * len(poems)), _half(drawable)))
    ordered = sorted(drawable, key=lambda group: content_id(seed, min(poem.id for poem in group)))
    drawn: list[Poem] = []
    for group in ordered:
        if len(drawn) + len(group) <= wanted:
            drawn += group
    # All groups are larger than what is wanted: the smallest comes closest.
    drawn = drawn or min(ordered, key=len)
    return PoemSplit(valid=tuple(poem.id for poem in drawn), share=share, seed=seed)


def divide(poems: Sequence[Poem], split: PoemSplit) -> Parts:
    """Part the poems by a split, leaving out of training what is alike to a validation poem.

    Raises:
        DataSetError: nothing is left to train on, or to measure with.
    """
    train, valid = split.parts(poems)
    if not valid:
        raise DataSetError(
            "None of the poems that the split keeps for validation is here any more; "
            "move split.json away to draw new ones."
        )
    twins = _twins(valid, train)
    kept = tuple(poem for poem in train if poem.id not in twins)
    if not kept:
        raise DataSetError("All poems are like those kept for validation; add other poems.")
    left_out = tuple((poem, twins[poem.id]) for poem in train if poem.id in twins)
    return Parts(train=kept, valid=tuple(valid), left_out=left_out)


def _drawable(poems: Sequence[Poem]) -> list[list[Poem]]:
    """Groups of alike poems, the poet's own if there are enough."""
    together = [
        [poems[place] for place in group] for group in similar_groups([p.text for p in poems])
    ]
    if len(together) < 2:
        raise DataSetError(
            "A split needs two poems that differ, one to learn and one to measure with; "
            f"here {'is one poem' if len(poems) == 1 else 'all poems are alike'}."
        )
    own = [group for group in together if all(poem.origin == "poet" for poem in group)]
    return own if len(own) > 1 else together


def _half(drawable: Sequence[Sequence[Poem]]) -> int:
    return int(_MAX_SHARE_OF_DRAWABLE * sum(map(len, drawable)))


def _twins(valid: Sequence[Poem], train: Sequence[Poem]) -> dict[str, Poem]:
    """For each training poem that is alike to a validation poem, by id, that one."""
    pairs = similar_pairs([poem.text for poem in (*valid, *train)])
    return {
        train[pair.second - len(valid)].id: valid[pair.first]
        for pair in pairs
        if pair.first < len(valid) <= pair.second
    }
