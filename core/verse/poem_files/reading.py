"""What one file holds, whatever it is called: each format is asked in turn whether it is its own.

To add a format, write a module with a pure `read_...(content, path)` and name it in `_PARSERS`;
what it needs of other packages is imported when it is called, so that the core stays light.
"""

from collections.abc import Callable
from pathlib import Path

from verse import UserError
from verse.poem_files.json_files import read_json
from verse.poem_files.pieces import Found, Refused
from verse.poem_files.text_files import read_text

SUFFIXES = (".txt", ".md", ".markdown", ".json", ".jsonl")
"""Of the files that are read when a folder is named; a file named by itself may be called anything.
"""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Parser = Callable[[bytes, Path], list[Found] | None]
"""All that a file's content holds; None if it is of another format. The path is for its name alone:
of messages, of poems without a title."""


class PoemFileError(UserError):
    """The file cannot be read; the text says why."""


def read_file(path: Path) -> list[Found]:
    """All that one file holds, in its order; never nothing.

    Raises:
        PoemFileError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PoemFileError(f"{path} cannot be read: {error.strerror}.") from error
    return read_content(content, path)


def read_content(content: bytes, path: Path) -> list[Found]:
    """All that stands in a file of this name."""
    content = content.removeprefix(_BYTE_ORDER_MARK)
    if not content.strip():
        return [Refused(path=path, line=1, problem="the file is empty", fault="empty")]
    for parse in _PARSERS:
        if (found := parse(content, path)) is not None:
            return found
    return [Refused(path=path, line=1, problem="it is of no format that Verse reads")]


def _read_plain(content: bytes, path: Path) -> list[Found]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return [Refused(path=path, line=line, problem="this is not UTF-8; save the file as UTF-8")]
    if "\0" in text:
        return [Refused(path=path, line=1, problem="this is not a text file")]
    return read_text(text.replace("\r\n", "\n").replace("\r", "\n"), path)


_PARSERS: tuple[Parser, ...] = (read_json, _read_plain)
"""The first that knows the content takes it; plain text is the last."""
