"""Decisions from several files as one: journals, and the original project's lists."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from verse.records import Decision, PairDecision
from verse_clients.decisions import seed_list
from verse_clients.decisions.errors import JournalError
from verse_clients.decisions.journal import read_journal
from verse_clients.decisions.replay import Replay
from verse_clients.decisions.sources import past_decisions, read_items

_NO_TIME = datetime.fromtimestamp(0, UTC)
"""The list does not say when; the time of reading would make every export another one."""


def read_decisions(paths: Iterable[Path]) -> list[Decision | PairDecision]:
    """What stands in each file, one file after the other; the last word on a poem counts.

    Raises:
        JournalError: a file is missing, or holds no decisions.
        SourceError: a list holds no poems.
    """
    return [entry for path in paths for entry in _read(path)]


def _read(path: Path) -> list[Decision | PairDecision]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error.strerror}.") from error
    if not seed_list.decode(content):
        # Undo counts places within its own file, so each file is replayed by itself.
        return list(Replay(read_journal(path)).standing())
    past = past_decisions(read_items([path]), _NO_TIME)
    if not past:
        raise JournalError(f"{path} is a list of poems about which nothing was decided yet.")
    return list(past)
