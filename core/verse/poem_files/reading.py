"""What one file holds, whatever it is called: its encoding, then each format is asked in turn.

To add a format, write a module with a pure `read_...(content, path)` and name it in `_PARSERS`;
what it needs of other packages is imported when it is called, so that the core stays light. A part
that reads more than text and JSON hands its own parsers in.

A mark at the beginning decides on the encoding; else what is UTF-8 is UTF-8. Of the rest, UTF-16
without a mark is told by its zero bytes, and GB18030 (with GBK and GB2312 in it), Big5 and
Windows-1252 are told apart by charset-normalizer. Others are not guessed: with Korean and Japanese
among the choices, one short Chinese poem in two is taken for Korean. What was not UTF-8 is always
told, so that a reader can object with `--encoding`.
"""

import codecs
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from verse import UserError
from verse.poem_files.json_files import read_json
from verse.poem_files.pieces import Found, Refused, Taken
from verse.poem_files.text_files import read_text

SUFFIXES = (".txt", ".md", ".markdown", ".json", ".jsonl")
"""Of the files that are read when a folder is named; a file named by itself may be called anything.
"""
MAX_BYTES = 256 << 20
"""Of a file; a hundred thousand poems have a tenth of it."""

_UTF8 = "utf-8"
_MARKS = (
    (codecs.BOM_UTF8, _UTF8, ""),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),  # before UTF-16, whose mark begins like it
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
    (b"\x84\x31\x95\x33", "gb18030", "GB18030"),
)
_WITH_ZEROS = ("utf_16_le", "utf_16_be")
_WITHOUT_ZEROS = ("gb18030", "big5hkscs", "cp1252")
_LABELS = {
    "gb18030": "GB18030",
    "big5hkscs": "Big5",
    "cp1252": "Windows-1252",
    "utf_16_le": "UTF-16",
    "utf_16_be": "UTF-16",
}
_TEXT_CONTROLS = "\t\n\r\f\x0b\x1a"
"""Controls that text files have; the last is how DOS ended them."""

Parser = Callable[[bytes, Path], list[Found] | None]
"""All that a file's content, in UTF-8, holds; None if it is of another format. The path is for its
name alone: of messages, of poems without a title."""


class PoemFileError(UserError):
    """The file cannot be read; the text says why."""


class ContentError(ValueError):
    """A file's content cannot be read: broken, locked, of a kind Verse does not read.

    The text says what is wrong and what to do, with no full stop.
    """

    def __init__(self, problem: str, line: int = 1) -> None:
        super().__init__(problem)
        self.line = line
        """Counted from 1."""


class ReadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user says of a file where it does not speak for itself."""

    encoding: str | None = None
    theme_column: str | None = None
    """Of a table: its name, or its number counted from 1."""
    text_column: str | None = None
    sender: str | None = None
    """Whose messages are the poet's, in a chat."""


DocumentParser = Callable[[bytes, Path, ReadOptions], list[Found] | None]
"""As `Parser`, of a file as it is on the disk. Raises ContentError."""


class Decoded(msgspec.Struct, frozen=True):
    """A text and how it was read."""

    text: str
    """Line ends are `\\n`."""
    encoding: str = ""
    """As it is told, `GB18030`; empty for UTF-8."""


