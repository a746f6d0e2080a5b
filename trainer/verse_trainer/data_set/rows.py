"""The rows of a data folder: `train.jsonl`, `valid.jsonl`, `test.jsonl`, as mlx-lm has them.

A row is a conversation (`verse.poem_files.conversations`), or any other row that holds one poem
(`verse.poem_files.shapes`): that is learned as `verse data split` would write it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from verse import jsonl
from verse.poem_files import LeftOut, Refused
from verse.poem_files.conversations import (
    ShapeError,
    decode_conversation,
    looks_like_conversation,
)
from verse.poem_files.json_files import read_row
from verse.prompt import POEM_SYSTEM, Message
from verse.records import Poem, TrainingExample
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
        example = _example(path, line, raw)
        reading = refuse_left_out(_without_weights(raw) if _is_learned_in_part(example) else raw)
    except VerdictError as error:
        return RowError(path, line, f"this row is not learned: {error}", is_verdict=True)
    except (ShapeError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return RowError(path, line, f"this is not a training row: {error}")
    return DataRow(example=example, path=path, line=line, unknown=reading.unknown)


def _is_learned_in_part(example: TrainingExample) -> bool:
    num_answers = sum(message.role == "assistant" for message in example.messages)
    return 0 < len(example.not_learned or ()) < num_answers


def _without_weights(raw: msgspec.Raw) -> msgspec.Raw:
    """The row as one whose answers are all learned: what else it says of itself still counts."""
    row = msgspec.json.decode(raw, type=dict[str, Any])
    for turn in row["messages"]:
        turn.pop("weight", None)
    return msgspec.Raw(msgspec.json.encode(row))


def _example(path: Path, line: int, raw: msgspec.Raw) -> TrainingExample:
    """A conversation as it stands, or a poem as the answer to its theme.

    Raises:
        ShapeError: the row holds neither.
        VerdictError: nobody decided about what a model wrote.
    """
    if looks_like_conversation(msgspec.json.decode(raw, type=dict[str, msgspec.Raw])):
        return decode_conversation(raw).example
    piece = read_row(raw, path, line)
    if isinstance(piece, Refused):
        raise ShapeError(piece.problem)
    if isinstance(piece, LeftOut):
        refuse_left_out(raw)
        raise VerdictError(
            f"it is {piece.reason}; take the line out, or decide about it with `verse curate`"
        )
    return to_row(piece.poem, POEM_SYSTEM)


def to_row(poem: Poem, system: str | None) -> TrainingExample:
    """A poem as the answer to its theme."""
    lead = () if system is None else (Message("system", system),)
    turns = (*lead, Message("user", poem.theme), Message("assistant", poem.text))
    return TrainingExample(messages=turns, source=poem.id, origin=poem.origin)
