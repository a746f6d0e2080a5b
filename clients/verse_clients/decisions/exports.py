"""What the decisions become: rows to learn from, pairs to prefer by, and a book.

All of it follows from the journal, and the list of the original project from that list. The same
journal gives the same bytes, on any machine.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from verse.atomic_file import replace_file
from verse.prompt import Message
from verse.records import (
    JournalEntry,
    TrainingExample,
)
from verse.replay import Replay, accepted_poems, final_text, rejected_poems
from verse_clients.decisions import DecisionsError
from verse_clients.decisions.original_list import lists_among, seed_list
from verse_clients.decisions.preferences import preference_pairs
from verse_clients.markdown import book


def training_examples(replay: Replay) -> Iterator[TrainingExample]:
    """Accepted poems, in the poet's version, as answers to their themes."""
    for verdict in replay.accepted():
        yield TrainingExample(
            messages=(
                Message("user", verdict.candidate.theme),
                Message("assistant", final_text(verdict)),
            ),
            source=verdict.candidate.id,
            origin="edited" if verdict.action == "edit" else "accepted",
        )


def chapbook(replay: Replay) -> str:
    """Accepted poems as Markdown, by theme, line breaks kept."""
    return book("诗集", ((poem.theme, poem.text) for poem in accepted_poems(replay)))


def files(entries: Iterable[JournalEntry], lists: Sequence[bytes] = ()) -> dict[str, bytes]:
    """All exports: file name to content.

    Args:
        entries: The journal.
        lists: What the original project's lists held that poems came from; every row of them comes
            back.
    """
    replay = Replay(entries)
    return {
        "sft.jsonl": _lines(training_examples(replay)),
        "pairs.jsonl": _lines(preference_pairs(replay)),
        "rejected.jsonl": _lines(rejected_poems(replay)),
        "updated_overall_poems.json": seed_list(replay.verdicts(), lists),
        "chapbook.md": chapbook(replay).encode(),
    }


KINDS = MappingProxyType(
    {
        "sft": "sft.jsonl",
        "pairs": "pairs.jsonl",
        "rejected": "rejected.jsonl",
        "list": "updated_overall_poems.json",
        "chapbook": "chapbook.md",
    }
)


def export(
    entries: Iterable[JournalEntry],
    folder: Path,
    kinds: Sequence[str],
    poems: Iterable[Path] = (),
) -> list[Path]:
    """Write exports into a folder, each file at once or not at all.

    Args:
        entries: The journal.
        folder: Made if it is not there.
        kinds: Some of `KINDS`.
        poems: The files that the poems came from.

    Raises:
        DecisionsError: the folder cannot be written.
    """
    contents = files(entries, lists_among(poems))
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind in kinds:
            path = folder / KINDS[kind]
            replace_file(path, [contents[KINDS[kind]]])
            written.append(path)
    except OSError as error:
        raise DecisionsError(f"{folder} cannot be written: {error.strerror}.") from error
    return written


def _lines(records: Iterable[msgspec.Struct]) -> bytes:
    return msgspec.json.Encoder().encode_lines(list(records))