def read_file(
    path: Path,
    options: ReadOptions | None = None,
    documents: Sequence[DocumentParser] = (),
) -> list[Found]:
    """All that one file holds, in its order; never nothing.

    Args:
        path: Of the file.
        options: What the user says of it.
        documents: Parsers that are asked before those for text and JSON.

    Raises:
        PoemFileError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            num_bytes = path.stat().st_size
            content = b"" if num_bytes > MAX_BYTES else stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise PoemFileError(f"{path} cannot be read: {error.strerror}.") from error
    num_bytes = max(num_bytes, len(content))
    if num_bytes > MAX_BYTES:
        problem = f"it has {num_bytes >> 20} MB, more than the {MAX_BYTES >> 20} that are read; "
        return [Refused(path=path, line=1, problem=problem + "put the poems into smaller files")]
    return read_content(content, path, options, documents)


def read_content(
    content: bytes,
    path: Path,
    options: ReadOptions | None = None,
    documents: Sequence[DocumentParser] = (),
) -> list[Found]:
    """All that stands in a file of this name; arguments as in `read_file`."""
    options = options or ReadOptions()
    if not content.strip():
        return [Refused(path=path, line=1, problem="the file is empty", fault="empty")]
    try:
        for parse_document in documents:
            if (found := parse_document(content, path, options)) is not None:
                return found
        decoded = decode(content, options.encoding)
    except ContentError as error:
        refused = Refused(path=path, line=error.line, problem=str(error))
        return _whole_rows(content, path) or [refused]
    return [_with_encoding(piece, decoded.encoding) for piece in read_decoded(decoded.text, path)]


def read_decoded(text: str, path: Path) -> list[Found]:
    """All that a text in a file of this name holds."""
    content = text.encode()
    if not content.strip():
        return [Refused(path=path, line=1, problem="the file is empty", fault="empty")]
    for parse in _PARSERS:
        if (found := parse(content, path)) is not None:
            return found
    return [Refused(path=path, line=1, problem="it is of no format that Verse reads")]


def decode(content: bytes, encoding: str | None = None) -> Decoded:
    """The text of a file.

    Args:
        content: All of it.
        encoding: What the user says it is; None to find out.

    Raises:
        ContentError: it is no text, or not in this encoding, or in none that can be told.
    """
    decoded = _forced(content, encoding) if encoding else _detected(content)
    text = decoded.text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    if "\0" in text:
        raise ContentError("this is not a text file")
    return Decoded(text.replace("\x1a", ""), decoded.encoding)


def checked_encoding(name: str) -> str:
    """The name as Python has it.

    Raises:
        ContentError: there is no such encoding.
    """
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        info = None
    if info is None or not getattr(info, "_is_text_encoding", True):
        raise ContentError(
            f"there is no encoding {name!r}; Chinese files are in utf-8, gb18030, big5 or utf-16"
        )
    return info.name


def _forced(content: bytes, encoding: str) -> Decoded:
    name = checked_encoding(encoding)
    try:
        return Decoded(content.decode(name), "" if name == _UTF8 else encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ContentError(f"this is not {encoding}; try without --encoding", line) from error


def _detected(content: bytes) -> Decoded:
    for mark, name, label in _MARKS:
        if content.startswith(mark):
            try:
                return Decoded(content.decode(name), label)
            except UnicodeDecodeError as error:
                raise ContentError(f"it begins as {label or 'UTF-8'} and is broken") from error
    if b"\0" in content:
        return _guessed(content, _WITH_ZEROS, "this is not a text file")
    try:
        return Decoded(content.decode(_UTF8))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = "this is not UTF-8, and what it is cannot be told; name it with --encoding"
        return _guessed(content, _WITHOUT_ZEROS, problem, line)


def _guessed(content: bytes, names: Sequence[str], problem: str, line: int = 1) -> Decoded:
    # Imported here: most files are UTF-8.
    from charset_normalizer import from_bytes

    best = from_bytes(content, cp_isolation=list(names)).best()
    if best is None or best.encoding not in names:
        raise ContentError(problem, line)
    try:
        text = content.decode(best.encoding)  # it looks at samples of a long file
    except UnicodeDecodeError as error:
        raise ContentError(problem, line) from error
    if not _is_text(text):
        raise ContentError(problem, line)
    return Decoded(text, _LABELS[best.encoding])


def _is_text(text: str) -> bool:
    """Whether no control stands in it that no text has: pictures and programs are full of them."""
    return all(char >= " " or char in _TEXT_CONTROLS for char in set(text))


def _whole_rows(content: bytes, path: Path) -> list[Found]:
    """Rows of a file in which some are not UTF-8; nothing, if there is none that can be read."""
    found = read_json(content, path) or []
    return found if any(isinstance(piece, Taken) for piece in found) else []


def _with_encoding(piece: Found, encoding: str) -> Found:
    if not encoding or not isinstance(piece, Taken):
        return piece
    return msgspec.structs.replace(piece, kind=f"{piece.kind} ({encoding})")


def _read_plain(content: bytes, path: Path) -> list[Found]:
    return read_text(content.decode(), path)


_PARSERS: tuple[Parser, ...] = (read_json, _read_plain)
"""The first that knows the content takes it; plain text is the last."""
