"""The journal of decisions, `decisions.jsonl`: opened by those who decide, read by those who learn.

`verse curate` holds it open as long as its window is; the server's page opens it for one decision
at a time. So both can write the same journal, though never at once.

UserError
└── JournalError       the decisions cannot be opened or do not fit together
    └── LockedError    somebody else has them open
"""

from pathlib import Path

import msgspec
from rapidfuzz.distance import Levenshtein

from verse import UserError, jsonl
from verse.journal import Journal, read_entries
from verse.records import JournalEntry

_DECODER = msgspec.json.Decoder(JournalEntry)


class JournalError(UserError):
    """The decisions cannot be opened or do not fit together."""


class LockedError(JournalError):
    """Somebody else has the decisions open."""


def open_journal(path: Path) -> Journal[JournalEntry]:
    """Open a journal, or begin one. What the disk refuses waits in memory.

    Raises:
        LockedError: a window, or a server at this moment, has it open.
        JournalError: the file holds something else, or cannot be read.
    """
    if path.is_dir():
        raise JournalError(f"{path} is a folder; name a file for the decisions.")
    in_use = LockedError(f"{path} is open in another window; close that first.")
    try:
        return Journal(path, _DECODER, in_use)
    except jsonl.JsonlError as error:
        raise _holds_something_else(error) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def read_journal(path: Path) -> list[JournalEntry]:
    """Read a journal without touching it; a last line that was cut off is passed over.

    Raises:
        JournalError: the file is missing or holds something else.
    """
    try:
        return read_entries(path, _DECODER)
    except jsonl.JsonlError as error:
        raise _holds_something_else(error) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def edit_distance(original: str, edited: str) -> int:
    """Characters to insert, delete or replace."""
    return Levenshtein.distance(original, edited)


def _holds_something_else(error: jsonl.JsonlError) -> JournalError:
    return JournalError(f"{error} It holds no decisions.")


def _unreadable(path: Path, error: OSError) -> JournalError:
    return JournalError(f"{path} cannot be read: {error.strerror}.")
