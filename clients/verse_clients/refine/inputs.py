"""Reads what the steps work on; every file that is wrong is told in one sentence."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from verse import jsonl, verdicts
from verse.records import Candidate, Poem
from verse_clients.errors import InputError

T = TypeVar("T")

_POEM = msgspec.json.Decoder(Poem)
_CANDIDATE = msgspec.json.Decoder(Candidate)


def read_poems(paths: Iterable[Path]) -> list[Poem]:
    """The poet's poems, those without text left out.

    Raises:
        InputError: a file is missing, or a line is no poem, or one that was rejected.
    """
    poems = [poem for path in paths for poem in _read(path, verdicts.scan(path, _POEM))]
    return [poem for poem in poems if poem.text.strip()]


def read_candidates(path: Path) -> list[Candidate]:
    """What `verse generate` wrote; a last line that was cut off is passed over.

    Raises:
        InputError: the file is missing, or a line is no candidate.
    """
    return _read(path, jsonl.scan(path, _CANDIDATE))


def _read(path: Path, scanned: Iterable[tuple[int, T | jsonl.JsonlError]]) -> list[T]:
    records: list[T] = []
    try:
        for _, record in scanned:
            if isinstance(record, jsonl.TornLineError):
                break
            if isinstance(record, jsonl.JsonlError):
                raise InputError(str(record))
            records.append(record)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return records
