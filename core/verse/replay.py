"""What counts of a journal of decisions. The one place that knows what undo means.

Every entry has a place, counted from 1. An `Undo` takes one entry back; undoing an undo brings it
again. So nothing is ever erased, and undo reaches back over restarts without a limit.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from verse import UserError
from verse.records import Candidate, Decision, JournalEntry, PairDecision, Poem, Undo


class ReplayError(UserError):
    """The entries of a journal do not fit together."""


IMPORTED = "imported"
"""The session id of decisions that another program's file brought; undo does not reach them."""


def is_blind(entry: Decision | PairDecision) -> bool:
    """Whether the poet could not know where a poem comes from or what a judge thinks of it.

    A journal that does not say in which order the poems were shown was written beside a window that
    numbered them by their place in the file, which in a judged file is the rank, and that named the
    source of the poem decided before. Nothing in it counts as blind.
    """
    return entry.blind and entry.order is not None


def last_comparisons(pairs: Iterable[PairDecision]) -> list[PairDecision]:
    """Of each two poems the last comparison, whichever side they stood on."""
    return list({frozenset((pair.left.id, pair.right.id)): pair for pair in pairs}.values())


class Replay:
    """The state behind a journal, kept up to date entry by entry."""

    def __init__(self, entries: Iterable[JournalEntry] = ()) -> None:
        """Start from a journal's entries, in order."""
        self.entries: list[JournalEntry] = []
        self._counts: list[bool] = []
        self._places: dict[str, list[int]] = defaultdict(list)
        self._verdicts: dict[str, Decision] = {}
        self._stars: dict[str, int] = {}
        for entry in entries:
            self.apply(entry)

    def apply(self, entry: JournalEntry) -> None:
        """Take in the next entry of the journal.

        Raises:
            ReplayError: an undo of something that is not behind it.
        """
        self.entries.append(entry)
        self._counts.append(True)
        if isinstance(entry, Undo):
            self._take_back(entry)
        elif isinstance(entry, Decision):
            self._places[entry.candidate.id].append(len(self.entries) - 1)
            self._refresh(entry.candidate.id)

    def verdict(self, poem: str) -> Decision | None:
        """The last decision about a poem that stands; a skip is one, stars alone are none."""
        return self._verdicts.get(poem)

    def stars(self, poem: str) -> int | None:
        """The last stars that stand, 1 to 5."""
        return self._stars.get(poem)

    def verdicts(self) -> Iterator[Decision]:
        """One decision per poem, in the order of the journal."""
        yield from (
            entry
            for entry in self.in_effect()
            if isinstance(entry, Decision) and self._verdicts.get(entry.candidate.id) is entry
        )

    def accepted(self) -> Iterator[Decision]:
        """The acceptances that stand, edits included, in the order of the journal."""
        return (v for v in self.verdicts() if v.action in ("accept", "edit"))

    def pairs(self) -> Iterator[PairDecision]:
        """The comparisons that stand, in the order of the journal."""
        yield from (entry for entry in self.in_effect() if isinstance(entry, PairDecision))

    def in_effect(self) -> Iterator[Decision | PairDecision]:
        """All decisions that were not taken back, in the order of the journal."""
        for entry, counts in zip(self.entries, self._counts, strict=True):
            if counts and not isinstance(entry, Undo):
                yield entry

    def was_seen(self, poem: str) -> bool:
        """Whether the poet ever acted on it when it was not blind, even if that was taken back."""
        entries = (self.entries[place] for place in self._places.get(poem, ()))
        return any(isinstance(entry, Decision) and not is_blind(entry) for entry in entries)

    def undo_place(self) -> int | None:
        """The place, from 1, of what `undo` takes back next; None at the start."""
        for place in range(len(self.entries) - 1, -1, -1):
            entry = self.entries[place]
            if self._counts[place] and not isinstance(entry, Undo) and entry.session != IMPORTED:
                return place + 1
        return None

    def redo_place(self) -> int | None:
        """The place, from 1, of the undo that `redo` takes back; a new decision ends redoing."""
        for place in range(len(self.entries) - 1, -1, -1):
            entry = self.entries[place]
            if not isinstance(entry, Undo):
                return None
            if self._counts[place] and not isinstance(self.entries[entry.undone - 1], Undo):
                return place + 1
        return None

    def entry(self, place: int) -> JournalEntry:
        """The entry at a place, from 1."""
        return self.entries[place - 1]

    def behind(self, undo: Undo) -> Decision | PairDecision:
        """The decision that an undo, or an undo of an undo, is about."""
        entry: JournalEntry = undo
        while isinstance(entry, Undo):
            entry = self.entries[entry.undone - 1]
        return entry

    def _take_back(self, undo: Undo) -> None:
        if undo.undone >= len(self.entries):
            raise ReplayError(
                f"Entry {len(self.entries)} of the decisions takes back entry {undo.undone}, "
                "which does not come before it."
            )
        self._set(undo.undone - 1, counts=False)

    def _set(self, index: int, *, counts: bool) -> None:
        self._counts[index] = counts
        entry = self.entries[index]
        if isinstance(entry, Undo):
            self._set(entry.undone - 1, counts=not counts)
        elif isinstance(entry, Decision):
            self._refresh(entry.candidate.id)

    def _refresh(self, poem: str) -> None:
        self._verdicts.pop(poem, None)
        self._stars.pop(poem, None)
        for place in self._places[poem]:
            entry = self.entries[place]
            if not self._counts[place] or not isinstance(entry, Decision):
                continue
            if entry.stars is not None:
                self._stars[poem] = entry.stars
            if entry.action != "rate":
                self._verdicts[poem] = entry


def final_text(decision: Decision) -> str:
    """The poem in the poet's version, or as the model wrote it."""
    return decision.candidate.text if decision.text is None else decision.text


def rejected_poems(replay: Replay) -> Iterator[Candidate]:
    """Rejected poems as the models wrote them."""
    return (v.candidate for v in replay.verdicts() if v.action == "reject")


def accepted_poems(replay: Replay) -> Iterator[Poem]:
    """Accepted poems, in the poet's version."""
    for verdict in replay.accepted():
        yield Poem(
            theme=verdict.candidate.theme,
            text=final_text(verdict),
            source=verdict.candidate.id,
            origin="edited" if verdict.action == "edit" else "accepted",
        )
