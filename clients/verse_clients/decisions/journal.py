"""The journal on the disk, for those who only read it; `verse curate` writes it."""

from pathlib import Path

import msgspec

from verse import jsonl
from verse.journal import read_entries
from verse.records import JournalEntry
from verse_clients.decisions.errors import JournalError

_DECODER = msgspec.json.Decoder(JournalEntry)


def read_journal(path: Path) -> list[JournalEntry]:
    """Read a journal without touching it; a last line that was cut off is passed over.

    Raises:
        JournalError: the file is missing or holds something else.
    """
    try:
        return read_entries(path, _DECODER)
    except jsonl.JsonlError as error:
        raise JournalError(f"{error} It holds no decisions.") from error
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error.strerror}.") from error
