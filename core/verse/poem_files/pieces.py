"""What reading a file yields, piece by piece: a poem, a refusal, or a text left where it is.

`row` keeps what stood in the file, word for word: who writes decisions back finds there the names
and numbers that are no part of a poem.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from verse.records import Origin, Poem
from verse.verdicts import Reading, Verdict

Fault = Literal["other_format", "empty", "torn"]
"""`torn`: the last line, cut off while it was being written."""

MAX_LINES = 200
"""Of a poem that nobody is asked about."""
_MAX_LINE_WIDTH = 80
_MAX_MEAN_WIDTH = 40
"""In Chinese characters; Latin letters count half. A poem of eight lines in one has 64."""

UNREVIEWED = "unreviewed"
"""The reason of what a model wrote and nobody decided about."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A poem that was read."""

    path: Path
    line: int
    """Counted from 1."""
    kind: str
    """What the file had it as, in the plural: `rows of the original project`."""
    poem: Poem
    verdict: Verdict | None = None
    """What the file says of it; None: nothing."""
    fields: tuple[tuple[str, str], ...] = ()
    """What stood beside the poem and is no part of it, by name: `author`, `date`."""
    row: bytes = b""
    """The row of JSON it was; empty where it was none."""
    unknown: tuple[tuple[str, str], ...] = ()
    """Keys of the row that sound like a verdict and are not known, each with its value."""
    doubt: str = ""
    """Why it may be no poem, or not the poet's: a clause. Whoever imports it is asked."""


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
    """Completes `12 ...`: `rejected`, `not decided on`, `unreviewed`."""
    kind: str = ""
    """As in `Taken`."""
    poem: Poem | None = None
    """The text, if it can be told: who decides about poems is shown it."""
    verdict: Verdict | None = None
    """As in `Taken`."""
    fields: tuple[tuple[str, str], ...] = ()
    """As in `Taken`."""
    row: bytes = b""
    """As in `Taken`."""


Found = Taken | Refused | LeftOut


_PLURAL = re.compile(r"\b(poem|row|record|conversation|text|answer|file)s\b")


def counted_kind(count: int, kind: str) -> str:
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


def _doubt_of(text: str) -> str:
    """Why a text may be no poem; empty if nothing speaks against it."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > MAX_LINES:
        return f"it has {len(lines)} lines"
    widths = [sum(1 if char > "\u2e80" else 0.5 for char in line.strip()) for line in lines]
    in_long = sum(width for width in widths if width > _MAX_LINE_WIDTH)
    is_long = sum(widths) > _MAX_MEAN_WIDTH * len(lines) and len(lines) > 2
    return "its lines read like prose" if is_long or 2 * in_long > sum(widths) else ""


class EmptyError(ValueError):
    """Theme or poem is there, and blank."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """Theme and text as a parser told them apart, before they are checked."""

    kind: str
    """In the plural, as in `Taken`."""
    theme: str = ""
    text: str = ""
    id: str = ""
    """Follows from theme and text, if it is empty."""
    source: str = ""
    """The file and line, if it is empty."""
    origin: Origin = "poet"
    fields: tuple[tuple[str, str], ...] = ()
    row: bytes = b""
    may_be_prose: bool = False
    """Nothing but its length and its lines tells whether it is a poem."""


def piece_of(draft: Draft, path: Path, line: int, reading: Reading | None = None) -> Found:
    """What a text is, once theme and poem are told apart and its verdict is read."""
    reading = reading or Reading()
    if reading.is_left_out:
        return left_out(draft, path, line, reading)
    try:
        poem = poem_of(draft, path, line)
    except EmptyError as error:
        return Refused(path=path, line=line, problem=str(error), fault="empty")
    return Taken(
        path=path,
        line=line,
        kind=draft.kind,
        poem=poem,
        verdict=reading.verdict,
        fields=draft.fields,
        row=draft.row,
        unknown=reading.unknown,
        doubt=_doubt_of(poem.text) if draft.may_be_prose else "",
    )


def left_out(draft: Draft, path: Path, line: int, reading: Reading) -> LeftOut:
    """A text that its file says is not to be learned; blank, it is left out all the same."""
    return _left_out(draft, path, line, reading, reading.reason)


def unreviewed(draft: Draft, path: Path, line: int, reading: Reading) -> LeftOut:
    """A text that a model wrote and nobody decided about."""
    return _left_out(draft, path, line, reading, UNREVIEWED)


def _left_out(draft: Draft, path: Path, line: int, reading: Reading, reason: str) -> LeftOut:
    try:
        poem = poem_of(draft, path, line)
    except EmptyError:
        poem = None
    return LeftOut(
        path=path,
        line=line,
        reason=reason,
        kind=draft.kind,
        poem=poem,
        verdict=reading.verdict,
        fields=draft.fields,
        row=draft.row,
    )


def poem_of(draft: Draft, path: Path, line: int) -> Poem:
    """The poem of a draft.

    Raises:
        EmptyError: theme or text is blank.
    """
    theme, text = draft.theme.strip(), plain_lines(draft.text)
    if not theme:
        raise EmptyError("its theme is empty")
    if not text.strip():
        raise EmptyError("its poem is empty")
    source = draft.source or f"{path}:{line}"
    said = dict(draft.fields)
    return Poem(
        theme=theme,
        text=text,
        id=draft.id,
        source=source,
        origin=draft.origin,
        author=said.get("author", ""),
        date=said.get("date", ""),
    )
