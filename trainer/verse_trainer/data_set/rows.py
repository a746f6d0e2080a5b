"""The rows of a data folder: `train.jsonl`, `valid.jsonl`, `test.jsonl`, as mlx-lm has them.

A row is a conversation in one of three shapes, told apart as mlx-lm does it, by their keys:

{"messages": [{"role": ..., "content": ...}, ...]}      several turns allowed
{"prompt": ..., "completion": ...}                       one question, one answer
{"text": "<|im_start|>system ...<|im_end|> ..."}         see chatml
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from verse import jsonl
from verse.prompt import Message
from verse.records import Origin, TrainingExample
from verse.verdicts import VerdictError, refuse_left_out
from verse_trainer.data_set import chatml
from verse_trainer.errors import DataSetError

TRAIN_FILE = "train.jsonl"
VALID_FILE = "valid.jsonl"
TEST_FILE = "test.jsonl"

ConversationShape = Literal["messages", "completion", "seed", "chatml"]

_RAW = msgspec.json.Decoder(msgspec.Raw)


class ShapeError(ValueError):
    """The row is not of a known shape, or broken; says in what way."""


class _Completion(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str
    completion: str
    source: str = ""
    origin: Origin = "poet"


class _Text(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    source: str = ""
    origin: Origin = "poet"


class Conversation(msgspec.Struct, frozen=True):
    """A row as messages, and the shape it came in."""

    example: TrainingExample
    shape: ConversationShape


def looks_like_conversation(keys: Collection[str]) -> bool:
    """Whether these keys promise a conversation; `text` alone does when it is ChatML."""
    return "messages" in keys or {"prompt", "completion"} <= set(keys)


def decode_conversation(row: bytes | msgspec.Raw) -> Conversation:
    """Read one row of any of the three shapes.

    Raises:
        ShapeError: the row is no conversation, or has no answer to learn.
        msgspec.DecodeError: the row is no JSON object, or a value has the wrong type.
    """
    keys = msgspec.json.decode(row, type=dict[str, msgspec.Raw])
    if keys.get("tools"):
        raise ShapeError("it uses tools, which a poem has no use for")
    if "messages" in keys:
        example = msgspec.json.decode(row, type=TrainingExample)
        return _checked(Conversation(example, "messages"))
    if {"prompt", "completion"} <= keys.keys():
        return _from_completion(msgspec.json.decode(row, type=_Completion))
    if "text" in keys:
        return _from_text(msgspec.json.decode(row, type=_Text))
    raise ShapeError(f"its keys are {', '.join(keys) or 'none'}")


def _from_completion(row: _Completion) -> Conversation:
    turns = (Message("user", row.prompt), Message("assistant", row.completion))
    example = TrainingExample(messages=turns, source=row.source, origin=row.origin)
    return Conversation(example, "completion")


def _from_text(row: _Text) -> Conversation:
    try:
        turns = tuple(chatml.parse(row.text))
    except chatml.ChatmlError as error:
        raise ShapeError(f"its text is not a conversation: {error}") from error
    example = TrainingExample(messages=turns, source=row.source, origin=row.origin)
    shape = "seed" if chatml.has_seed_frame(row.text) else "chatml"
    return _checked(Conversation(example, shape))


def _checked(conversation: Conversation) -> Conversation:
    if not any(message.role == "assistant" for message in conversation.example.messages):
        raise ShapeError("it has no assistant's turn, so there is nothing to learn")
    return conversation


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
