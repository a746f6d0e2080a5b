"""JSON and JSON Lines as sources of poems, by what is in them; the file's name says nothing.

How rows may stand in a file:

[row, ...]                              a list
{"theme": [row, ...], ...}              by theme; a row may be the poem itself
[[[theme, poem], ...], ...]             nested lists, as the original project's window saves them
{"poems": [row, ...], ...}              `verse judge`, and what else wraps its rows
row                                     one to a line, or alone
{"entry": ...}                          decisions, see `decisions`

What a row may be says the table of `shapes`. Around it may stand what an annotation tool keeps:
`data` of Label Studio's task, `fields` of Argilla's record.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from verse.poem_files.candidates import is_entry, read_entries
from verse.poem_files.conversations import ShapeError
from verse.poem_files.pieces import Draft, Found, Refused, piece_of, unreviewed
from verse.poem_files.shapes import (
    CORPUS_TEXT_KEYS,
    CORPUS_THEME_KEYS,
    TEXT_KEYS,
    THEME_KEYS,
    Row,
    Shape,
    shape_of,
)
from verse.verdicts import Reading, VerdictError, read_verdict

_WRAPPERS = ("data", "fields")
"""Label Studio's task and Argilla's record keep under these what they were given."""
_ROWS_KEYS = ("poems", "ranked", "candidates")
_HAS_CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_PAIRS = msgspec.json.Decoder(list[list[tuple[str, str]]])
_RAW_PAIRS = msgspec.json.Decoder(list[list[msgspec.Raw]])


def read_json(content: bytes, path: Path) -> list[Found] | None:
    """What a file of JSON or JSON Lines holds; None if it is neither."""
    if (whole := _read_whole(content, path)) is not None:
        return whole
    lines = content.split(b"\n")
    found = (_object(line) for line in lines if line.strip())
    first = next((keys for keys in found if keys is not None), None)
    if first is not None and is_entry(first):
        return read_entries(content, path)
    if first is not None:
        del lines  # of a large file, a second time all of it
        return list(_read_lines(content, path))
    return [_broken(content, path)] if _begins_like_json(content) else None


def _read_whole(content: bytes, path: Path) -> list[Found] | None:
    """The file as one JSON value: rows in a list, by theme or in nested lists, or a single one."""
    if (rows := _list(content)) is not None:
        return _read_pairs(content, path) or _read_rows(((row, "") for row in rows), content, path)
    if (entries := _object(content)) is None:
        return None
    if is_entry(entries):
        return read_entries(content, path)
    for key in _ROWS_KEYS:
        if (rows := _list(entries.get(key, b""))) and _object(rows[0]) is not None:
            return _read_rows(((row, "") for row in rows), content, path)
    lists = {key: rows for key, value in entries.items() if (rows := _list(value)) is not None}
    if entries and "messages" not in entries and len(lists) == len(entries):
        return _read_by_theme(lists, content, path)
    return [read_row(content, path, _line_at(content, content.find(b"{")))]


def _read_by_theme(
    lists: Mapping[str, list[msgspec.Raw]], content: bytes, path: Path
) -> list[Found]:
    return _read_rows(
        ((row, theme) for theme, rows in lists.items() for row in rows), content, path
    )


def _read_pairs(content: bytes, path: Path) -> list[Found] | None:
    """Nested lists of theme and poem, as the original project's window saves what is left.

    A blank pair stands where a poem was deleted, and flags there are none: all others were kept.
    """
    try:
        pairs = [pair for inner in _PAIRS.decode(content) for pair in inner]
        rows = [bytes(row) for inner in _RAW_PAIRS.decode(content) for row in inner]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    lines = _lines_of(rows, content)
    draft = Draft(kind="poems that the original project's window kept", origin="accepted")
    return [
        piece_of(msgspec.structs.replace(draft, theme=theme, text=text, row=row), path, line)
        for (theme, text), row, line in zip(pairs, rows, lines, strict=True)
        if theme.strip() or text.strip()
    ]


def _read_rows(rows: Iterable[tuple[msgspec.Raw, str]], content: bytes, path: Path) -> list[Found]:
    """Rows with the theme they stand under."""
    named = [(bytes(row), theme) for row, theme in rows]
    lines = _lines_of([row for row, _ in named], content)
    return [
        read_row(row, path, line, theme=theme)
        for (row, theme), line in zip(named, lines, strict=True)
    ]


def _lines_of(rows: Iterable[bytes], content: bytes) -> list[int]:
    """The line of each row, of all in the order they stand in."""
    lines: list[int] = []
    place, line = 0, 1
    for row in rows:
        start = content.find(row, place)
        line += content.count(b"\n", place, start)
        lines.append(line)
        line += row.count(b"\n")
        place = start + len(row)
    return lines


def _read_lines(content: bytes, path: Path) -> Iterator[Found]:
    # Not splitlines: a poem may hold the other line ends of Unicode, and JSON Lines knows only \n.
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        piece = read_row(line, path, number)
        if number == len(lines) and isinstance(piece, Refused) and not _is_json(line):
            piece = msgspec.structs.replace(piece, fault="torn")
        yield piece


def _begins_like_json(content: bytes) -> bool:
    compact = b"".join(content[:200].split())
    return compact.startswith((b"{", b'["', b"[{", b"[[")) or compact == b"[]"


def _broken(content: bytes, path: Path) -> Refused:
    line, problem = 1, "it is not JSON"
    try:
        json.loads(content)
    except json.JSONDecodeError as error:
        line, problem = error.lineno, f"the JSON breaks off here: {error.msg}"
    except UnicodeDecodeError as error:
        line, problem = _line_at(content, error.start), "the file is not UTF-8"
    return Refused(path=path, line=line, problem=problem)


def _list(content: Row) -> list[msgspec.Raw] | None:
    try:
        return _LIST.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _object(content: Row) -> dict[str, msgspec.Raw] | None:
    try:
        return _OBJECT.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _line_at(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1


def read_row(row: Row, path: Path, line: int, *, theme: str = "") -> Found:
    """What one row of JSON holds.

    Args:
        row: The row.
        path: Its file.
        line: Where it stands there, from 1.
        theme: What it stands under; for a row that has no theme of its own.
    """
    try:
        return _read(row, path, line, theme)
    except (ShapeError, VerdictError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return Refused(path=path, line=line, problem=str(error).rstrip("."))


def _read(row: Row, path: Path, line: int, theme: str) -> Found:
    if theme and bytes(row[:1]) == b'"':
        return _bare_poem(row, path, line, theme)
    outer, reading = row, read_verdict(row)
    row = _with_theme(_inner(outer), theme)
    if row is not outer and not reading.is_left_out:
        reading = read_verdict(row)
    shape = shape_of(msgspec.json.decode(row, type=dict[str, msgspec.Raw]))
    draft = _draft(shape, row, reading)
    draft = msgspec.structs.replace(draft, row=bytes(outer))
    if shape.by_model and reading.verdict is None:
        return unreviewed(draft, path, line, reading)
    return piece_of(draft, path, line, reading)


def _bare_poem(row: Row, path: Path, line: int, theme: str) -> Found:
    """A poem that is nothing but its text, under its theme; a word of a setting is none."""
    text = _TEXT.decode(row)
    if "\n" not in text.strip() and not _HAS_CJK.search(theme + text):
        raise ShapeError("it is one line under a name, and may be anything; give it theme and text")
    draft = Draft(kind="poems by theme", theme=theme, text=text, row=bytes(row))
    return piece_of(draft, path, line)


def _draft(shape: Shape, row: Row, reading: Reading) -> Draft:
    """What the row holds; of one that is left out, nothing where that cannot be told."""
    try:
        return shape.read(row, reading)
    except (ShapeError, msgspec.DecodeError, UnicodeDecodeError):
        if reading.is_left_out:
            return Draft(kind="")
        raise


def _inner(row: Row) -> Row:
    """What an annotation tool was given, out of what it keeps around it; else the row itself."""
    keys = msgspec.json.decode(row, type=dict[str, msgspec.Raw])
    is_wrapped = not any(key in keys for key in (*TEXT_KEYS, "response", "messages", "prompt"))
    inner = next((keys[key] for key in _WRAPPERS if key in keys), None) if is_wrapped else None
    return row if inner is None or _object(inner) is None else inner


def _with_theme(row: Row, theme: str) -> Row:
    """The row with the theme it stands under, if it has a poem and no theme of its own."""
    keys = _object(row) or {}
    has_theme = any(key in keys for key in (*THEME_KEYS, *CORPUS_THEME_KEYS, "image"))
    has_poem = any(key in keys for key in (*TEXT_KEYS, *CORPUS_TEXT_KEYS, "response"))
    return (
        msgspec.json.encode({"theme": theme, **keys})
        if theme and has_poem and not has_theme
        else row
    )
