"""The file that poems go to, one a line, each on the disk before it counts as written.

The file is the run's only memory: what is in it is not asked for again.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from verse import jsonl
from verse.journal import Journal
from verse.records import Candidate
from verse_clients.errors import InputError, OutputError
from verse_clients.generate.plan import Cell, unexpected

_DECODER = msgspec.json.Decoder(Candidate)


class Output:
    """An open file of poems; this process is the only one that writes it."""

    def __init__(self, path: Path, report: Callable[[str], object]) -> None:
        """Open the file, or begin it.

        Args:
            path: The file.
            report: Takes a line for the person who waits.

        Raises:
            InputError: it holds something else.
            OutputError: it is in use, or cannot be written.
        """
        taken = OutputError(f"{path} is being written by another run; wait, or name another.")
        try:
            self._journal = Journal(path, _DECODER, taken)
        except jsonl.JsonlError as error:
            raise InputError(f"{error} It holds no poems.") from error
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror}.") from error
        if self._journal.problem is not None:
            raise OutputError(f"{path} cannot be written: {self._journal.problem}.")
        self.torn = self._journal.torn
        """Where a last line that was cut off was moved to."""
        self.poems = list(self._journal.entries)
        """What was in it when it was opened."""
        self._report = report
        self._reported: str | None = None
        self._waiting: list[Candidate] = []
        self._flush: asyncio.Task[None] | None = None

    @property
    def path(self) -> Path:
        """Where poems go; it changes if somebody replaces the file."""
        return self._journal.path

    @property
    def recovered(self) -> str | None:
        """What happened to the file meanwhile, and where its poems are, in one sentence."""
        return self._journal.recovered

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
        """Wait for what is being written, try a last time what was refused, and let the file go.

        Raises:
            OutputError: the disk refuses.
        """
        if self._flush is not None:
            with suppress(OutputError):  # it is tried once more
                await self._flush
        await asyncio.to_thread(self._journal.write, *self._waiting)
        is_there = await asyncio.to_thread(self._journal.close)
        self._report_recovered()
        if not is_there:
            raise self._refused()

    async def _flush_all(self) -> None:
        while self._waiting:
            poems, self._waiting = self._waiting, []
            is_there = await asyncio.to_thread(self._journal.write, *poems)
            self._report_recovered()
            if not is_there:
                raise self._refused()

    def _report_recovered(self) -> None:
        if self.recovered is not None and self.recovered != self._reported:
            self._report(self.recovered)
        self._reported = self.recovered

    def _refused(self) -> OutputError:
        reason = f"{self.path} cannot be written: {self._journal.problem}"
        return OutputError(f"{reason}; run the same command again when it can.")


def check_plan(path: Path, plan: Iterable[Cell], written: Sequence[Candidate]) -> None:
    """Refuse to mix the poems of two plans.

    Raises:
        OutputError: the file has poems that the plan does not ask for.
    """
    others = unexpected(plan, written)
    if others:
        raise OutputError(
            f"{path} holds {len(others)} poems of another plan (such as one on "
            f"{others[0].theme!r}); name another file with -o, or add to it with --extend."
        )
