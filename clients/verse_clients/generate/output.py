"""The file that poems go to, one a line, each on the disk before it counts as written.

The file is the run's only memory: what is in it is not asked for again.
"""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from verse import jsonl
from verse.records import Candidate
from verse_clients.file_lock import FileLock
from verse_clients.generate.errors import OutputError
from verse_clients.generate.inputs import read_candidates
from verse_clients.generate.plan import Cell, strangers


class Output:
    """An open file of poems; this process is the only one that writes it."""

    def __init__(self, path: Path) -> None:
        """Open the file, or begin it.

        Raises:
            OutputError: it is in use, is no file of poems, or cannot be written.
        """
        self.path = path
        self.torn: Path | None = None
        """Where a last line that was cut off was moved to."""
        try:
            path.touch()
            taken = OutputError(f"{path} is being written by another run; wait, or name another.")
            self._lock = FileLock(path, taken)
            self.torn = jsonl.set_torn_line_aside(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
        self.poems = read_candidates(path)
        """What was in it when it was opened."""
        self._waiting: list[Candidate] = []
        self._flush: asyncio.Task[None] | None = None

    async def write(self, poem: Candidate) -> None:
        """Add a poem; returns when it is on the disk.

        Poems that come while others are being written go to the disk together. Being cancelled
        takes nothing back: `close` waits for it.

        Raises:
            OutputError: the disk refuses.
        """
        self._waiting.append(poem)
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._flush_all())
        await asyncio.shield(self._flush)

    async def close(self) -> None:
        """Wait for what is being written, and let the file go.

        Raises:
            OutputError: the disk refuses.
        """
        try:
            if self._flush is not None:
                await self._flush
        finally:
            self._lock.release()

    async def _flush_all(self) -> None:
        while self._waiting:
            poems = list(self._waiting)
            try:
                await asyncio.to_thread(jsonl.append, self.path, *poems)
            except OSError as error:
                reason = f"{self.path} cannot be written: {error.strerror}"
                raise OutputError(f"{reason}; run the same command again when it can.") from error
            del self._waiting[: len(poems)]


def check_plan(path: Path, plan: Iterable[Cell], written: Sequence[Candidate]) -> None:
    """Refuse to mix the poems of two plans.

    Raises:
        OutputError: the file has poems that the plan does not ask for.
    """
    others = strangers(plan, written)
    if others:
        raise OutputError(
            f"{path} holds {len(others)} poems of another plan (such as one on "
            f"{others[0].theme!r}); name another file with -o, or add to it with --extend."
        )
