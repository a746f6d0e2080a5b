"""What the steps read and write: a file that is wrong is one sentence, and each is written at once.

Poems and the frozen split are what `verse data split` makes training rows of; pairs are rows
already. Nothing that is written depends on when.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from verse.atomic_file import replace_file
from verse.poem_files import PoemFileError, Refused, Taken, read_file
from verse.poem_split import SPLIT_FILE, PoemSplit, write_split
from verse.records import Poem, PreferencePair, content_id
from verse_clients.errors import InputError
from verse_clients.refine.convert import ConversionResult

_VALID_THEMES = 10
"""Of so many themes, one is for measuring preferences."""


def read_poems(paths: Iterable[Path]) -> list[Poem]:
    """The poet's poems, of any files of poems.

    Poems without text and those that their file says were rejected are left out, and a last line
    that was cut off.

    Raises:
        InputError: a file is missing, or a row of it is no poem.
    """
    return [poem for path in paths for poem in _poems(path)]


def _poems(path: Path) -> Iterator[Poem]:
    try:
        pieces = read_file(path)
    except PoemFileError as error:
        raise InputError(str(error)) from error
    for piece in pieces:
        if isinstance(piece, Refused) and piece.fault == "other_format":
            raise InputError(str(piece))
        if isinstance(piece, Taken):
            # A poem that does not say where it is from stays so: sets are the same wherever made.
            is_place = piece.poem.source == f"{path}:{piece.line}"
            yield msgspec.structs.replace(piece.poem, source="") if is_place else piece.poem


def write_additional(result: ConversionResult, poems: Path, pairs: Path) -> None:
    """Write the poems that join the training set, and the preference pairs.

    Raises:
        InputError: a file cannot be written.
    """
    write_file(poems, lines(result.additional))
    write_file(pairs, lines(result.pairs))


def write_next_set(result: ConversionResult, split: PoemSplit | None, folder: Path) -> None:
    """Write a data folder: all poems, the split for `verse data split`, and pairs to prefer by.

    Raises:
        InputError: the folder cannot be written.
    """
    pairs, valid_pairs = _parts_by_theme(result.pairs)
    files = {
        "poems.jsonl": [*result.originals, *result.additional],
        "pairs/train.jsonl": pairs,
        "pairs/valid.jsonl": valid_pairs,
    }
    for name, records in files.items():
        write_file(folder / name, lines(records))
    if split is not None:
        write_split(folder / SPLIT_FILE, split)


def write_file(path: Path, content: bytes) -> None:
    """Write a file and the folders above it.

    Raises:
        InputError: the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, [content])
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error


def lines(records: Iterable[msgspec.Struct]) -> bytes:
    """Records as JSON Lines."""
    return msgspec.json.Encoder().encode_lines(list(records))


def _parts_by_theme(
    pairs: Iterable[PreferencePair],
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """(training, validation): a theme is wholly in one of them, and in the same for all rounds."""
    train: list[PreferencePair] = []
    valid: list[PreferencePair] = []
    for pair in pairs:
        is_valid = int(content_id(pair.prompt), 16) % _VALID_THEMES == 0
        (valid if is_valid else train).append(pair)
    return train, valid
