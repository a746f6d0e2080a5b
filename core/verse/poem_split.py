"""Which poems are kept from training, to measure with: frozen in a file for all rounds."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from verse import UserError
from verse.atomic_file import replace_file
from verse.records import Poem

SPLIT_FILE = "split.json"


class PoemSplitError(UserError):
    """The file is no split; the text says what to do."""


class PoemSplit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ids of the poems that validate; all others may be learned."""

    valid: tuple[str, ...]
    """Ids of poems, in the order they were drawn."""
    share: float
    """Of the poems that was asked for, 0 to 1."""
    seed: int
    """Of the draw."""

    def is_valid(self, poem: Poem) -> bool:
        """Whether the poem is one of those to measure with."""
        return poem.id in self.valid

    def parts(self, poems: Iterable[Poem]) -> tuple[list[Poem], list[Poem]]:
        """(training, validation), each in the order given."""
        train: list[Poem] = []
        valid: list[Poem] = []
        for poem in poems:
            (valid if self.is_valid(poem) else train).append(poem)
        return train, valid


def read_split(path: Path) -> PoemSplit | None:
    """Read a frozen split; None if there is no such file.

    Raises:
        PoemSplitError: the file holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=PoemSplit)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise PoemSplitError(
            f"{path} is not a split: {error}; restore it, or move it away to draw a new one."
        ) from error


def write_split(path: Path, split: PoemSplit) -> None:
    """Freeze a split.

    Raises:
        OSError: the folder is missing or read-only, or the disk is full.
    """
    replace_file(path, [msgspec.json.format(msgspec.json.encode(split), indent=1), b"\n"])
