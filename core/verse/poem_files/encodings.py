"""From bytes to text: UTF-8, or what Chinese files are in besides it.

A mark at the beginning decides; else what is UTF-8 is UTF-8. Of the rest, UTF-16 without a mark is
told by its zero bytes, and GB18030 (with GBK and GB2312 in it), Big5 and Windows-1252 are told
apart by charset-normalizer. Others are not guessed: with Korean and Japanese among the choices, one
Chinese poem in two is taken for Korean. What was not UTF-8 is always told, so that a reader can
object with `--encoding`.
"""

import codecs
from collections.abc import Sequence

import msgspec

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


class ContentError(ValueError):
    """A file's content cannot be read: broken, locked, of a kind Verse does not read.

    The text says what is wrong and what to do, with no full stop.
    """

    def __init__(self, problem: str, line: int = 1) -> None:
        super().__init__(problem)
        self.line = line
        """Counted from 1."""


class Decoded(msgspec.Struct, frozen=True):
    """A text and how it was read."""

    text: str
    """Line ends are `\\n`."""
    encoding: str = ""
    """As it is told, `GB18030`; empty for UTF-8."""


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
