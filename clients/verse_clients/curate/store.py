"""The journal on the disk: `decisions.jsonl`, only ever added to.

A decision is on the disk when `write` returns, or else in memory, with `problem` saying why; the
next `write` or `retry` brings both to the disk, in order. Opening puts a last line that was cut off
into `decisions.jsonl.torn`.
"""

from pathlib import Path

from verse import jsonl
from verse.records import JournalEntry
from verse_clients.curate.errors import LockedError
from verse_clients.decisions import JournalError
from verse_clients.decisions.journal import read_journal
from verse_clients.file_lock import FileLock


class Store:
    """An open journal; the only writer of its file."""

    def __init__(self, path: Path) -> None:
        """Open a journal, or begin one.

        Raises:
            LockedError: another window has it open.
            JournalError: the file holds something else.
        """
        self.path = path
        self.torn: Path | None = None
        """Where a last line that was cut off was moved to."""
        self.problem: str | None = None
        """Why `num_waiting` entries are not on the disk."""
        self._waiting: list[JournalEntry] = []
        self._lock: FileLock | None = None
        self._begin()
        self.entries = read_journal(path) if path.exists() else []

    @property
    def num_waiting(self) -> int:
        """Entries that are in memory only."""
        return len(self._waiting)

    def write(self, *entries: JournalEntry) -> bool:
        """Bring entries, and those still waiting, to the disk.

        Returns:
            Whether all of them are there; `problem` says why not.
        """
        self._waiting.extend(entries)
        return self.retry()

    def retry(self) -> bool:
        """Try again to bring what waits to the disk."""
        if not self._waiting:
            return True
        try:
            if self._lock is None:  # the disk refused until now
                self._begin()
            jsonl.append(self.path, *self._waiting)
        except (OSError, jsonl.JsonlError, JournalError) as error:
            self.problem = _reason(error)
            return False
        self._waiting.clear()
        self.problem = None
        return True

    def close(self) -> bool:
        """Try a last time, then let go; returns whether everything is on the disk."""
        written = self.retry()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        return written

    def _begin(self) -> None:
        """Take the lock and put a torn line aside, as far as the disk allows."""
        try:
            self.path.touch()
        except OSError as error:
            self.problem = _reason(error)
        if not self.path.exists():
            return
        if self.path.is_dir():
            raise JournalError(f"{self.path} is a folder; name a file for the decisions.")
        try:
            taken = LockedError(f"{self.path} is open in another window; close that first.")
            self._lock = FileLock(self.path, taken)
            self.torn = jsonl.set_torn_line_aside(self.path)
        except OSError as error:
            self.problem = _reason(error)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
