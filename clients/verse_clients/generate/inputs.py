"""The files a run starts from: themes, prompt variants, training poems, accepted poems.

Poems may be in any file of them (`verse.poem_files`).
"""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from verse.folders import found
from verse.poem_files import Found, LeftOut, PoemFileError, Refused, Taken, read_file
from verse.poem_files.candidates import candidate_of
from verse.prompt import THEME_SLOT
from verse.records import Candidate, Poem
from verse_clients.errors import InputError

_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_MAX_WORD = 6
_WORDS_ALONE, _WORDS_OF_MANY = 3, 8
"""From so many on, a line of short words is a list of them: alone in its file, or among others.
A theme may hold blanks, too: 雪 夜."""


def usual_training() -> list[Path]:
    """The file of poems that must not be copied where none is named; none if it is not there.

    Raises:
        HomeError: VERSE_HOME names no folder.
    """
    path = found("data/poems.jsonl")
    return [path] if path.exists() else []


def read_themes(path: Path) -> list[str]:
    """Read themes, each once: one per line, or words of Chinese with blanks between them.

    Raises:
        InputError: the file is missing, empty or not UTF-8.
    """
    lines = _lines(path)
    if not lines:
        raise InputError(f"{path} is empty; write one theme per line.")
    min_words = _WORDS_ALONE if len(lines) == 1 else _WORDS_OF_MANY
    themes = [theme for line in lines for theme in _themes(line, min_words)]
    return list(dict.fromkeys(themes))


def _themes(line: str, min_words: int) -> list[str]:
    """The words of a line that lists them, else the line; Chinese is written without blanks."""
    words = line.split()
    are_words = all(_CHINESE.search(word) and len(word) <= _MAX_WORD for word in words)
    return words if are_words and len(words) >= min_words else [line]


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
    """Read poems that must not be repeated: a journal of decisions, or any file of poems.

    Raises:
        InputError: the file is missing or holds something else.
    """
    return _poems(path)


def read_candidates(path: Path) -> list[Candidate]:
    """Read what was written so far; a last line that was cut off is passed over.

    Raises:
        InputError: the file is missing or holds something else.
    """
    try:
        return [c for piece in _pieces(path) if (c := candidate_of(piece)) is not None]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}. It holds no poems.") from error


def _poems(path: Path) -> list[Poem]:
    """What may be learned of a file; a poem that its file says was rejected is none."""
    pieces = _pieces(path)
    poems = [piece.poem for piece in pieces if isinstance(piece, Taken)]
    if not poems:
        left_out = next((piece.reason for piece in pieces if isinstance(piece, LeftOut)), None)
        what = f"only poems that are {left_out}" if left_out else "no poems"
        raise InputError(f"{path} holds {what}.")
    return poems


def _pieces(path: Path) -> list[Found]:
    try:
        pieces = read_file(path)
    except PoemFileError as error:
        raise InputError(str(error)) from error
    for piece in pieces:
        if isinstance(piece, Refused) and piece.fault == "other_format":
            raise InputError(f"{piece} It holds no poems.")
    return pieces


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line} is not UTF-8; save the file as UTF-8.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
