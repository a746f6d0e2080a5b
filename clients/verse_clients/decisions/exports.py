"""What the decisions become: rows to learn from, pairs to prefer by, and a book.

All of it follows from the journal alone. The same journal gives the same bytes, on any machine.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec
from rapidfuzz import fuzz

from verse.atomic_file import replace_file
from verse.prompt import Message
from verse.records import Candidate, Decision, JournalEntry, Poem, PreferencePair, TrainingExample
from verse_clients.decisions import seed_list
from verse_clients.decisions.errors import DecisionsError
from verse_clients.decisions.replay import Replay
from verse_clients.markdown_verse import book

_MAX_PAIRS = 4
"""Of one poem in accepted-over-rejected pairs, so that no poem speaks louder than the others."""
_MAX_LENGTH_RATIO = 1.5
"""Beyond it a pair teaches length, not poetry."""
_MAX_LIKENESS = 90.0
"""Percent; two poems this much alike teach nothing when one was rejected."""


def training_examples(replay: Replay) -> Iterator[TrainingExample]:
    """Accepted poems, in the poet's version, as answers to their themes."""
    for verdict in _taken(replay):
        yield TrainingExample(
            messages=(
                Message("user", verdict.candidate.theme),
                Message("assistant", _final(verdict)),
            ),
            source=verdict.candidate.id,
            origin="edited" if verdict.action == "edit" else "accepted",
        )


def preference_pairs(replay: Replay) -> Iterator[PreferencePair]:
    """The poet's version over the model's, the winners side by side, accepted over rejected."""
    yield from _edited_pairs(replay)
    yield from _compared_pairs(replay)
    yield from _accepted_pairs(replay)


def rejected_poems(replay: Replay) -> Iterator[Candidate]:
    """Rejected poems as the models wrote them."""
    return (v.candidate for v in replay.verdicts() if v.action == "reject")


def accepted_poems(replay: Replay) -> Iterator[Poem]:
    """Accepted poems, in the poet's version."""
    for verdict in _taken(replay):
        yield Poem(
            theme=verdict.candidate.theme,
            text=_final(verdict),
            source=verdict.candidate.id,
            origin="edited" if verdict.action == "edit" else "accepted",
        )


def chapbook(replay: Replay) -> str:
    """Accepted poems as Markdown, by theme, line breaks kept."""
    return book("诗集", ((poem.theme, poem.text) for poem in accepted_poems(replay)))


def files(entries: Iterable[JournalEntry]) -> dict[str, bytes]:
    """All exports: file name to content."""
    replay = Replay(entries)
    decided = [v for v in replay.verdicts() if v.action != "skip"]
    return {
        "sft.jsonl": _lines(training_examples(replay)),
        "pairs.jsonl": _lines(preference_pairs(replay)),
        "rejected.jsonl": _lines(rejected_poems(replay)),
        "updated_overall_poems.json": seed_list.encode(decided),
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


def _taken(replay: Replay) -> Iterator[Decision]:
    return (v for v in replay.verdicts() if v.action in ("accept", "edit"))


def _final(verdict: Decision) -> str:
    return verdict.candidate.text if verdict.text is None else verdict.text


def _edited_pairs(replay: Replay) -> Iterator[PreferencePair]:
    for verdict in _taken(replay):
        candidate = verdict.candidate
        if verdict.text is not None and verdict.text != candidate.text:
            yield PreferencePair(
                prompt=candidate.theme,
                chosen=verdict.text,
                rejected=candidate.text,
                chosen_source=candidate.id,
                rejected_source=candidate.id,
                reason="edited",
            )


def _compared_pairs(replay: Replay) -> Iterator[PreferencePair]:
    # The last word on a pair counts, whichever side its poems stood on.
    last = {frozenset((pair.left.id, pair.right.id)): pair for pair in replay.pairs()}
    for pair in last.values():
        if pair.verdict in ("left", "right"):
            better, worse = pair.left, pair.right
            if pair.verdict == "right":
                better, worse = worse, better
            yield PreferencePair(
                prompt=better.theme,
                chosen=better.text,
                rejected=worse.text,
                chosen_source=better.id,
                rejected_source=worse.id,
                reason="compared",
            )


def _accepted_pairs(replay: Replay) -> Iterator[PreferencePair]:
    rejected: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in rejected_poems(replay):
        rejected[candidate.theme].append(candidate)
    uses: Counter[str] = Counter()
    for poem in accepted_poems(replay):
        for other in rejected[poem.theme]:
            if max(uses[poem.source], uses[other.id]) < _MAX_PAIRS and _teaches(poem, other):
                uses.update((poem.source, other.id))
                yield PreferencePair(
                    prompt=poem.theme,
                    chosen=poem.text,
                    rejected=other.text,
                    chosen_source=poem.source,
                    rejected_source=other.id,
                    reason="accepted",
                )


def _teaches(chosen: Poem, rejected: Candidate) -> bool:
    short, long = sorted((len(chosen.text), len(rejected.text)))
    return (
        long <= _MAX_LENGTH_RATIO * short and fuzz.ratio(chosen.text, rejected.text) < _MAX_LIKENESS
    )


def _lines(records: Iterable[msgspec.Struct]) -> bytes:
    return msgspec.json.Encoder().encode_lines(list(records))
