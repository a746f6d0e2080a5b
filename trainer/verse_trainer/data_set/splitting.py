"""`verse data split`: freeze which poems validate, and write the rows to train on.

poems.jsonl -> split.json       which poems validate, for all rounds
               train.jsonl      the others, in mlx-lm's `messages` form
               valid.jsonl

The draw orders groups of alike poems by a hash of seed and ids, so neither the order in the file
nor Python's version matters. What was drawn once stays drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from verse import jsonl
from verse.poem_split import SPLIT_FILE, PoemSplit, read_split, write_split
from verse.records import Poem, content_id
from verse.similarity import similar_groups, similar_pairs
from verse_trainer.data_set.importing import read_poems, set_aside, writing
from verse_trainer.data_set.rows import TRAIN_FILE, VALID_FILE, DataRow, scan_rows, to_row
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
    alike = _alike(valid, train)
    kept = tuple(poem for poem in train if poem.id not in alike)
    if not kept:
        raise DataSetError("All poems are like those kept for validation; add other poems.")
    left_out = tuple((poem, alike[poem.id]) for poem in train if poem.id in alike)
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


def _alike(valid: Sequence[Poem], train: Sequence[Poem]) -> dict[str, Poem]:
    """For each training poem that is alike to a validation poem, by id, that one."""
    pairs = similar_pairs([poem.text for poem in (*valid, *train)])
    return {
        train[pair.second - len(valid)].id: valid[pair.first]
        for pair in pairs
        if pair.first < len(valid) <= pair.second
    }


class SplitReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a split did."""

    split: PoemSplit
    parts: Parts
    was_frozen: bool
    """The split was there before; share and seed of this call had nothing to decide."""
    num_repeated: int
    """Poems that stand in the file twice; each was taken once."""
    num_gone: int
    """Frozen validation poems that are not in the file any more."""
    kept_aside: tuple[Path, ...]
    """Where files that were not written by a split are now."""


def split_poems(path: Path, share: float, seed: int, system: str | None) -> SplitReport:
    """Split a file of poems, by the frozen split beside it if there is one.

    Args:
        path: The poems.
        share: Of the poems to measure with, above 0 and below 1.
        seed: Of the draw.
        system: The system message of every row; None for none.

    Raises:
        DataSetError: the poems cannot be read or split; nothing was written.
        PoemSplitError: `split.json` is something else.
    """
    listed = read_poems(path)
    poems: dict[str, Poem] = {}
    for poem in listed:
        poems.setdefault(poem.id, poem)
    _refuse_empty(path, list(poems.values()))
    split_file = path.with_name(SPLIT_FILE)
    frozen = read_split(split_file)
    split = frozen or draw(list(poems.values()), share, seed)
    parts = divide(list(poems.values()), split)
    if frozen is None:
        with writing(split_file):
            write_split(split_file, split)
    kept_aside = [
        _write_rows(path.with_name(name), part, poems, system)
        for name, part in ((VALID_FILE, parts.valid), (TRAIN_FILE, parts.train))
    ]
    return SplitReport(
        split=split,
        parts=parts,
        was_frozen=frozen is not None,
        num_repeated=len(listed) - len(poems),
        num_gone=sum(id_ not in poems for id_ in split.valid),
        kept_aside=tuple(filter(None, kept_aside)),
    )


def _refuse_empty(path: Path, poems: Sequence[Poem]) -> None:
    if not poems:
        raise DataSetError(f"{path} holds no poems; fill it with `verse data import`.")
    for poem in poems:
        if not poem.theme.strip() or not poem.text.strip():
            raise DataSetError(
                f"{path} holds a poem that is empty or has no theme ({poem.id}); "
                "`verse data check` says where."
            )


def _write_rows(
    path: Path, part: Iterable[Poem], poems: Mapping[str, Poem], system: str | None
) -> Path | None:
    """Write the rows; a file that was there and is not a split's is set aside first."""
    with writing(path):
        kept = None if _is_from_split(path, poems) else set_aside(path)
        jsonl.rewrite(path, (to_row(poem, system) for poem in part))
    return kept


def _is_from_split(path: Path, poems: Mapping[str, Poem]) -> bool:
    """Whether every row says which poem it is, and is that poem."""
    return not path.exists() or all(_is_own(row, poems) for row in scan_rows(path))


def _is_own(row: DataRow | DataSetError, poems: Mapping[str, Poem]) -> bool:
    if not isinstance(row, DataRow):
        return False
    turns = [turn.content for turn in row.example.messages if turn.role != "system"]
    source = row.example.source
    poem = poems.get(source)
    # The id follows from the text unless the poem's file gives it another.
    return source == content_id(*turns) or (poem is not None and turns == [poem.theme, poem.text])
