"""The files of a data set, read for `verse data check`: nothing that is wrong stops the reading."""

from pathlib import Path

import msgspec

from verse import jsonl
from verse.prompt import POEM_SYSTEM
from verse.records import Poem
from verse_trainer.data_set.found import Refused, Taken
from verse_trainer.data_set.importing import POEMS_FILE
from verse_trainer.data_set.problems import Entry, Problem
from verse_trainer.data_set.rows import TEST_FILE, TRAIN_FILE, VALID_FILE, Row, scan_rows
from verse_trainer.data_set.sources import read_source
from verse_trainer.data_set.splitting import to_row
from verse_trainer.errors import DataSetError

ROW_FILES = (TRAIN_FILE, VALID_FILE, TEST_FILE)

_POEM = msgspec.json.Decoder(Poem)
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
    return CheckedFile(
        path=path,
        entries=tuple(
            Entry(path=path, line=row.line, messages=row.example.messages)
            for row in scanned
            if isinstance(row, Row)
        ),
        faults=tuple(
            _other_format(path, row.line, row.problem)
            for row in scanned
            if not isinstance(row, Row)
        ),
    )


def _read_poems(path: Path) -> CheckedFile:
    try:
        scanned = list(jsonl.scan(path, _POEM))
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror}.") from error
    entries: list[Entry] = []
    faults: list[Problem] = []
    for line, poem in scanned:
        if isinstance(poem, jsonl.JsonlError):
            problem = (
                f"this is no poem: {poem.problem.rstrip('.')}; `verse data import` reads others"
            )
            faults.append(_other_format(path, line, problem))
        else:
            entries.append(_entry(path, line, poem))
    return CheckedFile(path=path, entries=tuple(entries), faults=tuple(faults))


def _read_any(path: Path) -> CheckedFile:
    found = read_source(path)
    return CheckedFile(
        path=path,
        entries=tuple(_entry(path, p.line, p.poem) for p in found if isinstance(p, Taken)),
        faults=tuple(
            Problem(kind=p.fault, path=path, line=p.line, message=p.problem)
            for p in found
            if isinstance(p, Refused)
        ),
    )


def _entry(path: Path, line: int, poem: Poem) -> Entry:
    """A poem as the row that `verse data split` makes of it."""
    row = to_row(poem, POEM_SYSTEM)
    return Entry(path=path, line=line, messages=row.messages, poem_id=poem.id)


def _other_format(path: Path, line: int, problem: str) -> Problem:
    return Problem(kind="other_format", path=path, line=line, message=problem)


def num_keys(file: CheckedFile) -> list[int]:
    """How many keys the row of each entry has; mlx-lm takes that for its length."""
    by_line = {
        line: len(keys)
        for line, keys in jsonl.scan(file.path, _KEYS)
        if not isinstance(keys, jsonl.JsonlError)
    }
    return [by_line[entry.line] for entry in file.entries]
