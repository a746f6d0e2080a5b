"""The files a run starts from: themes, prompt variants, training poems, accepted poems."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from verse import jsonl, verdicts
from verse.folders import found
from verse.prompt import THEME_SLOT, Message
from verse.records import Candidate, Origin, Poem
from verse.replay import Replay, accepted_poems
from verse_clients.decisions.journal import read_journal
from verse_clients.errors import InputError


def usual_training() -> list[Path]:
    """The file of poems that must not be copied where none is named; none if it is not there.

    Raises:
        HomeError: VERSE_HOME names no folder.
    """
    path = found("data/poems.jsonl")
    return [path] if path.exists() else []


T = TypeVar("T")


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line that may be a poem, or a conversation to learn from."""

    theme: str = ""
    text: str = ""
    id: str = ""
    source: str = ""
    origin: Origin = "poet"
    messages: tuple[Message, ...] = ()


class _Entry(msgspec.Struct, frozen=True):
    """Tells the lines of a journal from those of other files."""

    entry: str | None = None


_ROW = msgspec.json.Decoder(_Row)
_CANDIDATE = msgspec.json.Decoder(Candidate)
_ENTRY = msgspec.json.Decoder(_Entry)


def read_themes(path: Path) -> list[str]:
    """Read themes, one per line, each once.

    Raises:
        InputError: the file is missing, empty or not UTF-8.
    """
    themes = list(dict.fromkeys(_lines(path)))
    if not themes:
        raise InputError(f"{path} is empty; write one theme per line.")
    return themes


def read_variants(path: Path) -> list[str | None]:
    """Read prompt variants, one per line; None is the theme alone.

    Raises:
        InputError: the file is missing, empty or not UTF-8, or a line has no place for the theme.
    """
    lines = list(dict.fromkeys(_lines(path)))
    for line in lines:
        if THEME_SLOT not in line:
            raise InputError(f"{path}: {line!r} has no {THEME_SLOT} in it.")
    if not lines:
        raise InputError(f"{path} is empty; write one prompt per line, with {THEME_SLOT} in it.")
    return [None if line == THEME_SLOT else line for line in lines]


def read_training(paths: Iterable[Path]) -> list[Poem]:
    """Read poems that must not be copied: records of poems, or conversations to learn from.

    Raises:
        InputError: a file is missing or holds something else.
    """
    return [poem for path in paths for poem in _poems(path)]


def read_accepted(path: Path) -> list[Poem]:
    """Read poems that must not be repeated: a journal of decisions, or poems.

    Raises:
        InputError: the file is missing or holds something else.
        JournalError: the journal cannot be read.
    """
    first = next(iter(_records(path, jsonl.scan(path, _ENTRY))), None)
    if first is None or first.entry is None:
        return _poems(path)
    return list(accepted_poems(Replay(read_journal(path))))


def read_candidates(path: Path) -> list[Candidate]:
    """Read what was written so far; a last line that was cut off is passed over.

    Raises:
        InputError: the file is missing or holds something else.
    """
    return list(_records(path, jsonl.scan(path, _CANDIDATE)))


def _poems(path: Path) -> list[Poem]:
    poems = [_poem(row) for row in _records(path, verdicts.scan(path, _ROW))]
    if not all(poem.text for poem in poems):
        raise InputError(f"{path} holds no poems; its lines should have `theme` and `text`.")
    return poems


def _poem(row: _Row) -> Poem:
    said = {message.role: message.content for message in row.messages}
    theme, text = row.theme or said.get("user", ""), row.text or said.get("assistant", "")
    return Poem(theme=theme, text=text, id=row.id, source=row.source, origin=row.origin)


def _records(path: Path, scanned: Iterable[tuple[int, T | jsonl.JsonlError]]) -> Iterator[T]:
    try:
        for _, record in scanned:
            if isinstance(record, jsonl.TornLineError):
                return
            if isinstance(record, verdicts.LeftOutError):
                raise InputError(str(record))
            if isinstance(record, jsonl.JsonlError):
                raise InputError(f"{record} It holds no poems.")
            yield record
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line} is not UTF-8; save the file as UTF-8.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
