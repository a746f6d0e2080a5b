"""The answers on the disk: one line each, added before it counts, never asked for twice."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import msgspec

from verse import jsonl
from verse.records import AnswerFormat, Judgment
from verse_clients.file_lock import FileLock
from verse_clients.judge.errors import OutputError

_DECODER = msgspec.json.Decoder(Judgment)


class Judgments:
    """An open file of judgments; this process is the only one that writes it."""

    def __init__(self, path: Path, *, ask_again: bool = False) -> None:
        """Open the file, or begin it.

        Args:
            path: The file.
            ask_again: Whether answers that could not be used count as not given.

        Raises:
            OutputError: it is in use, holds something else, or cannot be written.
        """
        self.path = path
        self.torn: Path | None = None
        """Where a last line that was cut off was moved to."""
        try:
            path.touch()
            taken = OutputError(f"{path} is in use by another run; wait, or name another --cache.")
            self._lock = FileLock(path, taken)
            self.torn = jsonl.set_torn_line_aside(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
        known = read_judgments(path)
        self._formats: dict[tuple[str, str], AnswerFormat] = {
            (j.server, j.judge): j.format for j in known if j.format is not None
        }
        self._by_key = given(known, ask_again=ask_again)
        self._writing = asyncio.Lock()

    def find(self, key: str) -> Judgment | None:
        """An answer given earlier; a call that failed is no answer."""
        return self._by_key.get(key)

    def format_of(self, server: str, judge: str) -> AnswerFormat | None:
        """The form in which this judge answered last."""
        return self._formats.get((server, judge))

    async def add(self, judgment: Judgment) -> None:
        """Keep an answer; returns when it is on the disk.

        Raises:
            OutputError: the disk refuses.
        """
        try:
            async with self._writing:
                await asyncio.to_thread(jsonl.append, self.path, judgment)
        except OSError as error:
            reason = f"{self.path} cannot be written: {error.strerror}"
            raise OutputError(f"{reason}; run the same command again when it can.") from error
        self._by_key[judgment.key] = judgment

    def close(self) -> None:
        """Let the file go."""
        self._lock.release()


def given(known: Iterable[Judgment], *, ask_again: bool) -> dict[str, Judgment]:
    """What need not be asked, by key. A call that failed is no answer.

    Args:
        known: All judgments of a file, in order.
        ask_again: Whether answers that could not be used count as not given.
    """
    return {
        judgment.key: judgment
        for judgment in known
        if judgment.outcome == "judged" or not (ask_again or judgment.outcome == "failed")
    }


def read_judgments(path: Path) -> list[Judgment]:
    """Read judgments without touching the file; a last line that was cut off is passed over.

    Raises:
        OutputError: the file holds something else.
        OSError: it cannot be read.
    """
    judgments: list[Judgment] = []
    for _, record in jsonl.scan(path, _DECODER):
        if isinstance(record, jsonl.TornLineError):
            break
        if isinstance(record, jsonl.JsonlError):
            raise OutputError(f"{record} It holds no judgments; name another --cache.")
        judgments.append(record)
    return judgments
