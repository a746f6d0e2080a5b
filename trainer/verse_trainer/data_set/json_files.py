"""JSON and JSON Lines as sources of poems, by what is in them; the file's name says nothing."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from verse_trainer.data_set.found import Found, Refused
from verse_trainer.data_set.shapes import read_row

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


def read_json(content: bytes, path: Path) -> list[Found] | None:
    """What a file of JSON or JSON Lines holds; None if it is neither."""
    if (whole := _read_whole(content, path)) is not None:
        return whole
    if any(_object(line) is not None for line in content.splitlines()):
        return list(_read_lines(content, path))
    return [_broken(content, path)] if _begins_like_json(content) else None


def _read_whole(content: bytes, path: Path) -> list[Found] | None:
    """The file as one JSON value: a list of rows, poems by theme, or a single row."""
    if (rows := _list(content)) is not None:
        return _read_rows(rows, content, path)
    if (entries := _object(content)) is None:
        return None
    lists = {key: _list(value) for key, value in entries.items()}
    if entries and "messages" not in entries and None not in lists.values():
        return _read_by_theme(lists, content, path)
    return [read_row(content, path, _line_at(content, content.find(b"{")))]


def _read_by_theme(
    lists: Mapping[str, list[msgspec.Raw] | None], content: bytes, path: Path
) -> list[Found]:
    return _read_rows([row for rows in lists.values() for row in rows or ()], content, path)


def _read_rows(rows: list[msgspec.Raw], content: bytes, path: Path) -> list[Found]:
    found: list[Found] = []
    place, line = 0, 1
    for row in map(bytes, rows):
        start = content.find(row, place)
        line += content.count(b"\n", place, start)
        found.append(read_row(row, path, line))
        line += row.count(b"\n")
        place = start + len(row)
    return found


def _read_lines(content: bytes, path: Path) -> Iterator[Found]:
    # Not splitlines: a poem may hold the other line ends of Unicode, and JSON Lines knows only \n.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield read_row(line, path, number)


def _begins_like_json(content: bytes) -> bool:
    compact = b"".join(content[:200].split())
    return compact.startswith((b"{", b'["', b"[{", b"[[")) or compact == b"[]"


def _broken(content: bytes, path: Path) -> Refused:
    line, problem = 1, "it is no JSON"
    try:
        json.loads(content)
    except json.JSONDecodeError as error:
        line, problem = error.lineno, f"the JSON breaks off here: {error.msg}"
    except UnicodeDecodeError as error:
        line, problem = _line_at(content, error.start), "the file is not UTF-8"
    return Refused(path=path, line=line, problem=problem)


def _list(content: bytes | msgspec.Raw) -> list[msgspec.Raw] | None:
    try:
        return _LIST.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _object(content: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    try:
        return _OBJECT.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _line_at(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1
