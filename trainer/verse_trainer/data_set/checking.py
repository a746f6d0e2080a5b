"""`verse data check`: read a data set, run all checks on it, by a base model's own tokenizer.

Nothing that is wrong in a file stops the reading: it is a problem like those that the checks find.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec

from verse import jsonl, verdicts
from verse.base_model import BaseTokenizer, load_base_tokenizer
from verse.poem_files import LeftOut, Refused, Taken, doubts, read_file
from verse.poem_split import SPLIT_FILE, read_split
from verse.prompt import POEM_SYSTEM, Message, PromptFormat, render
from verse.records import Poem
from verse_trainer.data_set import checks
from verse_trainer.data_set.checks import CheckReport, Entry, Kind, Measure, Problem
from verse_trainer.data_set.documents import read_document
from verse_trainer.data_set.importing import POEMS_FILE
from verse_trainer.data_set.rows import (
    TEST_FILE,
    TRAIN_FILE,
    VALID_FILE,
    DataRow,
    RowError,
    scan_rows,
    to_row,
)
from verse_trainer.errors import DataSetError

_ROW_FILES = (TRAIN_FILE, VALID_FILE, TEST_FILE)
_NEIGHBOUR = "一"
"""Some tokenizers put a mark before the first character; it is no part of what is measured."""

_POEM = msgspec.json.Decoder(Poem)
_Unknown = tuple[tuple[str, str], ...]
"""Keys that sound like a verdict and are not known, each with its value."""

_RAW = msgspec.json.Decoder(msgspec.Raw)
_KEYS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class CheckedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file, as it was read."""

    path: Path
    entries: tuple[Entry, ...]
    faults: tuple[Problem, ...]
    """Lines that could not be read."""


def _read_checked(path: Path) -> list[CheckedFile]:
    """The files of a data folder, or the one file.

    Raises:
        DataSetError: there is nothing to check, or a file cannot be read.
    """
    return _read_folder(path) if path.is_dir() else [_read_file(path)]


def _read_folder(folder: Path) -> list[CheckedFile]:
    names = [name for name in (POEMS_FILE, *_ROW_FILES) if (folder / name).exists()]
    if not names:
        raise DataSetError(
            f"{folder} has no {POEMS_FILE} and no {TRAIN_FILE}; make one with `verse data import`."
        )
    return [_read_file(folder / name) for name in names]


def _read_file(path: Path) -> CheckedFile:
    if path.name in _ROW_FILES:
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


def _refused(piece: Refused) -> Problem:
    kind: Kind = "empty" if piece.fault == "empty" else "other_format"
    return Problem(kind=kind, path=piece.path, line=piece.line, message=piece.problem)


def _left_out(piece: LeftOut) -> Problem:
    message = f"`verse data import` leaves this out: it was {piece.reason}"
    return Problem(kind="left_out", path=piece.path, line=piece.line, message=message)


def _doubts(path: Path, unknown: Iterable[tuple[int, _Unknown]]) -> Iterator[Problem]:
    """Keys that sound like a verdict, once for each."""
    for line, doubt in doubts(unknown):
        yield Problem(kind="unknown_verdict", path=path, line=line, message=doubt)


def _unknown(path: Path) -> Iterator[tuple[int, _Unknown]]:
    for line, raw in jsonl.scan(path, _RAW):
        if not isinstance(raw, jsonl.JsonlError):
            with suppress(verdicts.VerdictError):
                yield line, verdicts.read_verdict(raw).unknown


def _read_any(path: Path) -> CheckedFile:
    found = read_file(path, documents=[read_document])
    taken = [piece for piece in found if isinstance(piece, Taken)]
    refused = [piece for piece in found if isinstance(piece, Refused)]
    return CheckedFile(
        path=path,
        entries=tuple(_entry(path, piece.line, piece.poem) for piece in taken),
        faults=(
            *(_refused(piece) for piece in refused),
            *(_left_out(piece) for piece in found if isinstance(piece, LeftOut)),
            *_doubts(path, ((piece.line, piece.unknown) for piece in taken)),
        ),
    )


def _entry(path: Path, line: int, poem: Poem) -> Entry:
    """A poem as the row that `verse data split` makes of it."""
    row = to_row(poem, POEM_SYSTEM)
    return Entry(path=path, line=line, messages=row.messages, poem_id=poem.id)


def _num_keys(file: CheckedFile) -> list[int]:
    """How many keys the row of each entry has; mlx-lm takes that for its length."""
    by_line = {
        line: len(keys)
        for line, keys in jsonl.scan(file.path, _KEYS)
        if not isinstance(keys, jsonl.JsonlError)
    }
    return [by_line[entry.line] for entry in file.entries]


