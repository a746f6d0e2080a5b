"""JSON and JSON Lines as sources of poems, by what is in them; the file's name says nothing.

A row that holds a poem is told apart by its keys:

theme or title, with text, poem, body or response     a record
messages; prompt and completion; ChatML in text       a conversation, see rows
image and response, with accepted, edited, deleted    the original project's list
title, body and checkpoint_path                       the original project's generation
data; fields                                          one of these inside of Label Studio's task
                                                      or Argilla's record
entry; candidate; chosen and rejected; adapter        Verse's own files, refused by name:
other commands read them

Whatever the shape, a row that says it was rejected or is not decided on is left out; how it says so
is read by `verse.verdicts`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from verse.poem_files.conversations import (
    Conversation,
    ShapeError,
    decode_conversation,
    looks_like_conversation,
)
from verse.poem_files.pieces import Draft, Found, Refused, left_out, piece_of
from verse.records import Origin
from verse.verdicts import Reading, VerdictError, read_verdict

_THEME_KEYS = ("theme", "title")
_TEXT_KEYS = ("text", "poem", "body", "response")
_WRAPPERS = ("data", "fields")
"""Label Studio's task and Argilla's record keep under these what they were given."""
_CONVERSATION_KINDS = {
    "messages": "conversations",
    "completion": "prompt and completion rows",
    "seed": "rows of the original project",
    "chatml": "ChatML rows",
}
_NOT_POEMS = {
    "entry": "it is a decision; `verse curate export` turns decisions into rows",
    "candidate": "it is a judged candidate; decide on it with `verse curate`",
    "chosen": "it is a preference pair; `verse train --method dpo` reads those",
    "adapter": "a model wrote it, and it is not decided on yet; do so with `verse curate`",
    "sampling": "a model wrote it, and it is not decided on yet; do so with `verse curate`",
}

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    theme: str | None = None
    title: str | None = None
    text: str | None = None
    poem: str | None = None
    body: str | None = None
    response: str | None = None
    source: str | None = None
    origin: Origin = "poet"


class _Listed(msgspec.Struct, frozen=True, kw_only=True):
    image: str
    response: str


class _Generated(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    body: str
    checkpoint_path: str = ""


_Reader = Callable[[bytes | msgspec.Raw, Reading], Draft]


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
    pieces: list[Found] = []
    place, line = 0, 1
    for row in map(bytes, rows):
        start = content.find(row, place)
        line += content.count(b"\n", place, start)
        pieces.append(read_row(row, path, line))
        line += row.count(b"\n")
        place = start + len(row)
    return pieces


def _read_lines(content: bytes, path: Path) -> Iterator[Found]:
    # Not splitlines: a poem may hold the other line ends of Unicode, and JSON Lines knows only \n.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield read_row(line, path, number)


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


def read_row(row: bytes | msgspec.Raw, path: Path, line: int) -> Found:
    """What one row of JSON holds."""
    try:
        return _read(row, path, line)
    except (ShapeError, VerdictError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return Refused(path=path, line=line, problem=str(error).rstrip("."))


def _read(row: bytes | msgspec.Raw, path: Path, line: int) -> Found:
    outer, reading = row, read_verdict(row)
    row = _inner(outer)
    if row is not outer and not reading.is_left_out:
        reading = read_verdict(row)
    read = _reader(msgspec.json.decode(row, type=dict[str, msgspec.Raw]))
    draft = _draft(read, row, reading)
    draft = msgspec.structs.replace(draft, row=bytes(outer))
    if read is _from_list and reading.verdict is None:
        return left_out(draft, path, line, reading)
    return piece_of(draft, path, line, reading)


def _draft(read: _Reader, row: bytes | msgspec.Raw, reading: Reading) -> Draft:
    """What the row holds; of one that is left out, nothing where that cannot be told."""
    try:
        return read(row, reading)
    except (ShapeError, msgspec.DecodeError, UnicodeDecodeError):
        if reading.is_left_out:
            return Draft(kind="")
        raise


def _inner(row: bytes | msgspec.Raw) -> bytes | msgspec.Raw:
    """What an annotation tool was given, out of what it keeps around it; else the row itself."""
    keys = msgspec.json.decode(row, type=dict[str, msgspec.Raw])
    is_wrapped = not any(key in keys for key in (*_TEXT_KEYS, "messages", "prompt"))
    inner = next((keys[key] for key in _WRAPPERS if key in keys), None) if is_wrapped else None
    return row if inner is None or _object(inner) is None else inner


def _reader(keys: Mapping[str, msgspec.Raw]) -> _Reader:
    if looks_like_conversation(keys) or _is_text_alone(keys):
        return _from_conversation
    if {"image", "response"} <= keys.keys():
        return _from_list
    if {"title", "body", "checkpoint_path"} <= keys.keys():
        return _from_generation
    for key, problem in _NOT_POEMS.items():
        if key in keys:
            raise ShapeError(problem)
    if any(key in keys for key in _THEME_KEYS) and any(key in keys for key in _TEXT_KEYS):
        return _from_record
    raise ShapeError(_missing(keys))


def _is_text_alone(keys: Mapping[str, msgspec.Raw]) -> bool:
    return "text" in keys and not any(key in keys for key in _THEME_KEYS)


def _missing(keys: Mapping[str, msgspec.Raw]) -> str:
    if any(key in keys for key in _TEXT_KEYS):
        return "it has a poem and no theme or title"
    return f"it has no poem: its keys are {', '.join(keys) or 'none'}"


def _from_conversation(row: bytes | msgspec.Raw, _: Reading) -> Draft:
    conversation = decode_conversation(row)
    asked = [m for m in conversation.example.messages if m.role == "user"]
    answers = [m for m in conversation.example.messages if m.role == "assistant"]
    if len(asked) != 1 or len(answers) != 1 or not _in_order(conversation):
        raise ShapeError(
            "it is a longer conversation than a theme and a poem; keep it in a train.jsonl"
        )
    return Draft(
        kind=_CONVERSATION_KINDS[conversation.shape],
        theme=asked[0].content,
        text=answers[0].content,
        source=conversation.example.source,
        origin=conversation.example.origin,
    )


def _in_order(conversation: Conversation) -> bool:
    roles = [message.role for message in conversation.example.messages]
    return roles in (["user", "assistant"], ["system", "user", "assistant"])


def _from_list(row: bytes | msgspec.Raw, reading: Reading) -> Draft:
    listed = msgspec.json.decode(row, type=_Listed)
    return Draft(
        kind="poems of the original project's list",
        theme=listed.image,
        text=listed.response,
        origin="edited" if reading.verdict == "edited" else "accepted",
    )


def _from_generation(row: bytes | msgspec.Raw, _: Reading) -> Draft:
    generated = msgspec.json.decode(row, type=_Generated)
    return Draft(
        kind="poems the original project's model wrote",
        theme=generated.title,
        text=generated.body,
        origin="accepted",
    )


def _from_record(row: bytes | msgspec.Raw, _: Reading) -> Draft:
    record = msgspec.json.decode(row, type=_Record)
    texts = [getattr(record, key) for key in _TEXT_KEYS if getattr(record, key) is not None]
    if len(texts) > 1:
        raise ShapeError("it has several poems: text, poem, body and response mean the same")
    return Draft(
        kind="theme and poem records",
        theme=(record.title if record.theme is None else record.theme) or "",
        text=texts[0] if texts else "",
        source=record.source or "",
        origin=record.origin,
    )
