"""The journal on the disk, for those who only read it; `verse curate` writes it."""

from pathlib import Path

import msgspec

from verse import jsonl
from verse.records import JournalEntry
from verse_clients.decisions.errors import JournalError

_DECODER = msgspec.json.Decoder(JournalEntry)


def read_journal(path: Path) -> list[JournalEntry]:
    """Read a journal without touching it; a last line that was cut off is passed over.

    Raises:
        JournalError: the file is missing or holds something else.
    """
    try:
        found = [record for _, record in jsonl.scan(path, _DECODER)]
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error.strerror}.") from error
    entries: list[JournalEntry] = []
    for record in found:
        if isinstance(record, jsonl.TornLineError):
            break
        if isinstance(record, jsonl.JsonlError):
            raise JournalError(f"{record} It holds no decisions.")
        entries.append(record)
    return entries
