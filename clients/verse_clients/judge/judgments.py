"""The answers on the disk: one line each, added before it counts, never asked for twice."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from verse import jsonl
from verse.journal import AsyncJournal, read_entries
from verse.records import AnswerFormat, Judgment
from verse_clients.errors import OutputError

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
        taken = OutputError(f"{path} is in use by another run; wait, or name another --cache.")
        try:
            self._journal = AsyncJournal(path, _DECODER, taken)
        except jsonl.JsonlError as error:
            raise _no_judgments(error) from error
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror}.") from error
        if self._journal.problem is not None:
            raise OutputError(f"{path} cannot be written: {self._journal.problem}.")
        self.torn = self._journal.torn
        """Where a last line that was cut off was moved to."""
        known = self._journal.entries
        self._formats: dict[tuple[str, str], AnswerFormat] = {
            (j.server, j.judge): j.format for j in known if j.format is not None
        }
        self._identities = identities(known)
        self._by_key = given(known, ask_again=ask_again)

    @property
    def path(self) -> Path:
        """Where answers go; it changes if somebody replaces the file."""
        return self._journal.path

    @property
    def recovered(self) -> str | None:
        """What happened to the file meanwhile, and where its answers are, in one sentence."""
        return self._journal.recovered

    def find(self, key: str) -> Judgment | None:
        """An answer given earlier; a call that failed is no answer."""
        return self._by_key.get(key)

    def format_of(self, server: str, judge: str) -> AnswerFormat | None:
        """The form in which this judge answered last."""
        return self._formats.get((server, judge))

    def identity_of(self, server: str, judge: str) -> str | None:
        """Who answered under this name the last time; None if nobody did."""
        return self._identities.get((server, judge))

    def num_others(self, server: str, judge: str, identity: str) -> int:
        """How many answers were given under this name by another model, or by nobody knows whom."""
        others = (j for j in self._by_key.values() if (j.server, j.judge) == (server, judge))
        return sum(judgment.identity != identity for judgment in others)

    async def add(self, judgment: Judgment) -> None:
        """Keep an answer; returns when it is on the disk.

        Raises:
            OutputError: the disk refuses.
        """
        if not await self._journal.add(judgment):
            raise self._refused()
        self._by_key[judgment.key] = judgment

    async def close(self) -> None:
        """Wait for what is being written, try a last time what was refused, and let the file go.

        Raises:
            OutputError: the disk refuses.
        """
        if not await self._journal.finish():
            raise self._refused()

    def _refused(self) -> OutputError:
        reason = f"{self.path} cannot be written: {self._journal.problem}"
        return OutputError(f"{reason}; fix that and run the same command again.")


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


def identities(known: Iterable[Judgment]) -> dict[tuple[str, str], str]:
    """Who answered last, by server and name."""
    return {(judgment.server, judgment.judge): judgment.identity for judgment in known}


def read_judgments(path: Path) -> list[Judgment]:
    """Read judgments without touching the file; a last line that was cut off is passed over.

    Raises:
        OutputError: the file holds something else.
        OSError: it cannot be read.
    """
    try:
        return read_entries(path, _DECODER)
    except jsonl.JsonlError as error:
        raise _no_judgments(error) from error


def _no_judgments(error: jsonl.JsonlError) -> OutputError:
    return OutputError(f"{error} It holds no judgments; name another --cache.")
