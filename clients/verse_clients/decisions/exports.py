"""What the decisions become: rows to learn from, pairs to prefer by, and a book.

All of it follows from the journal alone. The same journal gives the same bytes, on any machine.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from verse.atomic_file import replace_file
from verse.prompt import Message
from verse.records import (
    Decision,
    JournalEntry,
    TrainingExample,
)
from verse.replay import Replay, accepted_poems, final_text, rejected_poems
from verse_clients.decisions import DecisionsError
from verse_clients.decisions.preferences import preference_pairs
from verse_clients.decisions.sources import SeedPoem
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


def seed_list(decisions: Iterable[Decision]) -> bytes:
    """Write decided poems as the flat list; themes and poems are numbered as they come."""
    poems = msgspec.to_builtins(list(_numbered(list(decisions))))
    return msgspec.json.format(msgspec.json.encode(poems), indent=4) + b"\n"


def files(entries: Iterable[JournalEntry]) -> dict[str, bytes]:
    """All exports: file name to content."""
    replay = Replay(entries)
    decided = [v for v in replay.verdicts() if v.action != "skip"]
    return {
        "sft.jsonl": _lines(training_examples(replay)),
        "pairs.jsonl": _lines(preference_pairs(replay)),
        "rejected.jsonl": _lines(rejected_poems(replay)),
        "updated_overall_poems.json": seed_list(decided),
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


def export(entries: Iterable[JournalEntry], folder: Path, kinds: Sequence[str]) -> list[Path]:
    """Write exports into a folder, each file at once or not at all.

    Raises:
        DecisionsError: the folder cannot be written.
    """
    contents = files(entries)
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


def _numbered(decisions: Sequence[Decision]) -> Iterator[SeedPoem]:
    outer: dict[str, int] = {}
    inner: dict[str, int] = defaultdict(int)
    for number, decision in enumerate(decisions):
        candidate = decision.candidate
        yield SeedPoem(
            id=number,
            adaptor=candidate.adapter or "",
            outer_idx=outer.setdefault(candidate.theme, len(outer)),
            inner_idx=inner[candidate.theme],
            image=candidate.theme,
            response=candidate.text if decision.text is None else decision.text,
            accepted=decision.action in ("accept", "edit"),
            edited=decision.action == "edit",
            deleted=decision.action == "reject",
        )
        inner[candidate.theme] += 1


def _lines(records: Iterable[msgspec.Struct]) -> bytes:
    return msgspec.json.Encoder().encode_lines(list(records))
