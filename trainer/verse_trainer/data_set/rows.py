"""The rows of a data folder: `train.jsonl`, `valid.jsonl`, `test.jsonl`, as mlx-lm has them.

A row is a conversation in one of the shapes of `verse.poem_files.conversations`.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from verse import jsonl
from verse.poem_files.conversations import ShapeError, decode_conversation
from verse.records import TrainingExample
from verse.verdicts import VerdictError, refuse_left_out
from verse_trainer.errors import DataSetError

TRAIN_FILE = "train.jsonl"
VALID_FILE = "valid.jsonl"
TEST_FILE = "test.jsonl"

_RAW = msgspec.json.Decoder(msgspec.Raw)


class DataRow(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation to learn from, and where it stands."""

    example: TrainingExample
    path: Path
    line: int
    """Counted from 1."""
    unknown: tuple[tuple[str, str], ...] = ()
    """Keys that sound like a verdict and are not known, each with its value."""

    @property
    def place(self) -> str:
        """`train.jsonl:12`, as errors name it."""
        return f"{self.path}:{self.line}"


class RowError(DataSetError):
    """A line is no conversation, or one that is not to be learned."""

    def __init__(self, path: Path, line: int, problem: str, *, is_verdict: bool = False) -> None:
        self.line = line
        self.problem = problem
        self.is_verdict = is_verdict
        """The row itself says that it is not to be learned."""
        hint = "" if is_verdict else "; `verse data import` reads poems in other formats"
        super().__init__(f"{path}:{line}: {problem}{hint}.")


def read_rows(path: Path) -> list[DataRow]:
    """Read all rows of one file, in its order.

    Raises:
        DataSetError: the file is missing, or a row is no conversation; names file and line.
    """
    rows: list[DataRow] = []
    for row in scan_rows(path):
        if isinstance(row, RowError):
            raise row
        rows.append(row)
    return rows


def scan_rows(path: Path) -> Iterator[DataRow | RowError]:
    """Yield each row, or what is wrong with it; blank lines are passed over.

    Raises:
        DataSetError: the file cannot be read.
    """
    try:
        for line, raw in jsonl.scan(path, _RAW):
            if isinstance(raw, jsonl.JsonlError):
                yield RowError(path, line, raw.problem.rstrip("."))
            else:
                yield _row(path, line, raw)
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror}.") from error


def _row(path: Path, line: int, raw: msgspec.Raw) -> DataRow | RowError:
    try:
        example = decode_conversation(raw).example
        reading = refuse_left_out(raw)
    except VerdictError as error:
        return RowError(path, line, f"this row is not learned: {error}", is_verdict=True)
    except (ShapeError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return RowError(path, line, f"this is not a training row: {error}")
    return DataRow(example=example, path=path, line=line, unknown=reading.unknown)
