"""The rows of a data folder: `train.jsonl`, `valid.jsonl`, `test.jsonl`, as mlx-lm has them."""

from pathlib import Path

import msgspec

from verse import jsonl
from verse.records import TrainingExample
from verse_trainer.errors import DataSetError

_ROW = msgspec.json.Decoder(TrainingExample)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation to learn from, and where it stands."""

    example: TrainingExample
    path: Path
    line: int
    """Counted from 1."""

    @property
    def place(self) -> str:
        """`train.jsonl:12`, as errors name it."""
        return f"{self.path}:{self.line}"


def read_rows(path: Path) -> list[Row]:
    """Read all rows of one file.

    Raises:
        DataSetError: the file is missing, or a row is no conversation; names file and line.
    """
    try:
        scanned = list(jsonl.scan(path, _ROW))
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror}.") from error
    rows: list[Row] = []
    for line, example in scanned:
        if isinstance(example, jsonl.JsonlError):
            raise DataSetError(str(example))
        rows.append(Row(example=example, path=path, line=line))
    return rows
