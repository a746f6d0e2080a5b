"""Reads rounds and decisions for a report; a step that is still to come leaves its figures out."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from verse.records import Candidate, Decision, PairDecision
from verse_clients.decisions.sources import read_decisions
from verse_clients.generate.inputs import read_candidates
from verse_clients.refine.files import read_poems
from verse_clients.refine.plan import PLAN_FILE, RoundError, read_plan
from verse_clients.refine.rounds import rounds_in
from verse_clients.refine.steps import compared_file, journal_file, written_file


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one round, or of one file of decisions."""

    name: str
    entries: tuple[Decision | PairDecision, ...]
    """What the poet decided, the comparison of the adapters included."""
    written: tuple[str, ...]
    """The poems that models wrote, as they wrote them."""
    training: tuple[str, ...] = ()
    """The poet's own."""


def gather(paths: Sequence[Path], training: Iterable[Path]) -> list[Round]:
    """Read rounds, folders of rounds and files of decisions.

    Args:
        paths: In the order of time.
        training: The poet's poems, for files that belong to no round.

    Raises:
        UserError: one of them is missing or something else, or nothing was decided in any.
    """
    own = tuple(poem.text for poem in read_poems(training) if poem.origin == "poet")
    rounds = [one for path in paths for one in _read(path, own)]
    if not any(one.entries for one in rounds):
        places = ", ".join(map(str, paths))
        raise RoundError(f"There are no decisions in {places} yet; make some with `verse curate`.")
    return rounds


def _read(path: Path, training: tuple[str, ...]) -> list[Round]:
    if not path.is_dir():
        return [_file(path, training)]
    if (path / PLAN_FILE).exists():
        return [_round(path, training)]
    found = rounds_in(path)
    if not found:
        raise RoundError(f"{path} holds no round; name a round's folder or a file of decisions.")
    return [_round(folder, training) for folder in found]


def _file(path: Path, training: tuple[str, ...]) -> Round:
    entries = read_decisions([path])
    candidates = [entry.candidate for entry in entries if isinstance(entry, Decision)]
    return Round(
        name=path.stem if path.stem != "decisions" else str(path.parent / path.stem),
        entries=tuple(entries),
        written=_texts(candidates),
        training=training,
    )


def _round(folder: Path, training: tuple[str, ...]) -> Round:
    plan = read_plan(folder)
    poems, written = Path(plan.poems), written_file(folder)
    journals = [p for p in (journal_file(folder), _compared_journal(folder)) if p.exists()]
    own = [p.text for p in read_poems([poems]) if p.origin == "poet"] if poems.exists() else []
    return Round(
        name=folder.name,
        entries=tuple(read_decisions(journals)),
        written=_texts(read_candidates(written)) if written.exists() else (),
        training=training or tuple(own),
    )


def _compared_journal(folder: Path) -> Path:
    return journal_file(compared_file(folder).parent)


def _texts(candidates: Iterable[Candidate]) -> tuple[str, ...]:
    """Each poem once, however often it was decided about."""
    poems = {candidate.id: candidate.text for candidate in candidates}
    return tuple(text for text in poems.values() if text.strip())
