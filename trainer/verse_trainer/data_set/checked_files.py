"""The files of a data set, read for `verse data check`: nothing that is wrong stops the reading."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from verse import jsonl, verdicts
from verse.prompt import POEM_SYSTEM
from verse.records import Poem
from verse_trainer.data_set.checks import Entry, Kind, Problem
from verse_trainer.data_set.importing import POEMS_FILE, read_source
from verse_trainer.data_set.pieces import LeftOut, Refused, Taken, doubts
from verse_trainer.data_set.rows import (
    TEST_FILE,
    TRAIN_FILE,
    VALID_FILE,
    DataRow,
    RowError,
    scan_rows,
)
from verse_trainer.data_set.splitting import to_row
from verse_trainer.errors import DataSetError

ROW_FILES = (TRAIN_FILE, VALID_FILE, TEST_FILE)

_POEM = msgspec.json.Decoder(Poem)
Unknown = tuple[tuple[str, str], ...]
"""Keys that sound like a verdict and are not known, each with its value."""

_RAW = msgspec.json.Decoder(msgspec.Raw)
_KEYS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class CheckedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file, as it was read."""

    path: Path
    entries: tuple[Entry, ...]
    faults: tuple[Problem, ...]
    """Lines that could not be read."""


def read_checked(path: Path) -> list[CheckedFile]:
    """The files of a data folder, or the one file.

    Raises:
        DataSetError: there is nothing to check, or a file cannot be read.
    """
    return _read_folder(path) if path.is_dir() else [_read_file(path)]


def _read_folder(folder: Path) -> list[CheckedFile]:
    names = [name for name in (POEMS_FILE, *ROW_FILES) if (folder / name).exists()]
    if not names:
        raise DataSetError(
            f"{folder} has no {POEMS_FILE} and no {TRAIN_FILE}; make one with `verse data import`."
        )
    return [_read_file(folder / name) for name in names]


def _read_file(path: Path) -> CheckedFile:
    if path.name in ROW_FILES:
        file = _read_rows(path)
    elif path.name == POEMS_FILE:
        file = _read_poems(path)
    else:
        file = _read_any(path)
    if not file.entries and not file.faults:
        nothing = Problem(kind="empty", path=path, line=1, message="there is nothing in this file")
        return msgspec.structs.replace(file, faults=(nothing,))
    return file


def _read_rows(path: Path) -> CheckedFile:
    scanned = list(scan_rows(path))
    rows = [row for row in scanned if isinstance(row, DataRow)]
    return CheckedFile(
        path=path,
        entries=tuple(Entry(path=path, line=r.line, messages=r.example.messages) for r in rows),
        faults=(
            *(_row_fault(path, row) for row in scanned if isinstance(row, RowError)),
            *_doubts(path, ((row.line, row.unknown) for row in rows)),
        ),
    )


def _row_fault(path: Path, row: RowError) -> Problem:
    kind: Kind = "rejected" if row.is_verdict else "other_format"
    return Problem(kind=kind, path=path, line=row.line, message=row.problem)


def _read_poems(path: Path) -> CheckedFile:
    try:
        scanned = list(verdicts.scan(path, _POEM))
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror}.") from error
    entries: list[Entry] = []
    faults: list[Problem] = []
    for line, poem in scanned:
        if isinstance(poem, jsonl.JsonlError):
            faults.append(_poem_fault(path, line, poem))
        else:
            entries.append(_entry(path, line, poem))
    return CheckedFile(
        path=path, entries=tuple(entries), faults=(*faults, *_doubts(path, _unknown(path)))
    )


def _poem_fault(path: Path, line: int, error: jsonl.JsonlError) -> Problem:
    problem, kind = error.problem.rstrip("."), "rejected"
    if not isinstance(error, verdicts.LeftOutError):
        kind = "other_format"
        problem = f"this is not a poem: {problem}; `verse data import` reads other formats"
    return Problem(kind=kind, path=path, line=line, message=problem)


def _left_out(piece: LeftOut) -> Problem:
    message = f"`verse data import` leaves this out: it was {piece.reason}"
    return Problem(kind="left_out", path=piece.path, line=piece.line, message=message)


def _doubts(path: Path, unknown: Iterable[tuple[int, Unknown]]) -> Iterator[Problem]:
    """Keys that sound like a verdict, once for each."""
    for line, doubt in doubts(unknown):
        yield Problem(kind="unknown_verdict", path=path, line=line, message=doubt)


def _unknown(path: Path) -> Iterator[tuple[int, Unknown]]:
    for line, raw in jsonl.scan(path, _RAW):
        if not isinstance(raw, jsonl.JsonlError):
            with suppress(verdicts.VerdictError):
                yield line, verdicts.read_verdict(raw).unknown


def _read_any(path: Path) -> CheckedFile:
    found = read_source(path)
    taken = [piece for piece in found if isinstance(piece, Taken)]
    refused = [piece for piece in found if isinstance(piece, Refused)]
    return CheckedFile(
        path=path,
        entries=tuple(_entry(path, piece.line, piece.poem) for piece in taken),
        faults=(
            *(Problem(kind=p.fault, path=path, line=p.line, message=p.problem) for p in refused),
            *(_left_out(piece) for piece in found if isinstance(piece, LeftOut)),
            *_doubts(path, ((piece.line, piece.unknown) for piece in taken)),
        ),
    )


def _entry(path: Path, line: int, poem: Poem) -> Entry:
    """A poem as the row that `verse data split` makes of it."""
    row = to_row(poem, POEM_SYSTEM)
    return Entry(path=path, line=line, messages=row.messages, poem_id=poem.id)


def num_keys(file: CheckedFile) -> list[int]:
    """How many keys the row of each entry has; mlx-lm takes that for its length."""
    by_line = {
        line: len(keys)
        for line, keys in jsonl.scan(file.path, _KEYS)
        if not isinstance(keys, jsonl.JsonlError)
    }
    return [by_line[entry.line] for entry in file.entries]