class TokenizerMeasure:
    """A `Measure`; the frame is the model's own chat template."""

    def __init__(self, base: BaseTokenizer) -> None:
        self._tokenizer = base.hf_tokenizer
        tokenizer = cast(Any, base.hf_tokenizer)
        # It would warn of long texts; here their length is what is asked for.
        tokenizer.model_max_length = sys.maxsize
        self._unknown = tokenizer.unk_token_id
        self._is_hard = cache(self._spelt_in_pieces)

    def num_tokens(self, messages: tuple[Message, ...]) -> int:
        """Of the whole conversation, frame included.

        Raises:
            PromptError: the chat template refuses it.
        """
        return len(render(messages, PromptFormat(), self._tokenizer).token_ids)

    def hard_characters(self, text: str) -> list[str]:
        """Characters without a token of their own, each once, in order."""
        characters = dict.fromkeys(c for c in text if not c.isspace())
        return [character for character in characters if self._is_hard(character)]

    def _spelt_in_pieces(self, character: str) -> bool:
        with_it = self._encode(_NEIGHBOUR + character)
        num_own = len(with_it) - len(self._encode(_NEIGHBOUR))
        return num_own > 1 or self._unknown in with_it

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


def check_data(
    path: Path, model: str, *, batch_size: int, max_seq_length: int, for_mlx_lm: bool = False
) -> CheckReport:
    """Check a data folder or one file.

    Args:
        path: A folder with poems.jsonl, train.jsonl and so on, or any file that can be imported.
        model: The base model; only its tokenizer is loaded.
        batch_size: Of the training.
        max_seq_length: Of the training, in tokens.
        for_mlx_lm: Name the rows, too, that mlx_lm.lora would leave out.

    Raises:
        DataSetError: there is nothing to check.
        BaseModelError: the tokenizer cannot be loaded.
    """
    files = _read_checked(path)
    base = load_base_tokenizer(model)
    limit = min(base.context_length, max_seq_length)
    problems = [
        *_within(files, TokenizerMeasure(base), limit),
        *_across(files),
        *(_unreached(files, batch_size) if for_mlx_lm else ()),
    ]
    order = [file.path for file in files]
    return CheckReport(
        num_entries={str(file.path): len(file.entries) for file in files},
        limit=limit,
        model=model,
        problems=tuple(sorted(problems, key=lambda p: (order.index(p.path), p.line))),
    )


def _within(files: Sequence[CheckedFile], measure: Measure, limit: int) -> Iterator[Problem]:
    """In each file by itself; a poem's problem is not reported again of the row made of it."""
    reported: set[tuple[str, str]] = set()
    for file in files:
        entries = [entry for entry in file.entries if (entry.theme, entry.text) not in reported]
        yield from file.faults
        yield from checks.empty(entries)
        yield from checks.too_long(entries, measure, limit)
        yield from checks.repeated(entries)
        yield from checks.hard_characters(entries, measure)
        if file.path.name == POEMS_FILE:
            reported = {(entry.theme, entry.text) for entry in entries}


def _across(files: Sequence[CheckedFile]) -> Iterator[Problem]:
    """Between what is learned and what measures, by the rows and by the frozen split."""
    by_name = {file.path.name: file.entries for file in files}
    train, valid = by_name.get(TRAIN_FILE, ()), by_name.get(VALID_FILE, ())
    poems = by_name.get(POEMS_FILE, ())
    split = read_split(files[0].path.with_name(SPLIT_FILE))
    valid_ids = split.valid if split else ()
    frozen = [poem for poem in poems if poem.poem_id in valid_ids]
    held_back = list(checks.held_back(poems, valid_ids))
    yield from checks.leaks(train, [*valid, *by_name.get(TEST_FILE, ()), *frozen])
    yield from held_back
    if train and split:
        reported = {problem.line for problem in held_back}
        others = [poem for poem in poems if poem.line not in reported]
        yield from checks.unsplit(others, [*train, *valid])


def _unreached(files: Sequence[CheckedFile], batch_size: int) -> Iterator[Problem]:
    """In the rows mlx-lm would read; where there are none yet, in what they will be made of."""
    rows = [file for file in files if file.path.name in _ROW_FILES]
    for file in rows or files:
        counts = _num_keys(file) if rows else [1] * len(file.entries)
        yield from checks.unreached(file.entries, counts, batch_size)
