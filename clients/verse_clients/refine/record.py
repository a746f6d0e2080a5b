"""What a round has done, `round.json`: written before and after every step, so a kill is seen."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from verse.atomic_file import replace_file
from verse.records import Moment
from verse_clients.refine.errors import RoundError
from verse_clients.refine.steps import StepName

RECORD_FILE = "round.json"
_BLOCK_BYTES = 1 << 20

Hashes = dict[str, str | None]
"""Path to sha256 of its content; None for a file that is not there."""


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one step."""

    step: StepName
    commands: tuple[str, ...]
    """As one would type them."""
    inputs: Hashes
    """Before it began."""
    outputs: Hashes = {}
    """When it had ended."""
    started: Moment
    finished: Moment | None = None
    """None while it runs, and for ever if it was killed."""
    exit: int | None = None
    """Exit code of the last command that ran."""
    tail: tuple[str, ...] = ()
    """The last lines it wrote to standard error, if it failed."""


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All runs, the oldest first."""

    runs: tuple[Ran, ...] = ()

    def last(self, step: StepName) -> Ran | None:
        """The latest run of a step; None if it never ran."""
        return next((ran for ran in reversed(self.runs) if ran.step == step), None)

    def with_begun(self, ran: Ran) -> "RoundRecord":
        """The record with one more run."""
        return RoundRecord(runs=(*self.runs, ran))

    def with_ended(self, ran: Ran) -> "RoundRecord":
        """The record with the end of its latest run."""
        return RoundRecord(runs=(*self.runs[:-1], ran))


def read_record(folder: Path) -> RoundRecord:
    """Read what a round has done; nothing if it has not begun.

    Raises:
        RoundError: the file holds something else.
    """
    path = folder / RECORD_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=RoundRecord)
    except FileNotFoundError:
        return RoundRecord()
    except OSError as error:
        raise RoundError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise RoundError(
            f"{path} is not the record of a round: {error}; restore it, or move it away to run "
            "the steps again."
        ) from error


def write_record(folder: Path, record: RoundRecord) -> None:
    """Replace the record at once.

    Raises:
        RoundError: the disk refuses.
    """
    path = folder / RECORD_FILE
    try:
        replace_file(path, [msgspec.json.format(msgspec.json.encode(record), indent=1), b"\n"])
    except OSError as error:
        raise RoundError(f"{path} cannot be written: {error.strerror}.") from error


def hashes(paths: Iterable[Path]) -> Hashes:
    """What the files hold now.

    Raises:
        OSError: a file is there and cannot be read.
    """
    return {str(path): _hash(path) for path in paths}


def _hash(path: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()
