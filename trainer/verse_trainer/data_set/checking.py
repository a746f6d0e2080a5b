"""`verse data check`: read a data set, run all checks on it, by a base model's own tokenizer."""

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from verse.base_model import BaseTokenizer, load_base_tokenizer
from verse.poem_split import SPLIT_FILE, read_split
from verse.prompt import Message, PromptFormat, render
from verse_trainer.data_set import checks
from verse_trainer.data_set.checked_files import ROW_FILES, CheckedFile, num_keys, read_checked
from verse_trainer.data_set.checks import CheckReport, Measure, Problem
from verse_trainer.data_set.importing import POEMS_FILE
from verse_trainer.data_set.rows import TEST_FILE, TRAIN_FILE, VALID_FILE

_NEIGHBOUR = "一"
"""Some tokenizers put a mark before the first character; it is no part of what is measured."""


class TokenizerMeasure:
    """A `Measure`; the frame is the model's own chat template."""

    def __init__(self, base: BaseTokenizer) -> None:
        self._tokenizer = base.tokenizer
        tokenizer = cast(Any, base.tokenizer)
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


def check_data(path: Path, model: str, *, batch_size: int, max_seq_length: int) -> CheckReport:
    """Check a data folder or one file.

    Args:
        path: A folder with poems.jsonl, train.jsonl and so on, or any file that can be imported.
        model: The base model; only its tokenizer is loaded.
        batch_size: Of the training.
        max_seq_length: Of the training, in tokens.

    Raises:
        DataSetError: there is nothing to check.
        BaseModelError: the tokenizer cannot be loaded.
    """
    files = read_checked(path)
    base = load_base_tokenizer(model)
    limit = min(base.context_length, max_seq_length)
    problems = [
        *_within(files, TokenizerMeasure(base), limit),
        *_across(files),
        *_unreached(files, batch_size),
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
    rows = [file for file in files if file.path.name in ROW_FILES]
    for file in rows or files:
        counts = num_keys(file) if rows else [1] * len(file.entries)
        yield from checks.unreached(file.entries, counts, batch_size)
