"""What reading a source yields, piece by piece: a poem, a refusal, or one left where it is."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from verse.records import Poem

Fault = Literal["other_format", "empty"]


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A poem that was read."""

    path: Path
    line: int
    """Counted from 1."""
    kind: str
    """What the file had it as, in the plural: `rows of the original project`."""
    poem: Poem
    unknown: tuple[tuple[str, str], ...] = ()
    """Keys of the row that sound like a verdict and are not known, each with its value."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A piece that is no poem, or not in a way that can be told without guessing."""

    path: Path
    line: int
    problem: str
    """No full stop."""
    fault: Fault = "other_format"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}."


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A text that was read and is not to be learned, by what its file says about it."""

    path: Path
    line: int
    reason: str
    """Completes `12 ...`: `rejected`, `not decided on`."""


Found = Taken | Refused | LeftOut


_PLURAL = re.compile(r"\b(poem|row|record|conversation)s\b")


def counted(count: int, kind: str) -> str:
    """`1 poem in text`, `2 poems in text`, for a kind in the plural."""
    if count == 1:
        kind = _PLURAL.sub(lambda plural: plural[1], kind).replace(" their ", " its ")
    return f"{count} {kind}"


def doubts(unknown: Iterable[tuple[int, Iterable[tuple[str, str]]]]) -> Iterator[tuple[int, str]]:
    """What is said of keys of one file that sound like a verdict, once for each key.

    Args:
        unknown: Of each row its line, and such keys with their values.

    Yields:
        A line and the sentence, with no full stop.
    """
    reported: set[str] = set()
    for line, keys in unknown:
        for key, value in keys:
            if key not in reported:
                reported.add(key)
                yield (
                    line,
                    f"{key}: {value} reads like a verdict, which Verse does not know; "
                    "the rows of this file were taken whatever it says",
                )


def plain_lines(text: str) -> str:
    """A poem as it is kept: plain line ends, no blank lines around, nothing behind a line.

    Leading spaces and blank lines inside stay as written.
    """
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return "\n".join(lines).strip("\n")
